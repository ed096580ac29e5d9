"""What the check tells beside defects."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mednextv2.data import Case, DatasetFolder
from mednextv2.data.check import CaseReport
from mednextv2.data.check_warnings import dataset_warnings, found_labels, missing_classes
from mednextv2.errors import InputError


def reports(*values):
    return [CaseReport(f"c{i}", (), (), value) for i, value in enumerate(values)]


def folder(path, count=2, coded=True, **more):
    cases = []
    for i in range(count):
        image = nib.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4) if coded else None)
        image.header["sform_code"] = image.header["qform_code"] = int(coded)
        nib.save(image, path / f"c{i}.nii.gz")
        cases.append(Case(f"c{i}", (str(path / f"c{i}.nii.gz"),)))
    return DatasetFolder(Path(path), (), {}, tuple(cases), **more)


def test_nothing_is_told_of_a_whole_data_set(tmp_path):
    assert dataset_warnings(folder(tmp_path, declared_cases=2), reports((0, 1), (1,)), ["background", "a"]) == []


def test_another_number_of_cases_than_declared_is_told(tmp_path):
    (text,) = dataset_warnings(folder(tmp_path, declared_cases=60), reports((0, 1), (1,)), ["background", "a"])
    assert text == (
        "dataset.json says that there are 60 cases (numTraining), but 2 are there; was the data set copied as a whole?"
    )


def test_images_without_orientation_are_told(tmp_path):
    (text,) = dataset_warnings(folder(tmp_path, coded=False), reports((0, 1), (1,)), ["background", "a"])
    assert text.startswith("2 files without an orientation (sform_code and qform_code are 0;")
    assert "left and right may be exchanged: c0.nii.gz, c1.nii.gz" in text


def test_a_single_case_and_missing_classes_are_told(tmp_path):
    texts = dataset_warnings(folder(tmp_path, 1), reports((0, 1)), ["background", "a", "b"])
    assert texts == ["no label map has a voxel of b", "1 case cannot be split into folds; train with --fold all"]


@pytest.mark.parametrize(("values", "expected"), [(((0, 1), (2,)), 2), (((1,), (2,)), 2), (((0, 1),), 1)])
def test_labels_are_named_after_their_values(tmp_path, values, expected):
    names = found_labels(folder(tmp_path), reports(*values))
    assert names == ["background", *(f"label {v}" for v in range(1, expected + 1))]


@pytest.mark.parametrize(("values", "words"), [(((0,),), "no|none"), (((0, 3),), r"with gaps \(1, 2\)")])
def test_labels_with_gaps_or_none_are_refused(tmp_path, values, words):
    with pytest.raises(InputError, match=words):
        found_labels(folder(tmp_path), reports(*values))


def test_classes_that_no_case_has():
    assert missing_classes(reports((0, 1), (3,)), ["background", "a", "b", "c"]) == ["b"]
