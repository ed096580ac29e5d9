import itertools

import numpy as np
import pytest
import torch
from resize_helpers import definition, definition_by_slices, definition_of_label, random_labels, relative_error
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode

from mednextv2.transforms.spline_resize import new_shape, resize, resize_label, separate_axis

SHAPES = [((9, 14, 11), (5, 20, 13)), ((13, 7, 8), (13, 9, 3)), ((1, 7, 8), (4, 9, 3)), ((2, 3, 40), (7, 1, 71))]
SHAPES += [((70, 5, 9), (41, 11, 9)), ((17, 30), (40, 13)), ((3, 2), (2, 3)), ((6, 5, 4), (1, 1, 1))]


@pytest.mark.parametrize(
    ("spacing", "new_spacing", "axis"),
    [
        ((0.8, 0.8, 2.0), (1.5, 1.5, 1.5), None),
        ((1, 1, 3), (1, 1, 1), None),  # three times is not more than three times
        ((1, 3.01, 1), (1, 1, 1), 1),
        ((0.5, 0.5, 5), (5, 0.5, 0.5), 2),  # the current spacing decides first
        ((1, 1, 1), (4, 1, 1), 0),
        ((0.24, 1.25, 1.25), (1, 1, 1), None),
        ((0.24, 1.25, 1.25), (1, 1, 5), None),  # it has decided, against a separate axis
        ((1, 1), (9, 1), None),
    ],
)
def test_separate_axis_is_the_coarsest_of_an_anisotropic_spacing(spacing, new_spacing, axis):
    assert separate_axis(spacing, new_spacing) == axis


def test_new_shape_keeps_the_extent_and_rounds_halves_to_even():
    assert new_shape((512, 512, 200), (0.8, 0.8, 2), (1.5, 1.5, 1.5)) == (273, 273, 267)
    assert new_shape((5, 7, 1), (1, 1, 1), (2, 2, 9)) == (2, 4, 1)


@pytest.mark.parametrize(("shape", "new"), SHAPES)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_resize_is_that_of_scikit_image_for_every_channel(shape, new, order):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *shape)).astype(np.float32) * np.array([1, 50]).reshape(2, *[1] * len(shape))
    expected = np.stack([definition(channel, new, order) for channel in image])
    found = resize(torch.tensor(image, dtype=torch.float32), new, order)
    assert found.shape == (2, *new)
    for channel in range(2):
        assert relative_error(found[channel], expected[channel]) < 1e-5


def test_long_axes_are_as_exact_as_short_ones():
    volume = np.random.default_rng(0).normal(size=(700, 3)) + 1000
    for n in (433, 1200):
        for order in (1, 3):
            found = resize(torch.tensor(volume[None]), (n, 3), order)[0].double()
            assert np.abs(found.numpy() - definition(volume, (n, 3), order)).max() < 1e-3


def test_cubic_interpolation_stays_within_the_range_of_its_channel_or_slice():
    step = torch.zeros(2, 12, 12, 4)
    step[0, :6], step[1, :, :6, 2:] = 1, 7
    whole, by_slices = resize(step, (19, 19, 9)), resize(step, (19, 19, 9), separate=2)
    assert (whole[0].min(), whole[0].max(), whole[1].max()) == (0, 1, 7)
    assert torch.equal(by_slices[1, :, :, :4], torch.zeros(19, 19, 4))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("new", [(17, 9, 12), (5, 20, 21), (9, 9, 9), (9, 13, 11), (9, 13, 30), (20, 13, 11)])
@pytest.mark.parametrize("order", [1, 3])
def test_a_separate_axis_takes_the_nearest_of_slices_resized_by_themselves(new, axis, order):
    volume = np.random.default_rng(0).normal(size=(9, 13, 11))
    found = resize(torch.tensor(volume[None], dtype=torch.float32), new, order, separate=axis)
    assert relative_error(found[0], definition_by_slices(volume, new, axis, order)) < 1e-5


@pytest.mark.parametrize("across", [1, 3])
@pytest.mark.parametrize("n", [4, 19])
def test_a_separate_axis_can_have_an_order_of_its_own(n, across):
    volume = np.random.default_rng(0).normal(size=(9, 8, 11))
    found = resize(torch.tensor(volume[None], dtype=torch.float32), (9, 13, n), 0, separate=2, separate_order=across)
    assert relative_error(found[0], definition_by_slices(volume, (9, 13, n), 2, 0, across)) < 1e-5


def test_nearest_sampling_agrees_with_scipy_at_every_length_even_where_two_voxels_are_equally_near():
    for old, new in itertools.product(range(1, 50), repeat=2):
        centres = (np.arange(new) + 0.5) * (old / new) - 0.5
        expected = ndimage.map_coordinates(np.arange(old), [centres], order=0, mode="nearest")
        assert resize(torch.arange(old)[None], (new,), order=0)[0].tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int16])
