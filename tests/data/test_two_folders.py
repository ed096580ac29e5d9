"""Two folders with files of the same names."""

import numpy as np
import pytest
from dataset_files import msd, refused, touch, write_json
from nibabel import Nifti1Image, save

from mednextv2.data import check_dataset, read_dataset
from mednextv2.errors import InputError


def paths(folder, *names):
    return tuple(str(folder / name) for name in names)


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
def test_two_folders_of_equal_names_need_no_dataset_json(tmp_path, images, labels):
    touch(tmp_path, *(f"{folder}/{name}.nii.gz" for folder in (images, labels) for name in ("b", "a", "c")))
    touch(tmp_path, f"{images}/notes.txt", f"{labels}/._a.nii.gz")
    data = read_dataset(tmp_path)
    assert [c.name for c in data.cases] == ["a", "b", "c"]
    assert data.cases[1].images == paths(tmp_path, f"{images}/b.nii.gz")
    assert data.cases[1].label == str(tmp_path / f"{labels}/b.nii.gz")
    assert (data.path, data.channels, data.labels, data.scheme()) == (tmp_path, (), {}, None)
    assert data.highest_label == 0


def test_folder_of_labels_can_be_anywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path, "scans/a.nii.gz", "masks/a.nii.gz")
    expected = (str(tmp_path / "scans/a.nii.gz"),), str(tmp_path / "masks/a.nii.gz")
    for labels_dir in (tmp_path / "masks", "~/masks"):
        (case,) = read_dataset(tmp_path / "scans", labels_dir).cases
        assert (case.images, case.label) == expected


def test_folder_of_labels_counts_more_than_a_dataset_json(tmp_path):
    write_json(tmp_path, msd())
    touch(tmp_path, "x.nii.gz", "masks/x.nii.gz")
    assert [c.name for c in read_dataset(tmp_path, tmp_path / "masks").cases] == ["x"]


def test_missing_folder_of_labels_is_named_with_the_setting(tmp_path):
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(InputError, match=r"labels_dir .*masks: there is no such folder; give it with --labels_dir"):
        read_dataset(tmp_path, tmp_path / "masks")


def test_dataset_json_counts_more_than_two_folders(tmp_path):
    write_json(tmp_path, msd(["listed"]))
    touch(tmp_path, "imagesTr/other.nii.gz", "labelsTr/other.nii.gz")
    assert [c.name for c in read_dataset(tmp_path).cases] == ["listed"]


def test_numbers_behind_the_names_are_channels(tmp_path):
    for name in ("b", "a"):
        touch(tmp_path, *(f"images/{name}_000{c}.nii.gz" for c in (2, 0, 1)), f"labels/{name}.nii.gz")
    data = read_dataset(tmp_path)
    assert data.channels == ("channel 0", "channel 1", "channel 2")
    assert [c.name for c in data.cases] == ["a", "b"]
    assert data.cases[0].images == paths(tmp_path / "images", *(f"a_000{c}.nii.gz" for c in range(3)))


