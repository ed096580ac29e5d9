import json
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


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        (["anterior", "posterior"], ""),
        (["Anterior", "Posterior", "vessel"], ""),
        (["front", "back"], ""),  # names that the bundle does not have say nothing about the values
        (["posterior"], "a.nii.gz: the segment posterior was submitted with the value 1, and is 2 in this bundle"),
        (["posterior", "anterior"], "submit the mask again with the segments anterior, posterior in this order"),
    ],
)
def test_segments_in_another_order_are_refused(tmp_path, segments, words):
    # as MONAI Label 0.8.5 writes it when 3D Slicer submits a mask with params {"label_info": [...]}
    info = {"name": "a.nii.gz", "label_info": [{"name": n, "idx": i + 1} for i, n in enumerate(segments)]}
    entry = {"image": {"ext": ".nii.gz", "info": {}}, "labels": {"final": {"ext": ".nii.gz", "info": info}}}
    (tmp_path / "datastore_v2.json").write_text(json.dumps({"objects": {"a": entry}}), encoding="utf-8")
    items = given("b", "a", folder=str(tmp_path / "labels" / "final"))
    labels = ["background", "anterior", "posterior"]
    if not words:
        assert choose_cases(items, [], labels).given
        return
    with pytest.raises(InputError, match=words):
        choose_cases(items, [], labels)


@pytest.mark.parametrize("content", ["", "[]", '{"objects": []}', '{"objects": {"a": {"labels": {"final": {}}}}}'])
def test_a_datastore_that_cannot_be_read_is_passed_over(tmp_path, content):
    (tmp_path / "datastore_v2.json").write_text(content, encoding="utf-8")
    assert choose_cases(given("a", folder=str(tmp_path / "labels" / "final")), [], ["background", "liver"]).given
