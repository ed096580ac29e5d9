from pathlib import Path

import pytest
from dataset_files import msd, write_json

from mednextv2.data import choose_cases, read_dataset, split_dataset
from mednextv2.errors import InputError


def given(*names, folder="labels/final"):
    return [{"image": f"{name}.nii.gz", "label": f"{folder}/{name}.nii.gz"} for name in names]


def test_the_lists_of_a_split_give_the_split(tmp_path):
    split = split_dataset(read_dataset(write_json(tmp_path, msd([f"case{i}" for i in range(9)]))), 1)
    assert choose_cases(split.training, split.validation) is split
    assert not split.given
    assert split.dataset.path == tmp_path
    assert split.about()["fold"] == 1


def test_given_lists_make_a_split_without_a_fold():
    split = choose_cases(given("a", "b"), given("c"))
    assert split.given
    assert [item["case"] for item in split.training] == ["a", "b"]
    assert split.training[0] == {"image": "a.nii.gz", "label": "labels/final/a.nii.gz", "case": "a"}
    assert [item["case"] for item in split.validation] == ["c"]
    assert [case.name for case in split.dataset.cases] == ["a", "b", "c"]
    assert split.dataset.path == Path("labels/final").absolute()
    about = split.about()
    assert set(about) == {"split", "training", "validation"}
    assert about["training"] == ["a", "b"]


def test_without_validation_cases_those_for_training_are_used():
    split = choose_cases(given("a", "b"), [])
    assert split.validation == split.training
    assert len(split.dataset.cases) == 2


def test_a_list_may_be_given_beside_one_of_the_split(tmp_path):
    split = split_dataset(read_dataset(write_json(tmp_path, msd([f"case{i}" for i in range(9)]))), 0)
    mixed = choose_cases(given("a"), split.validation)
    assert mixed.given
    assert [item["case"] for item in mixed.validation] == [item["case"] for item in split.validation]


def test_channels_and_names_of_cases_are_kept():
    item = {"image": ["t1.nii", "t2.nii"], "label": "seg.nii", "case": "patient"}
    assert choose_cases([item], []).training == [item]


@pytest.mark.parametrize(
    ("training", "validation", "words"),
    [
        ([], given("a"), "train::dataset::data: lists no case to train on; in MONAI Label, submit labels"),
        (["a.nii.gz"], [], "train::dataset::data: has the entry 'a.nii.gz'"),
        ([{"image": "a.nii.gz"}], [], "train::dataset::data: has the entry {'image'"),
        ([{"image": [], "label": "a.nii.gz"}], [], "train::dataset::data: has the entry"),
        (given("a"), [{"image": "a.nii.gz", "label": ""}], "validate::dataset::data: has the entry"),
    ],
)
def test_what_is_no_case_is_refused(training, validation, words):
    with pytest.raises(InputError) as caught:
        choose_cases(training, validation)
    assert str(caught.value).startswith(words)