def test_single_channel_may_have_its_number(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    data = read_dataset(tmp_path)
    assert data.channels == ()
    assert (data.cases[0].name, data.cases[0].images) == ("a", paths(tmp_path, "imagesTr/a_0000.nii.gz"))


@pytest.mark.parametrize("unlabelled", [(), ("scan_0002",), ("scan_2024",)])
def test_numbers_of_patients_are_no_channels(tmp_path, unlabelled):
    names = ["scan_0000", "scan_0001", "scan_0003"]
    touch(tmp_path, *(f"images/{n}.nii.gz" for n in (*names, *unlabelled)), *(f"labels/{n}.nii.gz" for n in names))
    data = read_dataset(tmp_path)
    assert data.channels == ()
    assert [c.name for c in data.cases] == sorted([*names, *unlabelled])
    assert all(c.images == paths(tmp_path, f"images/{c.name}.nii.gz") for c in data.cases)


def test_image_and_label_may_be_of_different_formats(tmp_path):
    touch(tmp_path, "images/a.mha", "labels/a.nii.gz", "images/b.nii", "labels/b.nrrd", "images/c_0000.NII.GZ")
    touch(tmp_path, "labels/c.nii")
    found = {c.name: (c.images, c.label) for c in read_dataset(tmp_path).cases}
    assert found == {
        "a": (paths(tmp_path, "images/a.mha"), str(tmp_path / "labels/a.nii.gz")),
        "b": (paths(tmp_path, "images/b.nii"), str(tmp_path / "labels/b.nrrd")),
        "c": (paths(tmp_path, "images/c_0000.NII.GZ"), str(tmp_path / "labels/c.nii")),
    }


@pytest.mark.parametrize("folder", ["images", "labels"])
@pytest.mark.parametrize("one", ["a.nii.gz", "a.mha"])
def test_two_files_of_one_case_are_refused(tmp_path, folder, one):
    other_case = "a.mn.nii"  # between a.mha and a.nii in the order of file names
    for name in ("a.nii", other_case):
        touch(tmp_path, f"images/{name}", f"labels/{name}")
    touch(tmp_path, f"{folder}/{one}")
    first, second = sorted(["a.nii", one])
    message = refused(tmp_path)
    assert message == f"{tmp_path / folder}: {first} and {second} are the same case; remove one"


def test_image_with_and_without_the_number_of_its_channel_is_refused(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "images/a_0000.nii.gz", "labels/a.nii.gz")
    message = refused(tmp_path)
    assert f"{tmp_path / 'images'}: a.nii.gz and a_0000.nii.gz are the same image; remove one" in message


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ("images/half_0000", "images/half_0000.nii.gz"),
        ("images/half_0001", "images/half_0001.nii.gz"),
        ("labels/half", "labels/half.nii.gz"),
    ],
)
def test_missing_partner_of_two_folders_is_found_by_the_check(tmp_path, left_out, missing):
    volume = np.random.default_rng(0).integers(0, 2, (4, 4, 4)).astype(np.uint8)
    for case in ("half", "whole"):
        for name in (f"images/{case}_0000", f"images/{case}_0001", f"labels/{case}"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            if name != left_out:
                save(Nifti1Image(volume, np.eye(4)), tmp_path / f"{name}.nii.gz")
    data = read_dataset(tmp_path)
    assert [c.name for c in data.cases] == ["half", "whole"]
    with pytest.raises(InputError, match="1 defect:") as caught:
        check_dataset(data.cases, None, data.channels)
    assert f"{tmp_path / missing}: there is no such file" in str(caught.value)


@pytest.mark.parametrize(("image", "label"), [("lonely", None), (None, "lonely")])
def test_missing_partner_of_a_single_channel_is_found_by_the_check(tmp_path, image, label):
    volume = np.random.default_rng(0).integers(0, 2, (4, 4, 4)).astype(np.uint8)
    for folder, name in (("images", "whole"), ("labels", "whole"), ("images", image), ("labels", label)):
        (tmp_path / folder).mkdir(exist_ok=True)
        if name:
            save(Nifti1Image(volume, np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    data = read_dataset(tmp_path)
    with pytest.raises(InputError, match="1 defect:") as caught:
        check_dataset(data.cases, None, ["image"])
    assert f"{tmp_path / ('labels' if image else 'images') / 'lonely.nii.gz'}: there is no such" in str(caught.value)


def test_folder_without_images_is_refused(tmp_path):
    touch(tmp_path, "images/a.txt", "labels/a.nii.gz")
    assert f"{tmp_path / 'images'}: holds no images (.nii.gz, .nii" in refused(tmp_path)
    touch(tmp_path, "images/b.png")
    assert f"{tmp_path / 'images' / 'b.png'}: is a picture, which does not say how large" in refused(tmp_path)
