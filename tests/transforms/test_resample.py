import itertools

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd
from scipy import ndimage
from skimage.transform import resize as skimage_resize
from torch.utils._python_dispatch import TorchDispatchMode

from mednextv2.errors import InputError
from mednextv2.transforms.resample import Resampled
from mednextv2.transforms.spline_resize import new_shape, resize, resize_label, separate_axis

SHAPES = [((9, 14, 11), (5, 20, 13)), ((13, 7, 8), (13, 9, 3)), ((1, 7, 8), (4, 9, 3)), ((2, 3, 40), (7, 1, 71))]
SHAPES += [((70, 5, 9), (41, 11, 9)), ((17, 30), (40, 13)), ((3, 2), (2, 3)), ((6, 5, 4), (1, 1, 1))]


def definition(volume, shape, order):
    return skimage_resize(volume.astype(float), shape, order=order, mode="edge", anti_aliasing=False)


def definition_by_slices(volume, shape, axis, order, order_across=0):
    """Each slice by scikit-image, then across the slices by scipy, with half-voxel-centred coordinates."""
    plane = [n for a, n in enumerate(shape) if a != axis]
    stack = np.stack([definition(piece, plane, order) for piece in np.moveaxis(volume, axis, 0)], axis)
    grid = np.indices(shape).astype(float)
    grid[axis] = (grid[axis] + 0.5) * (stack.shape[axis] / shape[axis]) - 0.5
    return ndimage.map_coordinates(stack, grid, order=order_across, mode="nearest")


def definition_of_label(label, shape):
    """The label with the most votes; in a tie the nearest voxel's if it is among the tied, else the smallest."""
    values = np.unique(label)
    votes = np.stack([definition(label == value, shape, 1) for value in values])
    tied = votes > votes.max(0) - 1e-6
    nearest = skimage_resize(label, shape, order=0, mode="edge", anti_aliasing=False, preserve_range=True)
    is_nearest = values.reshape(-1, *[1] * label.ndim) == nearest
    return np.where((tied & is_nearest).any(0), nearest, values[tied.argmax(0)])


def relative_error(found, expected):
    return np.abs(found.numpy() - expected).max() / np.abs(expected).max()