def test_dtype_stays_for_half_precision_and_becomes_float32_else(dtype):
    image = (torch.randn(2, 8, 9, 7) * 100).to(dtype)
    found = resize(image, (5, 12, 7), 1)
    assert found.dtype == (dtype if dtype in (torch.float16, torch.bfloat16) else torch.float32)
    expected = resize(image.float(), (5, 12, 7), 1)
    assert torch.equal(found, expected.to(found.dtype))
    assert resize(image, (5, 12, 7), 0).dtype == dtype


def test_products_are_float32_under_autocast():
    image = torch.randn(1, 20, 20, 20)
    expected = resize(image, (33, 31, 29))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize(image, (33, 31, 29)), expected)


def test_resize_leaves_its_input_alone_and_reads_views():
    image = torch.randn(1, 8, 9, 10)
    before = image.clone()
    view = image.permute(0, 3, 1, 2).flip(2)
    # products of matrices may round otherwise where they are laid out otherwise
    torch.testing.assert_close(resize(view, (5, 12, 9)), resize(view.contiguous(), (5, 12, 9)), rtol=0, atol=1e-5)
    resize(image, (8, 9, 12), separate=2)
    resize(image, (8, 12, 10), 1, separate=2)
    assert torch.equal(image, before)
    assert resize(image, (8, 9, 10)) is image


class LargestDouble(TorchDispatchMode):
    """Notes the size of the largest float64 tensor that is made."""

    voxels = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                self.voxels = max(self.voxels, tensor.numel())
        return result


def test_no_float64_copy_of_a_volume_is_made():
    with LargestDouble() as largest:
        resize(torch.randn(1, 30, 31, 32), (20, 40, 33))
        resize(torch.randn(1, 30, 31, 32), (20, 40, 33), 1, separate=1)
        resize_label(torch.randint(0, 3, (1, 30, 31, 32)), (20, 40, 33))
    assert 0 < largest.voxels <= 40 * 32  # coordinates and matrices


LABELS = {"classes": (0, 1, 2, 5), "marked outside": (-1, 0, 1), "many": tuple(range(117)), "one": (3,)}


@pytest.mark.parametrize("values", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize(("shape", "new"), [s for s in SHAPES if s[0] != s[1]])
def test_label_is_the_one_with_most_votes(shape, new, values):
    label = random_labels(shape, values)
    found = resize_label(torch.tensor(label[None], dtype=torch.int16), new)
    assert found.dtype == torch.int16
    assert np.array_equal(found[0].numpy(), definition_of_label(label, new))


@pytest.mark.parametrize(("shape", "new"), [((16, 12, 10), (8, 6, 5)), ((16, 12), (8, 6)), ((9, 9, 9), (3, 6, 18))])
def test_ties_go_to_the_nearest_voxel_and_else_to_the_smallest_label(shape, new):
    label = np.random.default_rng(0).integers(0, 4, shape)
    assert np.array_equal(resize_label(torch.tensor(label[None]), new)[0].numpy(), definition_of_label(label, new))


def test_a_tie_between_two_labels_next_to_each_other_goes_to_the_second_voxel():
    # the centre of the new voxel is where the two meet; scipy's nearest voxel is then the second
    assert resize_label(torch.tensor([[[5, 2, 2, 5]]]), (1, 2)).tolist() == [[[2, 5]]]


def test_the_nearest_label_loses_to_those_with_more_votes_of_which_the_smallest_wins():
    cube = torch.tensor([[[[2, 1], [1, 1]], [[2, 2], [0, 3]]]])
    assert resize_label(cube, (1, 1, 1)).tolist() == [[[[1]]]]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("new", [(17, 9, 12), (5, 20, 21), (9, 13, 30), (20, 13, 11), (9, 13, 4)])
def test_label_along_a_separate_axis_is_that_of_the_nearest_slice(new, axis):
    label = random_labels((9, 13, 11), (-1, 0, 1, 2))
    plane = [n for a, n in enumerate(new) if a != axis]
    stack = np.stack([definition_of_label(piece, plane) for piece in np.moveaxis(label, axis, 0)], axis)
    centres = (np.arange(new[axis]) + 0.5) * (stack.shape[axis] / new[axis]) - 0.5
    nearest = ndimage.map_coordinates(np.arange(stack.shape[axis]), [centres], order=0, mode="nearest")
    found = resize_label(torch.tensor(label[None]), new, separate=axis)
    assert np.array_equal(found[0].numpy(), stack.take(nearest, axis))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32])
def test_label_keeps_its_dtype(dtype):
    label = torch.tensor(random_labels((9, 8, 7), (0, 1, 200)))[None]
    found = resize_label(label.to(dtype), (5, 12, 7))
    assert found.dtype == dtype
    assert torch.equal(found.long(), resize_label(label, (5, 12, 7)))


def test_voxels_between_labels_are_counted_in_parts(monkeypatch):
    label = torch.tensor(random_labels((15, 16, 17), (0, 1, 2)))[None]
    expected = resize_label(label, (20, 13, 17))
    monkeypatch.setattr("mednextv2.transforms.spline_resize._CHUNK", 7)
    assert torch.equal(resize_label(label, (20, 13, 17)), expected)
