"""AMOS22: CT is told from MR by number; training and validation are pooled, or kept apart on request."""

import json

import pytest
from converter_runs import converted, description, names, passes_check, record, refused, same_values, truncate
from source_files import labels, save

from mednextv2.data import read_dataset, split_dataset


def test_ct_is_chosen_by_number_in_each_part(tmp_path):
    target = converted("amos22", tmp_path)
    assert passes_check(target) == ["amos_0001", "amos_0008", "amos_0409", "amos_0410"]
    assert names(target / "imagesTs") == ["amos_0002_0000.nii.gz", "amos_0500_0000.nii.gz"]
    assert {*record(target)["excluded"]} == {"amos_0507", "amos_0592", "amos_0600"}
    assert description(target)["channel_names"] == {"0": "CT"}
    assert description(target)["labels"]["prostate/uterus"] == 15
    assert not (target / "splits_final.json").exists()
    same_values(target / "labelsTr/amos_0409.nii.gz", labels(range(1, 16)))


def test_both_modalities_are_not_called_ct(tmp_path):
    target = converted("amos22", tmp_path, "--modality=all")
    assert {"amos_0507", "amos_0592"} < {*passes_check(target)}
    assert description(target)["channel_names"] == {"0": "CT_or_MR"}
    assert record(target)["excluded"] == {}


def test_the_challenges_split_is_kept_on_request(tmp_path):
    target = converted("amos22", tmp_path, "--split=challenge")
    assert json.loads((target / "splits_final.json").read_text()) == [
        {"train": ["amos_0001", "amos_0410"], "val": ["amos_0008", "amos_0409"]}
    ]
    split = split_dataset(read_dataset(target), 0)
    assert [item["case"] for item in split.validation] == ["amos_0008", "amos_0409"]


def test_another_choice_for_the_same_target_is_refused(tmp_path):
    converted("amos22", tmp_path)
    from converter_runs import run

    status, said = run("amos22", tmp_path / "source", tmp_path / "target", "--modality=all")
    assert status == 1
    assert "holds a conversion with other options (--modality was ct and is now all)" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: (s / "amos22/labelsVa/amos_0409.nii.gz").unlink(), "imagesVa/amos_0409.nii.gz: has no label map"),
        (
            lambda s: truncate(s / "amos22/imagesTs/amos_0002.nii.gz"),
            "amos22/imagesTs/amos_0002.nii.gz: cannot be read",
        ),
        (
            lambda s: save(s / "amos22/labelsTr/amos_0001.nii.gz", labels((16,))),
            "amos_0001.nii.gz: has the label values 16",
        ),
    ],
)
def test_defects_are_told(change, words, tmp_path):
    assert words in refused("amos22", tmp_path, change=change)
