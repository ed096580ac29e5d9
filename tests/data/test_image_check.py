"""Images that cannot be used stop a training, or are left out and listed."""

import csv

import numpy as np
import pytest
from image_helpers import save_image, save_images

from mednextv2.data import check_images, read_image_folders
from mednextv2.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Two good images, and one of each defect."""
    good = np.random.default_rng(0).normal(size=(6, 7, 8))
    save_images(tmp_path / "data", 2)
    data = tmp_path / "data"
    save_image(data / "constant.nii.gz", array=np.full((6, 7, 8), 3.0))
    save_image(data / "nan.nii.gz", array=np.where(good > 1, np.nan, good))
    save_image(data / "several.nii.gz", (6, 7, 8, 2))
    whole = (data / "a.nii.gz").read_bytes()
    (data / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    return data


def test_all_defects_are_named_at_once(folder):
    with pytest.raises(InputError) as caught:
        check_images(read_image_folders(folder))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("4 images of 6 cannot be used")
    assert "--defective exclude" in lines[0]
    for line, (name, words) in zip(
        lines[1:],
        [
            ("constant", "is constant"),
            ("nan", "NaN"),
            ("several", "--several_channels split"),
            ("truncated", "cannot be"),
        ],
        strict=True,
    ):
        assert f"{folder / name}.nii.gz: " in line
        assert words in line


def test_defective_images_are_left_out_and_listed(folder, tmp_path):
    sound = check_images(read_image_folders(folder), defective="exclude", output_dir=tmp_path)
    assert [case.name for case in sound.cases] == ["a", "b"]
    with (tmp_path / "left_out.csv").open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [row["case"] for row in rows] == ["constant", "nan", "several", "truncated"]
    assert rows[0]["file"] == str(folder / "constant.nii.gz")
    assert "constant" in rows[0]["reason"]
    (tmp_path / "sound").mkdir()
    check_images(read_image_folders(save_images(tmp_path / "sound", 2)), defective="exclude", output_dir=tmp_path)
    assert not (tmp_path / "left_out.csv").exists()  # the list of an earlier run would be wrong


def test_each_channel_is_checked_alone(tmp_path):
    array = np.random.default_rng(0).normal(size=(6, 7, 8, 2))
    array[..., 1] = 4
    save_image(tmp_path / "a.nii.gz", array=array)
    with pytest.raises(InputError, match=r"a\.nii\.gz \(channel 1\): is constant"):
        check_images(read_image_folders(tmp_path, "split"))
    assert len(check_images(read_image_folders(tmp_path, "split"), defective="exclude").cases) == 1


def test_without_a_check_nothing_is_read(folder):
    dataset = read_image_folders(folder)
    assert check_images(dataset, check_data=False) == dataset


def test_no_image_that_can_be_used_is_an_error(tmp_path):
    save_image(tmp_path / "a.nii.gz", array=np.zeros((6, 7, 8)))
    with pytest.raises(InputError, match="none of its images can be used"):
        check_images(read_image_folders(tmp_path), defective="exclude")
