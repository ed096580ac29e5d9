"""Names of masks, and files that cannot be written."""

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose
from writer_helpers import AFFINES, labels, nifti, with_mask

from mednextv2.errors import InputError, find_input_error
from mednextv2.inference import MaskWriter, SaveMaskd, prepare_inference


def writer_for(mask):
    writer = MaskWriter()
    writer.set_data_array(mask[None])
    writer.set_metadata({})
    return writer


def test_file_appears_under_its_name_only(tmp_path):
    writer_for(labels()).write(tmp_path / "new" / "a.b_seg.nii.gz")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.b_seg.nii.gz"]
    assert np.array_equal(nib.load(tmp_path / "new" / "a.b_seg.nii.gz").dataobj, labels())
    writer_for(labels()).write(str(tmp_path / "c.nii"))
    assert np.array_equal(nib.load(tmp_path / "c.nii").dataobj, labels())


def test_older_mask_is_replaced(tmp_path):
    for mask in (labels() * 0, labels()):
        writer_for(mask).write(tmp_path / "a.nii.gz")
    assert np.array_equal(nib.load(tmp_path / "a.nii.gz").dataobj, labels())


def test_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        writer_for(labels()).write(tmp_path / "file" / "a.nii.gz")
    assert str(caught.value).startswith(f"output_dir {tmp_path / 'file'}: cannot be written (")
    assert "--output_dir" in str(caught.value)


@pytest.fixture
def disk_full(monkeypatch):
    def save(image, path):
        with open(path, "wb") as f:
            f.write(b"some bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", save)


def test_full_disk_leaves_no_part_of_a_file(tmp_path, disk_full):
    with pytest.raises(InputError) as caught:
        writer_for(labels()).write(tmp_path / "a.nii.gz")
    assert "No space left on device" in str(caught.value)
    assert str(tmp_path / "a.nii.gz") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_the_older_mask(tmp_path, monkeypatch, request):
    writer_for(labels()).write(tmp_path / "a.nii.gz")
    before = (tmp_path / "a.nii.gz").read_bytes()
    request.getfixturevalue("disk_full")
    with pytest.raises(InputError):
        writer_for(labels() * 0).write(tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


# --- SaveMaskd -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "settings", "name"),
    [
        ("a.nii.gz", {}, "a_seg.nii.gz"),
        ("a.nii", {}, "a_seg.nii.gz"),
        ("a_0000.nii.gz", {}, "a_seg.nii.gz"),
        ("a_0001.nii.gz", {}, "a_0001_seg.nii.gz"),
        ("a.b_2.nii.gz", {"suffix": "mask"}, "a.b_2_mask.nii.gz"),
    ],
)
def test_mask_is_named_after_its_case(tmp_path, source, settings, name):
    data = with_mask(nifti(tmp_path / source, AFFINES["oblique"]))
    returned = SaveMaskd("pred", tmp_path / "new" / "folder", **settings)(data)
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == [name]
    assert np.array_equal(nib.load(tmp_path / "new" / "folder" / name).get_fdata(), labels())
    assert returned.keys() == data.keys()
    assert all(returned[key] is data[key] for key in data)


def test_full_disk_is_told_to_the_user(tmp_path, request):
    data = with_mask(nifti(tmp_path / "case.nii.gz", np.eye(4)))
    request.getfixturevalue("disk_full")
    with pytest.raises(RuntimeError) as caught:
        Compose([SaveMaskd("pred", tmp_path)])(data)
    assert "No space left on device" in str(find_input_error(caught.value))
    assert str(tmp_path / "case_seg.nii.gz") in str(find_input_error(caught.value))


def test_folder_below_a_file_is_told_to_the_user(tmp_path):
    data = with_mask(nifti(tmp_path / "case.nii.gz", np.eye(4)))
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError) as caught:
        Compose([SaveMaskd("pred", tmp_path / "file" / "masks")])(data)
    assert str(tmp_path / "file" / "masks") in str(find_input_error(caught.value))


def test_masks_go_to_the_folder_that_was_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    prepare_inference([], "~/masks")
    SaveMaskd("pred", "~/masks")(with_mask(nifti(tmp_path / "case.nii.gz", np.eye(4))))
    assert (tmp_path / "masks" / "case_seg.nii.gz").is_file()
