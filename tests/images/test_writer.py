import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, SaveImaged
from writer_helpers import AFFINES, FIELDS, SHAPE, labels, nifti, voxels, with_mask

from mednextv2.inference import MaskWriter, SaveMaskd


def write_mask(path, folder, mask):
    """Save a mask with MONAI's SaveImaged and our writer, and read it."""
    settings = {"output_postfix": "seg", "output_ext": ".nii.gz", "separate_folder": False, "resample": False}
    SaveImaged(keys="pred", writer=MaskWriter, output_dir=folder, print_log=False, **settings)(with_mask(path, mask))
    return nib.load(folder / f"{path.name.split('.')[0]}_seg.nii.gz")


# --- the geometry of NIfTI sources -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AFFINES)
def test_mask_has_shape_affine_and_header_of_its_source(tmp_path, name):
    path = nifti(tmp_path / "case.nii.gz", AFFINES[name])
    written = write_mask(path, tmp_path, labels())
    source = nib.load(path)
    assert written.shape == source.shape
    assert np.array_equal(written.affine, source.affine)
    assert np.array_equal(written.get_fdata(), labels())
    for field in FIELDS:
        assert np.array_equal(written.header[field], source.header[field]), field
    assert np.array_equal(written.header["pixdim"][:4], source.header["pixdim"][:4])
    assert written.header.get_zooms() == source.header.get_zooms()
    assert written.header.get_xyzt_units() == ("mm", "sec")


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (3, 4), (4, 1)])
def test_codes_of_qform_and_sform_stay(tmp_path, codes):
    path = nifti(tmp_path / "case.nii.gz", AFFINES["oblique flipped"], qform=codes[0], sform=codes[1])
    written, source = write_mask(path, tmp_path, labels()), nib.load(path)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == codes
    assert np.array_equal(written.affine, source.affine)
    for form in ("get_qform", "get_sform"):
        assert np.array_equal(getattr(written, form)(), getattr(source, form)())


def test_qform_that_differs_from_the_sform_stays(tmp_path):
    image = nib.Nifti1Image(voxels(), AFFINES["oblique"])
    image.set_sform(AFFINES["oblique"], 2)
    image.set_qform(AFFINES["flipped"], 1)
    nib.save(image, tmp_path / "case.nii.gz")
    written = write_mask(tmp_path / "case.nii.gz", tmp_path, labels())
    assert np.allclose(written.get_sform(), AFFINES["oblique"], atol=1e-5)
    assert np.allclose(written.get_qform(), AFFINES["flipped"], atol=1e-5)


def test_units_stay(tmp_path):
    path = nifti(tmp_path / "case.nii.gz", AFFINES["anisotropic"], units=("micron", "msec"))
    assert write_mask(path, tmp_path, labels()).header.get_xyzt_units() == ("micron", "msec")


def test_description_stays(tmp_path):
    image = nib.load(nifti(tmp_path / "case.nii.gz", np.eye(4)))
    image.header["descrip"] = b"TE=2.2;sec=41234.5"
    nib.save(image, tmp_path / "with.nii.gz")
    assert write_mask(tmp_path / "with.nii.gz", tmp_path, labels()).header["descrip"] == b"TE=2.2;sec=41234.5"


def test_source_without_compression_and_nifti_2_are_sources_too(tmp_path):
    path = nifti(tmp_path / "case.nii", AFFINES["oblique"])
    assert np.array_equal(write_mask(path, tmp_path, labels()).affine, nib.load(path).affine)
    nib.save(nib.Nifti2Image(voxels(), AFFINES["oblique"]), tmp_path / "two.nii.gz")
    written = write_mask(tmp_path / "two.nii.gz", tmp_path, labels())
    assert np.allclose(written.affine, AFFINES["oblique"], atol=1e-5)
    assert np.array_equal(written.get_fdata(), labels())


