"""Whether DICOM slices are a volume, and where it is."""

import itk
import nibabel as nib
import numpy as np
import pytest
from dicom_helpers import change_files, numbers, refused, write_series

from mednextv2.data import choose_series, read_volume

ROTATION = nib.eulerangles.euler2mat(0.3, -0.2, 0.5)
AFFINES = {
    "axial": np.diag([0.8, 0.9, 2.0, 1.0]),
    "scanner": nib.affines.from_matvec(np.diag([-0.98, -0.98, 3.0]), [250.0, 437.0, -804.5]),
    "feet first": nib.affines.from_matvec(np.diag([-0.98, -0.98, -3.0]), [250.0, 437.0, 804.5]),
    "sagittal": nib.affines.from_matvec(np.array([[0, 0, 1.5], [-0.9, 0, 0], [0, -1.1, 0]]), [5.0, -6.0, 7.0]),
    "oblique": nib.affines.from_matvec(ROTATION @ np.diag([0.8, 1.1, 2.5]), [-20.0, 13.0, 40.0]),
}


def world(array, affine):
    """Return a lookup of values by their place in mm, whatever the order of the axes."""
    where = np.indices(array.shape).reshape(3, -1)
    places = np.round((affine[:3, :3] @ where).T + affine[:3, 3], 2) + 0.0
    return {tuple(p): v for p, v in zip(places.tolist(), array.reshape(-1).tolist(), strict=True)}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_voxels_are_where_itks_series_reader_puts_them(tmp_path, affine):
    write_series(tmp_path, numbers(), affine, order=[3, 0, 5, 1, 4, 2])
    array, found = read_volume(tmp_path)
    image = itk.imread(choose_series(tmp_path)[0].files, itk.F)  # ITK wants them sorted along the normal
    lps = np.eye(4)
    lps[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    expected = world(itk.array_from_image(image).T, np.diag([-1, -1, 1, 1]) @ lps)
    assert array.dtype == np.float32
    assert world(array, found) == expected
    assert np.linalg.det(found[:3, :3]) != 0
    assert world(numbers() - 1024.0, affine) == expected


def without(*gone):
    return lambda ds, k: k not in gone


def moved(distance, *which, axis=2):
    def change(ds, k):
        if k in which:
            position = list(ds.ImagePositionPatient)
            position[axis] += distance
            ds.ImagePositionPatient = position

    return change


def lying(ds, k):
    ds.ImagePositionPatient = [ds.ImagePositionPatient[0], ds.ImagePositionPatient[1] + 4.0 * k, 2.0 * k]


def set_in(which, **tags):
    def change(ds, k):
        if k in which:
            for tag, value in tags.items():
                setattr(ds, tag, value)

    return change


def without_tag(tag):
    def change(ds, k):
        if k == 1:
            delattr(ds, tag)

    return change


def palette(ds, k):
    ds.PhotometricInterpretation, ds.PixelRepresentation = "PALETTE COLOR", 0
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [2048, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", np.arange(2048, dtype="<u2").tobytes())


EVERY = range(6)
DEFECTS = {
    "missing slice": (without(2), "lacks slices (1 between IM0001 and IM0003)"),
    "missing slices": (without(2, 3), "lacks slices (2 between IM0001 and IM0004)"),
    "two distances": (moved(2.5, 4, 5), "irregular distances, 2.00 to 4.50 mm"),
    "slightly irregular": (moved(0.3, 3), "irregular distances"),
    "lying slices": (lying, "sheared by 63.4°, more than any gantry"),
    "two patients": (set_in([2], PatientID="P2"), "different patients (IM0000 and IM0002)"),
    "two studies": (set_in([4], StudyInstanceUID="1.2.9"), "different studies (IM0000 and IM0004)"),
    "two frames of reference": (set_in([4], FrameOfReferenceUID="1.2.9"), "different frames of reference"),
    "sideways": (moved(30.0, 2, 3, axis=0), "displaced sideways (IM0002 by 30.0 mm)"),
    "parallel directions": (set_in(EVERY, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "orientation or a pixel"),
    "palette": (palette, "is in colour (PALETTE COLOR"),
    "copies": (moved(-2.0, 3), "several images at one position (among them IM0002, IM0003)"),
    "4D": (lambda ds, k: setattr(ds, "ImagePositionPatient", [0, 0, 2.0 * (k % 3)]), "several images at one position"),
    "two pixel spacings": (set_in([4], PixelSpacing=[0.5, 0.5]), "different pixel spacings (IM0000 and IM0004)"),
    "two orientations": (set_in([4], ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "different orientations"),
    "two sizes": (set_in([4], Rows=9, Columns=7), "different sizes"),
    "one slice": (without(1, 2, 3, 4, 5), "has one slice"),
    "no position": (without_tag("ImagePositionPatient"), "has no position and orientation in IM0001"),
    "no spacing": (without_tag("PixelSpacing"), "has no pixel spacing in IM0001"),
    "localizers": (set_in(EVERY, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "is a localizer"),
    "mosaic": (set_in(EVERY, ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"]), "is a mosaic"),
    "no spacing at all": (set_in(EVERY, PixelSpacing=[0, 0.8]), "orientation or a pixel spacing that is not valid"),
    "huge spacing": (
        set_in(EVERY, PixelSpacing=["1e300", "1e300"]),
        "orientation or a pixel spacing that is not valid",
    ),
    "huge directions": (
        set_in(EVERY, ImageOrientationPatient=["1e200", 0, 0, 0, "1e200", 0]),
        "orientation or a pixel",
    ),
    "far away": (set_in(EVERY, ImagePositionPatient=["1e300", 0, 0]), "several images at one position"),
    "no direction": (set_in(EVERY, ImageOrientationPatient=[0, 0, 0, 0, 0, 0]), "orientation or a pixel spacing"),
}


@pytest.mark.parametrize(("change", "text"), DEFECTS.values(), ids=DEFECTS)
def test_a_series_that_is_no_volume_is_refused(tmp_path, change, text):
    write_series(tmp_path, numbers(), change=change)
    assert text in refused(tmp_path)


@pytest.mark.parametrize("step", [0.6, 1.25, 5.0])
@pytest.mark.parametrize("name", ["axial", "oblique"])
def test_positions_with_one_decimal_and_cosines_with_five_are_regular(tmp_path, name, step):
    affine = AFFINES[name].copy()
    affine[:3, 2] *= step / np.linalg.norm(affine[:3, 2])
    affine[:3, 3] += 0.0437
    voxels = numbers((9, 7, 30))
    files = write_series(tmp_path, voxels, affine)

    def rounded(ds, k):
        ds.ImagePositionPatient = [f"{v:.1f}" for v in ds.ImagePositionPatient]
        ds.ImageOrientationPatient = [f"{float(v) + 4e-6 * (-1) ** (k + n):.6f}" for n, v in
                                      enumerate(ds.ImageOrientationPatient)]  # fmt: skip

    change_files(files, rounded)
    array, found = read_volume(tmp_path)
    corners = np.array(list(np.ndindex(2, 2, 2))) * np.subtract(voxels.shape, 1)
    expected = nib.affines.apply_affine(affine, corners)
    places = nib.affines.apply_affine(found, corners)
    apart = np.linalg.norm(places[:, None] - expected[None], axis=-1).min(axis=1)
    assert apart.max() < 0.2
    assert sorted(world(array, np.eye(4)).values()) == sorted((voxels - 1024.0).ravel().tolist())


def test_rounding_hides_no_missing_slice(tmp_path):
    affine = np.diag([0.8, 0.9, 0.6, 1.0])
    files = write_series(tmp_path, numbers((9, 7, 30)), affine)
    change_files(files, lambda ds, k: setattr(ds, "ImagePositionPatient", [0, 0, f"{0.6 * k:.1f}"]))
    files[12].unlink()
    assert "lacks slices (1 between IM0011 and IM0013)" in refused(tmp_path)


def test_rounded_positions_are_regular(tmp_path):
    write_series(tmp_path, numbers(), change=moved(0.02, 1, 4))
    assert read_volume(tmp_path)[0].shape == (9, 7, 6)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL"])
def test_colour_is_refused(tmp_path, kind, planar):
    def rgb(ds, k):
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, kind, planar
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.PixelData = bytes(9 * 7 * 3 + 1)

    write_series(tmp_path, numbers(), change=rgb)
    assert f"is in colour ({kind}, 3 samples a pixel)" in refused(tmp_path)
