from itertools import product

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
    Spacingd,
)

from mednextv2.errors import InputError, find_input_error
from mednextv2.inference import CheckImaged, MaskWriter, SaveMaskd, find_images, prepare_inference

SHAPE = (11, 9, 7)
ROTATION = nib.eulerangles.euler2mat(0.3, -0.2, 0.5)
AFFINES = {
    "plain": np.eye(4),
    "flipped": nib.affines.from_matvec(np.diag([-1.0, -1.0, 2.0]), [90.0, 126.0, -72.0]),
    "anisotropic": nib.affines.from_matvec(np.diag([0.4, 0.4, 5.0]), [-10.5, 3.25, 100.0]),
    "permuted": nib.affines.from_matvec(np.array([[0, 0, 1.5], [-0.9, 0, 0], [0, 1.1, 0]]), [5.0, -6.0, 7.0]),
    "oblique": nib.affines.from_matvec(ROTATION @ np.diag([0.8, 1.1, 2.5]), [-20.0, 13.0, 40.0]),
    "oblique flipped": nib.affines.from_matvec(ROTATION @ np.diag([-0.8, 1.1, 2.5]), [-20.0, 13.0, 40.0]),
}
FIELDS = (
    "qform_code",
    "sform_code",
    "xyzt_units",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
)


def voxels(shape=SHAPE, dtype=np.int16):
    return np.random.default_rng(0).integers(-200, 200, shape).astype(dtype)


def labels(shape=SHAPE, count=3):
    """A label map without any symmetry, so that a wrong flip shows."""
    return np.random.default_rng(1).integers(0, count, shape)


def nifti(path, affine, array=None, qform=1, sform=2, units=("mm", "sec")):
    image = nib.Nifti1Image(voxels() if array is None else array, affine)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    image.header.set_xyzt_units(*units)
    nib.save(image, path)
    return path


def load(path):
    return Compose([LoadImaged(keys="image"), EnsureChannelFirstd(keys="image")])({"image": str(path)})


def with_mask(path, mask=None):
    """A prediction with the metadata of its image, as Invertd leaves it."""
    data = load(path)
    mask = labels() if mask is None else mask
    data["pred"] = MetaTensor(torch.as_tensor(mask[None].astype(np.float32)), meta=data["image"].meta)
    return data


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
    (file,) = tmp_path.glob("*.nii.gz")
    assert np.allclose(nib.load(file).affine, AFFINES["oblique"])


def test_several_channels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one channel"):
        MaskWriter().set_data_array(torch.zeros(2, *SHAPE))


# --- there and back again: reoriented, resampled, inverted -----------------------------------------------------------


class Threshold(torch.nn.Module):
    """A network that finds voxels above 50."""

    def forward(self, x):
        return torch.cat([50 - x, x - 50], dim=1)


def blob(shape=(24, 20, 16)):
    """An ellipsoid out of the middle, so that a flip shows, with a knob, so that a rotation shows."""
    x, y, z = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    body = ((x - 9) / 6) ** 2 + ((y - 8) / 5) ** 2 + ((z - 9) / 5) ** 2 < 1
    return body | ((abs(x - 15) < 3) & (abs(y - 12) < 3) & (abs(z - 7) < 3))


def segment(path, folder, spacing):
    """Run what configs/inference.yaml runs, with the threshold as network."""
    before = Compose(
        [
            CheckImaged(keys="image"),
            LoadImaged(keys="image", ensure_channel_first=True, dtype=np.float32),
            Orientationd(keys="image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd(keys="image", pixdim=spacing, mode="bilinear"),
        ]
    )
    after = Compose(
        [
            Invertd(keys="pred", transform=before, orig_keys="image", nearest_interp=False),
            AsDiscreted(keys="pred", argmax=True),
            SaveMaskd("pred", folder),
        ]
    )
    sizes = []
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Dataset(find_images(path, ["T1"]), before), batch_size=1),
        network=Threshold(),
        inferer=SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.5, mode="gaussian"),
        postprocessing=after,
    )
    evaluator.add_event_handler(Events.ITERATION_STARTED, lambda e: sizes.append(e.state.batch["image"].shape[2:]))
    evaluator.run()
    return sizes[0], nib.load(folder / f"{path.name.split('.')[0]}_seg.nii.gz")


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.0)])
@pytest.mark.parametrize("name", AFFINES)
def test_mask_of_a_resampled_image_is_in_the_grid_of_the_source(tmp_path, name, spacing):
    path = nifti(tmp_path / "case.nii.gz", AFFINES[name], (100 * blob()).astype(np.int16))
    size, written = segment(path, tmp_path, spacing)
    source = nib.load(path)
    if name != "plain" or spacing != (1, 1, 1):
        assert tuple(size) != source.shape  # or else nothing was resampled
    assert written.shape == source.shape
    assert np.array_equal(written.affine, source.affine)
    for field in FIELDS:
        assert np.array_equal(written.header[field], source.header[field]), field
    assert dice(np.asarray(written.dataobj) == 1, blob()) > (0.75 if name == "anisotropic" else 0.9)


@pytest.mark.parametrize(
    ("name", "spacing"), [("plain", (1, 1, 1)), ("flipped", (1, 1, 2)), ("permuted", (1.5, 0.9, 1.1))]
)
def test_mask_of_a_reoriented_image_is_exact(tmp_path, name, spacing):
    path = nifti(tmp_path / "case.nii.gz", AFFINES[name], (100 * blob()).astype(np.int16))
    _, written = segment(path, tmp_path, spacing)
    assert np.array_equal(np.asarray(written.dataobj), blob())


# --- sources that ITK reads ------------------------------------------------------------------------------------------


def save_itk(path, array, affine):
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / spacing)))
    itk.imwrite(image, str(path))
    return path


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
@pytest.mark.parametrize("name", ["plain", "flipped", "permuted", "oblique"])
def test_mask_of_an_itk_image_lies_where_itk_says(tmp_path, ending, name):
    path = save_itk(tmp_path / f"case{ending}", (100 * blob()).astype(np.int16), AFFINES[name])
    _, written = segment(path, tmp_path, (1.0, 1.0, 1.0))
    source, mask = itk.imread(str(path)), itk.imread(str(tmp_path / "case_seg.nii.gz"))
    assert itk.size(mask) == itk.size(source)
    for corner in product(*[(0, n - 1) for n in blob().shape]):
        expected = list(source.TransformIndexToPhysicalPoint(corner))  # mm to left, posterior, superior
        assert list(mask.TransformIndexToPhysicalPoint(corner)) == pytest.approx(expected, abs=1e-3)
        assert written.affine @ [*corner, 1] == pytest.approx([-expected[0], -expected[1], expected[2], 1], abs=1e-3)
    assert dice(np.asarray(written.dataobj) == 1, blob()) > 0.9


# --- files that cannot be written ------------------------------------------------------------------------------------


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
