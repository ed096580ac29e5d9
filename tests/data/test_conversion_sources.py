"""Files of downloaded data sets are found by their layout; what is something else is refused or counted."""

import numpy as np
import pytest
from source_builders import AFFINE, labels, save

from mednextv2.data.conversion_sources import (
    Found,
    below,
    describe_ignored,
    exclude_known,
    find_root,
    identity,
    list_files,
    list_folders,
    read_labels,
    relabel,
)
from mednextv2.errors import InputError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("inside", ["", "set", "unpacked/set"])
def test_the_folder_is_found_up_to_two_levels_down(inside, tmp_path):
    touch(tmp_path / inside, "imagesTr/a.nii.gz")
    touch(tmp_path, "__MACOSX/imagesTr/._a.nii.gz", ".hidden/imagesTr/a")
    assert find_root(tmp_path, ["imagesTr"], "the folder") == tmp_path / inside
    assert find_root(tmp_path, ["labels", "imagesTr/*.gz"], "the folder") == tmp_path / inside


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a/b/c/imagesTr/x"], "holds a; give the folder of it"),
        ([], "holds nothing; give the folder of it"),
        (["a/imagesTr/x", "b/imagesTr/x"], "holds the data set several times (a, b); give one of these folders"),
        (["data.ZIP", "labels.tar.gz"], "holds data.ZIP, labels.tar.gz, not unpacked; unpack it, then give the folder"),
        (["old/imagesTr3D/x"], "old: is version 3; give the folder of it"),
    ],
)
def test_what_is_not_the_folder_is_refused(files, words, tmp_path):
    touch(tmp_path, *files)
    with pytest.raises(InputError) as caught:
        find_root(tmp_path, ["imagesTr"], "the folder of it", {"imagesTr3D": "is version 3"})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"PK\x03\x04..", "is an archive (zip); unpack it"),
        (b"\x1f\x8b\x08", "is an archive (gzip)"),
        (b"text", "is a file; give"),
    ],
)
def test_files_are_refused_by_what_they_are(head, words, tmp_path):
    (tmp_path / "renamed").write_bytes(head)
    with pytest.raises(InputError) as caught:
        find_root(tmp_path / "renamed", ["imagesTr"], "the folder")
    assert words in str(caught.value)


def test_files_are_listed_by_their_pattern_and_others_ignored(tmp_path):
    touch(tmp_path, "a/s1.nii.gz", "a/1.2.3.nii.gz", "a/._s1.nii.gz", "a/s1.txt", "a/s2/x", "a/s1.nii")
    found = Found()
    assert [*list_files(tmp_path / "a", r"([^.].*)\.nii\.gz", found)] == ["1.2.3", "s1"]
    assert [*list_folders(tmp_path / "a", r"s\d", found)] == ["s2"]
    assert list_files(tmp_path / "missing", r"(.*)", found) == list_folders(tmp_path / "missing", r".*", found) == {}
    assert describe_ignored(found.ignored[:4], tmp_path).startswith(
        "4 files or folders ignored: a/._s1.nii.gz, a/s1.nii, a/"
    )
    with pytest.raises(InputError, match=r"s1\.nii and s1\.nii\.gz are the same case"):
        list_files(tmp_path / "a", r"(s1)\.nii(?:\.gz)?", found)
    assert [path.name for path in below(tmp_path / "a")] == ["1.2.3.nii.gz", "s1.nii", "s1.nii.gz", "s1.txt", "x"]


def test_pairs_are_cases_and_the_rest_is_incomplete(tmp_path):
    found = Found()
    a, b = tmp_path / "a", tmp_path / "b"
    found.add_pairs({"one": a, "two": a}, {"two": b, "three": b})
    assert [(case.name, case.files) for case in found.cases] == [("two", (a, b))]
    assert "has no label map" in found.incomplete["one"]
    assert "has no image" in found.incomplete["three"]
    exclude_known(found, {"two": "is upside down", "four": "is gone"})
    assert (found.cases, found.excluded) == ([], {"two": "is upside down"})


def test_values_are_replaced_all_at_once():
    array = np.array([0, 1, 2, 4, 1], np.uint8)
    assert relabel(array, {1: 2, 2: 1, 4: 3}, "f").tolist() == [0, 2, 1, 3, 2]
    assert relabel(array, identity([1, 2, 3, 4]), "f").tolist() == array.tolist()
    assert relabel(np.array([0, 48], np.uint8), {48: 300}, "f").tolist() == [0, 300]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({1: 1, 2: 2}, "f: has the label values 4, which this data set does not have (it has 1, 2)"),
        ({v: v for v in (1, 3, 5, 6, 7)}, "has the label values 2, 4, which"),
        ({9: 1}, "has the label values 1, 2, 4, which"),
    ],
)
def test_other_values_are_told_with_those_that_there_are(values, words):
    with pytest.raises(InputError) as caught:
        relabel(np.array([0, 1, 2, 4]), values, "f")
    assert words in str(caught.value)


def test_label_maps_are_read_from_files_and_checked(tmp_path):
    file = save(tmp_path / "a.nii.gz", labels((1, 2)).astype(np.float64))
    array, affine = read_labels(file, {1: 5, 2: 6})
    np.testing.assert_array_equal(array, np.array([0, 5, 6])[labels((1, 2))])
    np.testing.assert_allclose(affine, AFFINE)
    with pytest.raises(InputError, match="no labels"):
        read_labels(save(tmp_path / "b.nii.gz", labels((1, 2)) / 2), {1: 1})
