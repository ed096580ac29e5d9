"""Sampling of patches: what their voxels and labels are, and what is read for them."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from sampling_helpers import assert_same, interpolate, make_case, random_matrix, vote

from mednextv2.transforms import sampling
from mednextv2.transforms.sampling import extract_patch
from mednextv2.transforms.spatial import RandPlacement, placement_matrix

ALMOST_ONE = 1 + 1e-12  # the same offsets as the identity in float32, but sampled


def crop(array, centre, patch, fill):
    """Pad far on all sides, then slice."""
    far = 45
    padded = np.pad(array, [(0, 0)] + [(far, far)] * len(patch), constant_values=fill)
    start = [far + c - p // 2 for c, p in zip(centre, patch, strict=True)]
    return padded[(slice(None), *(slice(s, s + p) for s, p in zip(start, patch, strict=True)))]


# plain crops


@pytest.mark.parametrize("patch", [(4, 5), (5, 4), (1, 2), (12, 13), (30, 7)])
@pytest.mark.parametrize("centre", list(product([0, 1, 5, 9], [0, 2, 6, 10])))
def test_plain_patch_is_a_slice_of_the_padded_volume_in_2d(patch, centre):
    image, label = make_case((10, 11), channels=2)
    voxels, labels = extract_patch(image, label, centre, patch, fill_label=-1)
    assert_same(voxels, crop(image, centre, patch, 0))
    assert_same(labels, crop(label, centre, patch, -1))


@pytest.mark.parametrize("patch", [(4, 4, 4), (5, 3, 7), (12, 4, 9), (15, 16, 17)])
@pytest.mark.parametrize("centre", [(0, 0, 0), (8, 9, 6), (4, 5, 3), (0, 9, 3), (-20, 40, 3)])
def test_plain_patch_is_a_slice_of_the_padded_volume_in_3d(patch, centre):
    image, label = make_case((9, 10, 7))
    voxels, labels = extract_patch(image, label, centre, patch, fill_label=-1)
    assert_same(voxels, crop(image, centre, patch, 0))
    assert_same(labels, crop(label, centre, patch, -1))


@pytest.mark.parametrize("matrix", [None, np.eye(3), np.diag([1, 1, 1.25]), random_matrix(3, 0)])
def test_patches_are_contiguous_and_share_no_memory_with_the_volume(matrix):
    image, label = make_case((9, 9, 9), channels=2)
    before = image.copy(), label.copy()
    voxels, labels = extract_patch(image, label, (4, 4, 4), (6, 5, 4), matrix)
    assert (voxels.shape, voxels.dtype) == ((2, 6, 5, 4), torch.float32)
    assert (labels.shape, labels.dtype) == ((1, 6, 5, 4), torch.int16)
    assert voxels.is_contiguous()
    assert labels.is_contiguous()
    voxels.fill_(7)
    labels.fill_(7)
    assert_same(torch.from_numpy(image), before[0])
    assert_same(torch.from_numpy(label), before[1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("matrix", [None, random_matrix(3, 1)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("label_dtype", [np.int8, np.uint8, np.int16])
def test_memory_maps_of_all_stored_types_give_the_same_patch(tmp_path, matrix, dtype, label_dtype):
    image, label = make_case((9, 10, 11), channels=2, dtype=np.float16)
    np.save(tmp_path / "image.npy", image.astype(dtype))
    np.save(tmp_path / "label.npy", label.astype(label_dtype))
    maps = [np.load(tmp_path / name, mmap_mode="r") for name in ("image.npy", "label.npy")]
    found = extract_patch(*maps, (2, 5, 8), (6, 6, 6), matrix, fill_label=-1)
    expected = extract_patch(image.astype(np.float32), label, (2, 5, 8), (6, 6, 6), matrix, fill_label=-1)
    assert all(map(torch.equal, found, expected))


# geometry


@pytest.mark.parametrize(("shape", "patch"), [((9, 10, 8), (5, 6, 4)), ((9, 8), (6, 7)), ((7, 8, 9), (12, 12, 12))])
@pytest.mark.parametrize("corner", [0, 0.5, 1])
def test_sampling_with_the_identity_is_the_plain_crop_to_the_last_bit(shape, patch, corner):
    image, label = make_case(shape, channels=2)
    centre = tuple(int(corner * (n - 1)) for n in shape)
    for matrix in (np.eye(len(shape)), np.eye(len(shape)) * ALMOST_ONE):
        found = extract_patch(image, label, centre, patch, matrix, fill_label=-1)
        assert all(map(torch.equal, found, extract_patch(image, label, centre, patch, fill_label=-1)))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("turns", [-1, 1, 2])
def test_quarter_turns_are_those_of_numpy_to_the_last_bit(axis, turns):
    image, label = make_case((15, 15, 15), channels=2)
    angles = np.eye(3)[axis] * turns * math.pi / 2
    found = extract_patch(image, label, (7, 6, 8), (9, 9, 9), placement_matrix(angles))
    plane = (1 + (axis + 1) % 3, 1 + (axis + 2) % 3)
    for patch, volume in zip(found, (image, label), strict=True):
        assert_same(patch, np.rot90(crop(volume, (7, 6, 8), (9, 9, 9), 0), -turns, plane))


@pytest.mark.parametrize("turns", [-1, 1, 2])
def test_quarter_turns_in_2d_are_those_of_numpy(turns):
    image, label = make_case((13, 14))
    found = extract_patch(image, label, (6, 7), (9, 9), placement_matrix([turns * math.pi / 2]))
    for patch, volume in zip(found, (image, label), strict=True):
        assert_same(patch, np.rot90(crop(volume, (6, 7), (9, 9), 0), -turns, (1, 2)))


@pytest.mark.parametrize("patch", [(6, 5, 4), (7, 8, 3)])
def test_scale_2_shows_every_second_voxel(patch):
    image, label = make_case((20, 21, 19), channels=2)
    centre = (10, 9, 8)
    found = extract_patch(image, label, centre, patch, placement_matrix((0, 0, 0), 2.0))
    box = tuple(slice(c - 2 * (p // 2), c + 2 * (p - p // 2), 2) for c, p in zip(centre, patch, strict=True))
    assert_same(found[0], image[(slice(None), *box)])
    assert_same(found[1], label[(slice(None), *box)])


def test_scale_one_half_puts_means_between_voxels():
    image, label = make_case((12,) * 2)
    found, _ = extract_patch(image, label, (6, 6), (8, 8), placement_matrix([0], 0.5))
    inner = image[:, 4:9, 4:9]
    assert_same(found[:, ::2, ::2], inner[:, :4, :4])
    np.testing.assert_allclose(found[:, 1::2, ::2], (inner[:, :4, :4] + inner[:, 1:, :4]) / 2, atol=1e-6)
    np.testing.assert_allclose(found[:, ::2, 1::2], (inner[:, :4, :4] + inner[:, :4, 1:]) / 2, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dims", [2, 3])
def test_centre_voxel_stays_where_it_is(dims, seed):
    image, label = make_case((15,) * dims)
    patch = (6, 7, 8)[:dims]
    found = extract_patch(image, label, (5, 6, 7)[:dims], patch, random_matrix(dims, seed))
    middle = tuple(p // 2 for p in patch)
    for got, volume in zip(found, (image, label), strict=True):
        assert got[(0, *middle)] == volume[(0, 5, 6, 7)[: dims + 1]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dims", [2, 3])
def test_ramps_stay_ramps(dims, seed):
    shape, patch, centre = (60, 66, 70)[:dims], (14, 15, 12)[:dims], (30, 32, 36)[:dims]
    matrix = random_matrix(dims, seed)
    ramps = np.indices(shape).astype(np.float32)
    found, _ = extract_patch(ramps, np.zeros((1, *shape), np.int8), centre, patch, matrix)
    offsets = np.indices(patch).reshape(dims, -1) - np.reshape(patch, (dims, 1)) // 2
    expected = (np.reshape(centre, (dims, 1)) + matrix @ offsets).reshape(dims, *patch)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("where", [(0.5, 0.5, 0.5), (0, 0, 0), (1, 1, 1), (0, 1, 0.5), (3, 0.5, -3)])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_images_are_interpolated_as_by_scipy_with_zeros_outside(dims, seed, where):
    shape, patch = (14, 12, 11)[:dims], (9, 8, 10)[:dims]
    centre = tuple(int(w * (n - 1)) for w, n in zip(where, shape, strict=False))
    image, label = make_case(shape, channels=2)
    image += 5  # edges show where they were repeated
    matrix = random_matrix(dims, seed)
    found, _ = extract_patch(image, label, centre, patch, matrix)
    expected = [interpolate(channel, matrix, centre, patch, 0) for channel in image]
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(
    "matrix",
    [
        np.random.RandomState(0).uniform(-1, 1, (3, 3)),
        np.array([[1, 0.3, 0], [0, 1, 0], [0, 0, 1]]),
        np.array([[1, 0, 0], [0, 1, 0], [-0.4, 0, 1]]),
        np.diag([-1.0, 1, 0.7]),
    ],
)
def test_matrices_need_not_be_rotations(matrix):
    image, label = make_case((14, 12, 11))
    found, labels = extract_patch(image, label, (6, 6, 6), (9, 8, 10), matrix)
    np.testing.assert_allclose(found[0], interpolate(image[0], matrix, (6, 6, 6), (9, 8, 10), 0), atol=2e-5)
    expected, lead = vote(label, matrix, (6, 6, 6), (9, 8, 10), 0)
    assert_same(labels[0][lead > 1e-4], expected[lead > 1e-4])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("matrix", ["turned", "flat"])
def test_patches_made_in_parts_are_the_same(monkeypatch, dims, matrix):
    shape, patch = (20, 20, 20)[:dims], (11, 10, 9)[:dims]
    matrix = random_matrix(dims, 3) if matrix == "turned" else np.diag([1.3, 1, 1][:dims])
    image, label = make_case(shape, channels=2)
    whole = extract_patch(image, label, (9, 10, 11)[:dims], patch, matrix)
    for slab in (1, 2 * math.prod(patch[1:]), 3 * math.prod(patch[1:])):
        monkeypatch.setattr(sampling, "_SLAB", slab)
        assert all(map(torch.equal, whole, extract_patch(image, label, (9, 10, 11)[:dims], patch, matrix)))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("place", [1, 5])
def test_slices_along_a_flat_axis_are_sampled_each_for_itself(axis, place):
    shape, patch, centre = [12, 13, 14], [9, 8, 10], [6, 5, 7]
    shape[axis], patch[axis], centre[axis] = 6, 5, place
    image, label = make_case(shape, channels=2)
    random = RandPlacement(patch, 1, 1, flat_axis=axis).set_random_state(1)
    matrix = random.draw()
    plane = [a for a in range(3) if a != axis]
    found = extract_patch(image, label, centre, patch, matrix, fill_label=-1)
    for i in range(patch[axis]):
        z = place + i - patch[axis] // 2
        for got, volume, fill in zip(found, (image, label), (0, -1), strict=True):
            got = got.select(1 + axis, i)
            if not 0 <= z < shape[axis]:
                assert (got == fill).all()
                continue
            flat = [np.take(v, z, 1 + axis) for v in (image, label)]
            expected = extract_patch(
                *flat,
                [centre[a] for a in plane],
                [patch[a] for a in plane],
                matrix[np.ix_(plane, plane)],
                fill_label=-1,
            )
            assert torch.equal(got, expected[0 if volume is image else 1])


def test_flat_axis_is_not_interpolated_even_next_to_infinite_values():
    image, label = make_case((12, 12, 4))
    image[..., 1] = np.inf
    random = RandPlacement((8, 8, 4), 1, 1, flat_axis=2).set_random_state(0)
    found, _ = extract_patch(image, label, (6, 6, 2), (8, 8, 4), random.draw())
    assert found[..., [0, 2, 3]].isfinite().all()


# reading


class Recorder:
    """A volume that notes which box was read."""

    def __init__(self, array):
        self.array, self.shape, self.boxes = array, array.shape, []

    def __getitem__(self, box):
        self.boxes.append([range(n)[s] for s, n in zip(box, self.shape, strict=True)])
        return self.array[box]


@pytest.mark.parametrize("centre", [(20, 21, 22), (1, 38, 20), (60, 20, 20)])
@pytest.mark.parametrize("kind", ["plain", "turned", "flat"])
def test_only_the_needed_box_is_read_and_once(kind, centre):
    patch = (8, 9, 6)
    matrix = {"plain": None, "turned": random_matrix(3, 2), "flat": placement_matrix((0, 1, 0), (1.2, 1, 1.2))}[kind]
    image, label = (Recorder(volume) for volume in make_case((40, 40, 40), channels=2))
    extract_patch(image, label, centre, patch, matrix)
    corners = np.array(list(product(*[(-(p // 2), p - 1 - p // 2) for p in patch])))
    needed = np.asarray(centre) + corners @ (np.eye(3) if matrix is None else matrix).T
    lowest, highest = np.floor(needed.min(0) + 1e-4), np.ceil(needed.max(0) - 1e-4)
    for volume in (image, label):
        (box,) = volume.boxes
        assert len(box[0]) == volume.shape[0]
        for axis, low, high in zip(box[1:], lowest, highest, strict=True):
            expected = [i for i in range(40) if low <= i <= high]
            assert list(axis) == expected
