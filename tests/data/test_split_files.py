"""Files that prescribe splits."""

import json
import os

import pytest

from mednextv2.data.split_files import Fold, folds_of, read_split_file
from mednextv2.errors import InputError

NAMES = ["a", "b", "c", "d"]


def read(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_split_file(path, NAMES)


def test_nnunets_list_is_read(tmp_path):
    content = [{"train": ["a", "b", "c"], "val": ["d"]}, {"train": ["b", "c", "d"], "val": ["a"]}]
    assert read(tmp_path / "s.json", content) == [Fold(["a", "b", "c"], ["d"]), Fold(["b", "c", "d"], ["a"])]


def test_monais_datalist_with_folds_is_read(tmp_path):
    entries = [
        {"image": "imagesTr/a_0000.nii.gz", "fold": 0}, {"image": ["x/b_0000.nii.gz", "x/b_0001.nii.gz"], "fold": 1},
        {"image": ".\\imagesTr\\c.nii.gz", "fold": 0}, {"case": "d", "fold": 2},
    ]  # fmt: skip
    assert read(tmp_path / "s.json", {"training": entries, "testing": [{"image": "e.nii.gz"}]}) == [
        Fold(["b", "d"], ["a", "c"]), Fold(["a", "c", "d"], ["b"]), Fold(["a", "b", "c"], ["d"]),
    ]  # fmt: skip
    assert folds_of({"a": 1, "b": 0}, "s.json") == [Fold(["a"], ["b"]), Fold(["b"], ["a"])]


def test_monais_datalist_with_a_validation_list_is_one_fold(tmp_path):
    content = {"training": [{"image": "a.nii.gz"}, "b"], "validation": [{"image": "c.nii"}]}
    assert read(tmp_path / "s.json", content) == [Fold(["a", "b"], ["c"])]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is nested more than 50 levels deep"),
        ([], "holds no folds"),
        (3, "holds no folds"),
        ({"training": [{"image": "a.nii.gz"}]}, "holds no folds"),
        ({"training": [{"image": "a.nii.gz", "fold": True}]}, "holds no folds"),
        ({"training": 3}, "holds no folds"),
        ([{"train": ["a"]}], "fold 0 should be"),
        ([{"train": ["a"], "val": [1]}], "fold 0 should be"),
        ([{"train": ["a"], "val": ["z", "y"]}], "names 2 cases that the data set does not have: y, z"),
        ([{"train": ["a", "b"], "val": ["b"]}], "1 cases in training and in validation: b"),
        ([{"train": ["a"], "val": []}], "has no case for validation"),
        ([{"train": [], "val": ["a"]}], "has no case for training"),
        ({"training": [{"fold": 1}]}, "an entry should be"),
    ],
)
def test_files_that_are_no_split_are_refused(tmp_path, content, words):
    with pytest.raises(InputError, match=words) as error:
        read(tmp_path / "s.json", content)
    assert str(tmp_path / "s.json") in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no such file; give a JSON file of splits"):
        read_split_file(tmp_path / "no.json", NAMES)


def test_a_pipe_or_a_device_is_refused_instead_of_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for file in (tmp_path / "pipe.json", "/dev/zero"):
        with pytest.raises(InputError, match="a folder or a device, not a file; give a text file"):
            read_split_file(file, ["a", "b"])


@pytest.mark.parametrize("numbers", [(1, 2, 3), (0, 2), (-1, 0)])
def test_folds_of_a_datalist_that_do_not_count_from_zero_are_refused(numbers, tmp_path):
    entries = [{"image": f"c{k}.nii.gz", "fold": number} for k, number in enumerate(numbers)]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    with pytest.raises(InputError, match=r"list\.json: .* fold numbers .*; number the folds from 0"):
        read_split_file(tmp_path / "list.json", [f"c{k}" for k in range(len(numbers))])
