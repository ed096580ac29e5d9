import itertools

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd
from resize_helpers import definition, definition_by_slices, definition_of_label, random_labels, relative_error
from skimage.transform import resize as skimage_resize

from mednextv2.errors import InputError
from mednextv2.transforms.resample import Resampled
from mednextv2.transforms.spline_resize import new_shape, resize_label, separate_axis


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