def random_labels(shape, values, seed=0):
    """Blobs of labels, and some noise."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(len(values), *shape)), (0, *[1.5] * len(shape)))
    label = np.array(values)[smooth.argmax(0)]
    return np.where(rng.random(shape) < 0.05, rng.choice(values, shape), label)


def make_affine(spacing, degrees=0.0, flips=(1, 1, 1), origin=(-20.0, 31.0, 7.0)):
    a, b = np.radians(degrees), np.radians(degrees / 2)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(np.array(flips) * spacing)
    affine[:3, 3] = origin
    return affine


def make_item(array, affine, key="image"):
    return {key: MetaTensor(array, affine=torch.as_tensor(affine))}


def positions(shape, affine):
    grid = np.indices(shape).reshape(3, -1)
    return affine[:3, :3] @ grid + affine[:3, 3:]


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


@pytest.mark.parametrize("spacing", [(0.8, 1.0, 2.0), (0.5, 0.6, 4.0), (3.0, 2.0, 1.5)])
@pytest.mark.parametrize(("degrees", "flips"), [(0, (1, 1, 1)), (0, (-1, 1, -1)), (25, (-1, 1, 1))])
def test_a_landmark_stays_at_its_position_in_mm(spacing, degrees, flips):
    shape = tuple(int(40 / side) for side in spacing)
    affine = make_affine(spacing, degrees, flips)
    landmark = (affine @ [*(0.45 * n for n in shape), 1])[:3]
    distance = np.linalg.norm(positions(shape, affine) - landmark[:, None], axis=0)
    image = torch.tensor(np.exp(-((distance / 5) ** 2)).reshape(1, *shape), dtype=torch.float32)
    found = Resampled("image", (1.3, 1.2, 1.4))(make_item(image, affine))["image"]
    new_affine = found.affine.numpy()
    weights = found.numpy().ravel()
    centre = (positions(found.shape[1:], new_affine) * weights).sum(1) / weights.sum()
    in_voxels = np.linalg.inv(new_affine[:3, :3]) @ (centre - landmark)
    assert np.abs(in_voxels).max() < 0.1


@pytest.mark.parametrize("degrees", [0, 40])
def test_corners_of_the_field_of_view_stay_and_not_the_voxel_centres(degrees):
    affine = make_affine((0.8, 0.9, 2.0), degrees, (-1, 1, 1))
    found = Resampled("image", (1.5, 1.5, 1.5))(make_item(torch.randn(1, 21, 10, 7), affine))["image"]
    assert found.shape == (1, 11, 6, 9)
    for corner in itertools.product([0, 1], repeat=3):
        before = affine @ [*(c * n - 0.5 for c, n in zip(corner, (21, 10, 7), strict=True)), 1]
        after = found.affine.numpy() @ [*(c * n - 0.5 for c, n in zip(corner, (11, 6, 9), strict=True)), 1]
        assert after == pytest.approx(before, abs=1e-9)


def test_images_are_cubic_and_labels_are_voted_for_with_the_separate_axis_of_the_spacings():
    image = np.random.default_rng(0).normal(size=(12, 13, 5))
    label = random_labels((12, 13, 5), (0, 1, 2))
    for spacing, axis in [((1, 1, 2.5), None), ((1, 1, 5.0), 2)]:
        item = make_item(image[None].astype(np.float32), make_affine(spacing))
        item |= make_item(torch.tensor(label[None]), make_affine(spacing), "label")
        found = Resampled(["image", "label"], (1.4, 1.4, 1.5), label_keys="label")(item)
        new = new_shape(image.shape, spacing, (1.4, 1.4, 1.5))
        if axis is None:
            assert relative_error(found["image"][0], definition(image, new, 3)) < 1e-5
            assert np.array_equal(found["label"][0].numpy(), definition_of_label(label, new))
        else:
            assert relative_error(found["image"][0], definition_by_slices(image, new, 2, 3)) < 1e-5
            assert torch.equal(found["label"].as_tensor(), resize_label(torch.tensor(label[None]), new, 2))


def test_item_on_the_spacing_already_is_not_computed_but_can_be_inverted():
    transform = Compose([Resampled("image", (1, 1, 1))])
    item = make_item(torch.randn(1, 8, 9, 7), make_affine((1, 1, 1.0), 30))
    found = transform(item)
    assert found["image"].data_ptr() == item["image"].data_ptr()
    assert torch.allclose(found["image"].affine, item["image"].affine)
    back = transform.inverse(found)["image"]
    assert torch.equal(back, item["image"])
    assert back.applied_operations == []


def test_keys_on_one_grid_keep_one_shape_although_their_headers_differ_a_little():
    item = make_item(torch.zeros(1, 101, 8, 8), make_affine((0.999999, 1, 1)))
    item |= make_item(torch.zeros(1, 101, 8, 8), make_affine((1.0005, 1, 1)), "label")
    found = Resampled(["image", "label"], (2, 2, 2), label_keys=["label"])(item)
    assert found["image"].shape == found["label"].shape == (1, 50, 4, 4)


def test_noise_in_the_last_digits_of_a_header_does_not_change_the_shape():
    for noise in (-1e-7, 0, 1e-7):
        item = make_item(torch.zeros(1, 5, 5, 5), make_affine(np.array([1, 1, 1]) * (1 + noise), 33))
        assert Resampled("image", (2, 2, 2))(item)["image"].shape == (1, 2, 2, 2)


def test_2d_images_are_resampled_and_inverted():
    image = np.random.default_rng(0).normal(size=(2, 20, 30))
    for affine in (np.diag([0.2, 1.0, 1, 1]), np.diag([0.2, 1.0, 1])):
        transform = Compose([Resampled("image", (0.5, 0.7))])
        item = make_item(torch.tensor(image, dtype=torch.float32), affine)
        found = transform(item)
        assert relative_error(found["image"][1], definition(image[1], (8, 43), 3)) < 1e-5
        back = invert(found, transform, found["image"].as_tensor())
        assert relative_error(back[0], definition(found["image"][0].numpy(), (20, 30), 1)) < 1e-5


def invert(item, transform, pred, nearest=False):
    inverted = Invertd("pred", transform, orig_keys="image", nearest_interp=nearest)
    return inverted({**item, "pred": MetaTensor(pred)})["pred"]


def recipe(pixdim):
    return Compose(
        [
            Orientationd(["image", "label"], "RAS", labels=None),
            CropForegroundd(["image", "label"], source_key="image", select_fn=nonzero, allow_smaller=False),
            Resampled(["image", "label"], pixdim, label_keys=["label"]),
        ]
    )


def nonzero(image):
    return image != 0


def make_case(spacing, degrees, flips, shape=(20, 26, 14)):
    image = torch.zeros(1, *shape)
    image[:, 3:-2, 4:-4, 1:-1] = torch.rand(1, *(n - k for n, k in zip(shape, (5, 8, 2), strict=True))) + 1
    affine = make_affine(spacing, degrees, flips)
    return make_item(image, affine) | make_item((image > 1.5).to(torch.uint8), affine, "label")


@pytest.mark.parametrize("spacing", [(1, 1.2, 2.0), (1, 1, 4.0), (4.0, 1, 1)])
@pytest.mark.parametrize(("degrees", "flips"), [(0, (1, 1, 1)), (0, (-1, -1, 1)), (20, (1, -1, -1)), (100, (1, 1, 1))])
def test_invertd_brings_logits_back_through_crop_and_orientation(spacing, degrees, flips):
    case, transform = make_case(spacing, degrees, flips), recipe((1.5, 1.5, 1.5))
    found = transform(case)
    assert found["image"].shape == found["label"].shape != (1, 15, 18, 12)
    logits = torch.randn(3, *found["image"].shape[1:])
    back = invert(found, transform, logits)
    assert back.shape == (3, 20, 26, 14)
    assert torch.allclose(back.affine, case["image"].affine)
    # MONAI undoes orientation and crop alone: what it is given must be scikit-image's linear resize
    outer = Compose(transform.transforms[:2])
    cropped = outer(case)
    axis = separate_axis((1.5, 1.5, 1.5), tuple(cropped["image"].pixdim.numpy().round(4)))
    shape = cropped["image"].shape[1:]
    definitions = [
        definition(k, shape, 1) if axis is None else definition_by_slices(k, shape, axis, 1) for k in logits.numpy()
    ]
    expected = invert(cropped, outer, torch.tensor(np.stack(definitions)))
    assert (axis is None) == (spacing == (1, 1.2, 2.0))
    assert relative_error(back, expected.numpy()) < 1e-5


def test_the_separate_axis_of_the_inverse_is_that_of_the_spacing_of_the_network_first():
    # forward the image's axis 0 is the coarse one, back the network's axis 2
    transform = Compose([Resampled("image", (1, 1, 4.0))])
    found = transform(make_item(torch.randn(1, 4, 12, 16), make_affine((4.0, 1, 1))))
    logits = np.random.default_rng(0).normal(size=found["image"].shape[1:])
    back = invert(found, transform, torch.tensor(logits[None], dtype=torch.float32))
    assert relative_error(back[0], definition_by_slices(logits, (4, 12, 16), 2, 1)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_come_back_in_their_dtype(dtype):
    transform = recipe((1.5, 1.5, 1.5))
    found = transform(make_case((1, 1.2, 2.0), 0, (1, 1, 1)))
    logits = torch.randn(2, *found["image"].shape[1:]).to(dtype)
    back = invert(found, transform, logits)
    assert back.dtype == dtype
    assert torch.equal(back, invert(found, transform, logits.float()).to(dtype))


@pytest.mark.parametrize(("dtype", "nearest"), [(torch.uint8, False), (torch.int64, False), (torch.float32, True)])
def test_label_maps_and_nearest_interp_come_back_without_new_values(dtype, nearest):
    transform = Compose([Resampled("image", (1.5, 1.5, 1.5))])
    found = transform(make_item(torch.rand(1, 9, 12, 8), make_affine((1, 0.8, 2))))
    pred = torch.tensor(random_labels(found["image"].shape[1:], (0, 7, 9)))[None].to(dtype)
    back = invert(found, transform, pred, nearest)
    expected = skimage_resize(pred[0].numpy(), (9, 12, 8), order=0, mode="edge", anti_aliasing=False)
    assert back.dtype == dtype
    assert np.array_equal(back[0].numpy(), expected)


def test_label_maps_of_a_floating_dtype_come_back_without_new_values():
    label = torch.tensor(random_labels((9, 12, 8), (0, 7, 9)), dtype=torch.float32)[None]
    transform = Compose([Resampled("label", (1.5, 1.5, 1.5), label_keys="label")])
    back = transform.inverse(transform(make_item(label, make_affine((1, 0.8, 2)), "label")))["label"]
    assert back.shape == label.shape
    assert back.dtype == torch.float32
    assert set(back.unique().tolist()) <= {0, 7, 9}


def test_resampled_predictions_fit_the_label_where_it_was():
    case, transform = make_case((1, 1, 2.0), 15, (-1, 1, 1), (30, 32, 20)), recipe((1.5, 1.5, 1.5))
    box = torch.zeros(1, 30, 32, 20, dtype=torch.uint8)
    box[:, 8:20, 9:22, 5:15] = 1
    case["label"] = MetaTensor(box, affine=case["label"].affine)
    found = transform(case)
    one_hot = torch.cat([found["label"] == 0, found["label"] == 1]).float()
    back = invert(found, transform, one_hot).argmax(0)
    assert (2 * (back * box[0]).sum() / (back.sum() + box.sum())).item() > 0.93
    assert transform.inverse(found)["label"].shape == box.shape


def test_trace_passes_through_a_loader_with_batches():
    transform = recipe((1.5, 1.5, 1.5))
    cases = [make_case((1, 1.2, 2.0), 0, (-1, 1, 1)) for _ in range(2)]
    loader = DataLoader(Dataset(cases, transform), batch_size=2)
    for item in decollate_batch(next(iter(loader))):
        assert invert(item, transform, torch.zeros(4, *item["image"].shape[1:])).shape == (4, 20, 26, 14)


@pytest.mark.parametrize("pixdim", [(0, 1, 1), (1, -1, 1), (1, 1, float("nan")), (1, "1", 1)])
def test_sides_that_are_no_lengths_are_refused(pixdim):
    with pytest.raises(InputError, match="pixdim"):
        Resampled("image", pixdim)


def test_mistaken_spacings_are_refused_and_the_file_is_named():
    transform = Resampled("image", (1, 1, 1))
    for spacing, problem in [((500.0, 500, 500), "that is 4000×4000×4000 voxels"), ((0.001, 1, 1), "would vanish")]:
        item = make_item(torch.zeros(1, 8, 8, 8), make_affine(spacing))
        item["image"].meta["filename_or_obj"] = "case_7.nii.gz"
        with pytest.raises(InputError, match=f"case_7.nii.gz: 8×8×8 voxels .*{problem}"):
            transform(item)
    with pytest.raises(InputError, match="set the voxel spacing"):
        transform(make_item(torch.zeros(1, 8, 8, 8), np.diag([1.0, 0, 1, 1])))
    with pytest.raises(InputError, match="has 3 sides, but image is 2D"):
        transform(make_item(torch.zeros(1, 8, 8), np.eye(4)))
    with pytest.raises(InputError, match="without affine"):
        transform({"image": torch.zeros(1, 8, 8, 8)})


def test_a_single_slice_stays_a_slice():
    found = Resampled("image", (1, 1, 3))(make_item(torch.rand(1, 8, 8, 1), make_affine((1, 1, 1))))
    assert found["image"].shape == (1, 8, 8, 1)


def test_missing_keys_are_left_out_only_when_allowed():
    item = make_item(torch.rand(1, 8, 8, 8), make_affine((1, 1, 1)))
    with pytest.raises(KeyError):
        Resampled(["image", "label"], (2, 2, 2))(item)
    found = Resampled(["image", "label"], (2, 2, 2), ["label"], allow_missing_keys=True)(item)
    assert found["image"].shape == (1, 4, 4, 4)