@pytest.mark.parametrize(("slope", "inter"), [(2.0, -1024.0), (0.001, 0.0), (1.0, 7.0)])
def test_intensity_scaling_of_the_source_does_not_scale_the_labels(tmp_path, slope, inter):
    path = tmp_path / "case.nii.gz"
    image = nib.Nifti1Image(voxels(), AFFINES["oblique"])
    image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    assert nib.load(path).dataobj.slope == pytest.approx(slope)
    assert nib.load(path).dataobj.inter == inter
    written = write_mask(path, tmp_path, labels())
    assert (written.dataobj.slope, written.dataobj.inter) == (1, 0)
    assert np.array_equal(np.asarray(written.dataobj), labels())
    assert written.get_data_dtype() == np.uint8


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint16])
def test_mask_is_of_bytes_whatever_the_source_is_of(tmp_path, dtype):
    path = nifti(tmp_path / "case.nii.gz", np.eye(4), np.abs(voxels()).astype(dtype))
    written = write_mask(path, tmp_path, labels())
    assert written.get_data_dtype() == np.uint8
    assert written.header["bitpix"] == 8


def test_a_writer_without_a_label_map_says_so(tmp_path):
    with pytest.raises(ValueError, match="call set_data_array first"):
        MaskWriter().write(tmp_path / "mask.nii.gz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("largest", "dtype"), [(255, np.uint8), (256, np.int16), (1000, np.int16)])
def test_more_than_255_labels_need_two_bytes(tmp_path, largest, dtype):
    mask = labels(count=largest)
    mask[0, 0, 0] = largest
    written = write_mask(nifti(tmp_path / "case.nii.gz", np.eye(4)), tmp_path, mask)
    assert written.get_data_dtype() == dtype
    assert np.array_equal(np.asarray(written.dataobj), mask)


def test_display_range_and_extensions_of_the_source_do_not_stay(tmp_path):
    path = nifti(tmp_path / "case.nii.gz", np.eye(4))
    image = nib.load(path)
    image.header["cal_min"], image.header["cal_max"] = -100, 900
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"name of the patient"))
    nib.save(image, tmp_path / "with.nii.gz")
    written = write_mask(tmp_path / "with.nii.gz", tmp_path, labels())
    assert (written.header["cal_min"], written.header["cal_max"]) == (0, 0)
    assert len(written.header.extensions) == 0


def test_channels_of_the_source_are_no_part_of_the_mask(tmp_path):
    path = nifti(tmp_path / "case.nii.gz", AFFINES["oblique"], voxels((*SHAPE, 2)))
    written = write_mask(path, tmp_path, labels())
    assert written.shape == SHAPE
    assert np.array_equal(written.affine, nib.load(path).affine)


def test_first_of_several_channel_files_is_the_source(tmp_path):
    paths = [str(nifti(tmp_path / f"case_000{c}.nii.gz", AFFINES["oblique"])) for c in (0, 1)]
    data = Compose([LoadImaged(keys="image"), EnsureChannelFirstd(keys="image")])({"image": paths})
    data["pred"] = MetaTensor(torch.as_tensor(labels()[None]), meta=data["image"].meta)
    SaveMaskd("pred", tmp_path)(data)
    written = nib.load(tmp_path / "case_seg.nii.gz")
    assert np.array_equal(written.affine, nib.load(paths[0]).affine)
    assert np.array_equal(written.get_fdata(), labels())


def test_mask_of_a_two_dimensional_image_is_two_dimensional(tmp_path):
    path = nifti(tmp_path / "case.nii.gz", np.diag([0.5, 0.7, 1, 1]), voxels((11, 9)))
    written = write_mask(path, tmp_path, labels((11, 9)))
    assert written.shape == (11, 9)
    assert np.array_equal(written.affine, nib.load(path).affine)
    assert np.array_equal(written.get_fdata(), labels((11, 9)))


def test_mask_without_a_source_file_has_the_affine_of_the_metadata(tmp_path):
    pred = MetaTensor(torch.as_tensor(labels()[None]), affine=torch.as_tensor(AFFINES["oblique"]))
    SaveMaskd("pred", tmp_path)({"pred": pred})
    assert list(tmp_path.iterdir()) == []  # an image in memory, whose mask stays there
    pred.meta["filename_or_obj"] = str(tmp_path / "moved_away.nii.gz")
    SaveMaskd("pred", tmp_path)({"pred": pred})
    (file,) = tmp_path.glob("*.nii.gz")
    assert np.allclose(nib.load(file).affine, AFFINES["oblique"])


def test_several_channels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one channel"):
        MaskWriter().set_data_array(torch.zeros(2, *SHAPE))
