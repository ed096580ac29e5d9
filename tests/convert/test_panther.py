"""PANTHER: capital folder names, and a number in the name that is no channel."""

import numpy as np
import pytest
from converter_runs import converted, description, names, passes_check, record, refused, run, same_values, truncate
from source_files import labels, save_mha


def test_the_number_in_the_name_belongs_to_the_case(tmp_path):
    target = converted("panther", tmp_path)
    assert passes_check(target) == ["10000_0001", "10001_0001"]
    assert names(target / "imagesTr") == ["10000_0001_0000.nii.gz", "10001_0001_0000.nii.gz"]
    same_values(target / "labelsTr/10000_0001.nii.gz", labels((1, 2)))
    assert description(target)["labels"] == {"background": 0, "tumour": 1, "pancreas": 2}
    assert record(target)["ignored"] == ["PANTHER_Task1/ImagesTr_unlabeled/11000_0001_0000.mha"]


def test_task_2_is_chosen(tmp_path):
    target = converted("panther", tmp_path, "--task=2")
    assert passes_check(target) == ["20000_0001", "20001_0001"]
    assert "MR-Linac" in description(target)["name"]


@pytest.mark.parametrize(("task", "given"), [(1, 2), (2, 1)])
def test_the_folder_of_the_other_task_is_refused(task, given, tmp_path):
    converted("panther", tmp_path)
    folder = tmp_path / f"source/PANTHER_Task{task}"
    status, said = run("panther", folder, tmp_path / "other", f"--task={given}")
    assert status == 1
    assert f"{folder}: is task {task}; give --task {task}" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: (s / "LabelsTr/10001_0001.mha").unlink(), "10001_0001_0000.mha: has no label map"),
        (lambda s: truncate(s / "ImagesTr/10001_0001_0000.mha"), "10001_0001_0000.mha: "),
        (
            lambda s: save_mha(s / "LabelsTr/10001_0001.mha", labels((1, 3)).astype(np.uint8)),
            "LabelsTr/10001_0001.mha: has the label values 3, which this data set does not have (it has 1, 2)",
        ),
    ],
)
def test_defects_are_told(change, words, tmp_path):
    assert words in refused("panther", tmp_path, change=lambda s: change(s / "PANTHER_Task1"))
