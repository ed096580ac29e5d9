"""Label maps in files: what is one, and what is read of it."""

import nibabel as nib
import numpy as np
import pytest

from mednextv2.errors import InputError
from mednextv2.images.label_map_files import as_label_map, distinct_values, read_label_map
from mednextv2.label_scheme import MAX_LABELS

SHAPE = (9, 8, 7)
NAMES = ["background", "front", "back"]
AFFINE = np.diag([0.5, 2.0, 3.0, 1.0])


def voxels(dtype=np.uint8, shape=SHAPE, high=3):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def save(path, array):
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("labels", [NAMES, None])
def test_labels_are_bytes_whatever_the_file_has(tmp_path, dtype, labels):
    found, affine = read_label_map(save(tmp_path / "a.nii.gz", voxels(dtype)), labels)
    assert found.dtype == np.uint8
    assert np.array_equal(found, voxels())
    assert np.array_equal(affine, AFFINE)


@pytest.mark.parametrize(
    ("highest", "count", "dtype"),
    [(255, None, np.uint8), (256, None, np.int16), (3, 256, np.uint8), (3, 257, np.int16), (32767, None, np.int16)],
)
@pytest.mark.parametrize("stored", [np.int32, np.float32])
def test_many_labels_are_two_bytes(highest, count, dtype, stored):
    array = voxels(stored)
    array[0, 0, 0] = highest
    found = as_label_map(array, "a", count and [str(i) for i in range(count)])
    assert found.dtype == dtype
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    ("shape", "spatial_dims", "expected"),
    [
        (SHAPE, None, SHAPE),
        (SHAPE, 3, SHAPE),
        ((*SHAPE, 1), 3, SHAPE),
        ((*SHAPE, 1), None, SHAPE),
        ((9, 8), 2, (9, 8)),
        ((9, 8, 1), 2, (9, 8)),
        ((9, 8), None, (9, 8)),
        ((9, 8, 1), 3, (9, 8, 1)),
    ],
)
def test_an_axis_of_one_channel_is_left_out(shape, spatial_dims, expected):
    assert as_label_map(voxels(shape=shape), "a", NAMES, spatial_dims).shape == expected


def test_a_map_of_bytes_is_not_copied():
    array = voxels()
    assert as_label_map(array, "a", NAMES) is array


@pytest.mark.parametrize(
    ("array", "spatial_dims", "message"),
    [
        (voxels(shape=(9, 8)), 3, r"is 2D \(9×8\); a label map is 3D with one voxel value a class"),
        (voxels(shape=(*SHAPE, 2)), None, r"is 4D \(9×8×7×2\); a label map is 2D or 3D"),
        (voxels(np.complex64), None, "voxels of type complex64; a label map has one whole number each"),
        (voxels(shape=(9, 0, 7)), None, r"has no voxels \(shape 9×0×7\)"),
        (voxels() + 1, None, r"outside the declared labels: 3 \(declared: 0 background, 1 front, 2 back\)"),
        (voxels(np.int16) - 1, None, r"outside the declared labels: -1 \("),
        (voxels(np.float32) / 2, None, r"outside the declared labels: 0.5 \("),
        (np.full(SHAPE, np.nan), None, r"outside the declared labels: nan \("),
        (np.full(SHAPE, np.inf), None, r"outside the declared labels: inf \("),
    ],
)
def test_what_is_no_label_map_is_named(array, spatial_dims, message):
    with pytest.raises(InputError, match=f"^a.nii: .*{message}"):
        as_label_map(array, "a.nii", NAMES, spatial_dims)


@pytest.mark.parametrize("value", [MAX_LABELS, -1, 0.25, np.nan])
def test_labels_that_nothing_declares_are_small_whole_numbers(value):
    array = voxels(np.float64)
    array[1, 2, 3] = value
    with pytest.raises(InputError, match=f"are no labels, which are whole numbers from 0: {value:g}"):
        as_label_map(array, "a")


# --- values ----------------------------------------------------------------------------------------------------------


VALUES = {  # small ones are counted, others sorted
    "bool": [[0, 1], [1, 1]],
    "int8": [[0, 5, 127], [-128, 0, 3]],
    "uint8": [[0, 255, 7]],
    "int16": [[0, 32767], [32766, 2], [-1, 32767], [-32768, 0]],
    ">i2": [[0, 300], [-1, 300]],
    "uint16": [[0, 32767], [32768, 0], [65535, 1]],
    "int64": [[0, 32767], [32768, 0], [-5, 3], [2**62, 0], [-(2**62), 2**62]],
    "uint64": [[0, 32767], [2**63, 0]],
    "float32": [[0, 1, 2], [0.5, -3, 1e9], [np.inf, 0], [np.nan, 0]],
}


@pytest.mark.parametrize(("dtype", "values"), [(dtype, v) for dtype, groups in VALUES.items() for v in groups])
@pytest.mark.parametrize("order", ["C", "F"])
def test_distinct_values_are_those_of_numpy(dtype, values, order):
    array = np.random.default_rng(0).choice(np.array(values, dtype), SHAPE).copy(order)
    for part in (array, array[::2, ::-1]):
        expected = [value + 0 for value in np.unique(part).tolist()]  # True is 1
        assert distinct_values(part) == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


def test_distinct_values_of_nothing_are_none():
    assert distinct_values(np.zeros((0, 3), np.uint8)) == []
