import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from mednextv2.errors import InputError
from mednextv2.transforms.normalize import MarkOutsided, MaskOutsided, NormalizeChannelsd, nonzero_mask

ZSCORE = {"scheme": "zscore", "inside_mask": False}
CT = {"scheme": "ct", "lower": -100.0, "upper": 250.0, "mean": 80.0, "std": 40.0}


def normalize(image, *schemes):
    return NormalizeChannelsd("image", schemes)({"image": image})["image"]


def make_body(channels=1, shape=(12, 11, 10)):
    """An image that is 0 outside a box, and in a cavity and a spot within it."""
    rng = np.random.default_rng(0)
    image = np.zeros((channels, *shape), np.float32)
    image[:, 2:-3, 1:-2, 2:-2] = rng.normal(50, 10, image[:, 2:-3, 1:-2, 2:-2].shape)
    image[:, 5:7, 4:6, 4:6] = 0
    image[0, 3, 3, 3] = 0
    return image


def test_mask_is_what_is_not_zero_in_some_channel_with_its_holes():
    image = torch.zeros(2, 9, 9, 9)
    image[0, 2:7, 2:7, 2:5] = 1
    image[1, 2:7, 2:7, 5:7] = -1  # together they are a box
    expected = torch.zeros(1, 9, 9, 9, dtype=torch.bool)
    expected[:, 2:7, 2:7, 2:7] = True
    image[:, 3:5, 3:5, 3:6] = 0  # a hole
    assert torch.equal(nonzero_mask(image), expected)
    image[:, 4, 4, 5:] = 0  # a channel to the outside: no hole any more
    expected[:, 3:5, 3:5, 3:6] = expected[:, 4, 4, 5:] = False
    assert torch.equal(nonzero_mask(image), expected)


def test_a_hole_in_one_slice_that_is_open_in_3d_is_none_but_in_2d_it_is():
    ring = torch.ones(1, 5, 5, 1)
    ring[:, 2, 2] = 0
    assert nonzero_mask(ring).sum() == 24
    assert nonzero_mask(ring[..., 0]).all()


def test_mask_of_an_empty_and_of_a_full_image():
    assert not nonzero_mask(torch.zeros(1, 4, 4, 4)).any()
    assert nonzero_mask(torch.full((1, 4, 4, 4), -3)).all()


def test_zscore_is_that_of_numpy_with_the_population_deviation():
    image = np.random.default_rng(0).gamma(2, 100, (1, 5, 6, 7)).astype(np.float32)
    expected = (image - image.mean(dtype=np.float64)) / image.std(dtype=np.float64)
    assert normalize(torch.tensor(image), ZSCORE).numpy() == pytest.approx(expected, abs=1e-6)


def test_zscore_counts_all_voxels_unless_told():
    image = torch.tensor(make_body())
    found = normalize(image, {"scheme": "zscore"})
    assert torch.equal(found, normalize(image, ZSCORE))
    assert not torch.equal(found, normalize(image, {"scheme": "zscore", "inside_mask": True}))


@pytest.mark.parametrize("offset", [1e6, -1e6, 1e5])
@pytest.mark.parametrize("inside_mask", [False, True])
def test_zscore_is_exact_for_a_large_mean_and_a_small_deviation(offset, inside_mask, monkeypatch):
    monkeypatch.setattr("mednextv2.transforms.normalize._CHUNK", 1000)
    image = (np.random.default_rng(0).normal(size=(1, 20, 30, 40)) * 0.5 + offset).astype(np.float32)
    exact = image.astype(np.float64)
    expected = (exact - exact.mean()) / exact.std()
    found = normalize(torch.tensor(image), {"scheme": "zscore", "inside_mask": inside_mask}).numpy()
    assert np.abs(found - expected).max() < 1e-5
    assert abs(found.mean(dtype=np.float64)) < 1e-6


def test_constant_channels_become_zero():
    image = torch.full((2, 7, 7, 7), 1234567.8)
    found = normalize(image, ZSCORE, {"scheme": "rescale_to_0_1"})
    assert torch.equal(found, torch.zeros(2, 7, 7, 7))


def test_deviation_is_floored():
    image = torch.tensor([0.0, 2e-10]).reshape(1, 2, 1)
    assert normalize(image, ZSCORE).flatten().tolist() == pytest.approx([-0.01, 0.01], rel=1e-5)
    ct = {**CT, "std": 0.0, "lower": -1.0, "upper": 1.0, "mean": 0.0}
    assert normalize(image, ct).flatten().tolist() == pytest.approx([0, 0.02], rel=1e-5)
    assert normalize(image, {"scheme": "rescale_to_0_1"}).flatten().tolist() == pytest.approx([0, 0.02], rel=1e-5)


def test_zscore_inside_the_mask_counts_the_zeros_in_holes_and_leaves_the_outside():
    image = make_body(2)
    image[1, 0, 0, 0] = 7.0  # of one channel alone, but inside the common mask
    mask = ndimage.binary_fill_holes((image != 0).any(0))
    assert mask[5, 4, 4]
    assert mask[3, 3, 3]
    inside = {"scheme": "zscore", "inside_mask": True}
    found = normalize(torch.tensor(image), inside, inside).numpy()
    for channel in range(2):
        values = image[channel][mask].astype(np.float64)
        expected = np.where(mask, (image[channel] - values.mean()) / values.std(), image[channel])
        assert found[channel] == pytest.approx(expected, abs=1e-5)
    assert (found[:, ~mask] == 0).all()
    assert found[0, 0, 0, 0] < -1


def test_an_image_without_anything_stays_as_it_is():
    image = torch.zeros(1, 4, 4, 4)
    assert torch.equal(normalize(image, {"scheme": "zscore", "inside_mask": True}), image)


def test_ct_is_clipped_before_the_data_sets_mean_and_deviation():
    image = torch.tensor([-1000.0, -100, 80, 120, 250, 3000]).reshape(1, 6, 1, 1)
    assert normalize(image, CT).flatten().tolist() == [-4.5, -4.5, 0, 1, 4.25, 4.25]


def test_rescaling_is_from_the_minimum_to_the_maximum():
    image = torch.tensor([-10.0, 0, 30]).reshape(1, 3, 1)
    assert normalize(image, {"scheme": "rescale_to_0_1"}).flatten().tolist() == [0, 0.25, 1]


def test_rgb_is_divided_by_255_and_refused_outside():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1)
    found = normalize(image, {"scheme": "rgb_to_0_1"})
    assert found.flatten().tolist() == pytest.approx([0, 0.2, 1])
    for wrong in (-1, 256, float("nan")):
        with pytest.raises(InputError, match="rgb_to_0_1"):
            normalize(torch.tensor([0.0, wrong, 3]).reshape(1, 3, 1), {"scheme": "rgb_to_0_1"})


def test_each_channel_has_its_own_scheme_and_the_input_stays():
    image = torch.tensor(make_body(5)).abs()
    before = image.clone()
    schemes = [CT, ZSCORE, {"scheme": "none"}, {"scheme": "rescale_to_0_1"}, {"scheme": "rgb_to_0_1"}]
    found = normalize(image, *schemes)
    for channel, scheme in enumerate(schemes):
        assert torch.equal(found[channel], normalize(image[channel : channel + 1], scheme)[0])
    assert torch.equal(found[2], image[2])
    assert torch.equal(image, before)


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float64, torch.float16, torch.float32])
def test_result_is_float32_and_metadata_stay(dtype):
    image = torch.tensor(make_body()).abs().to(dtype)
    meta = MetaTensor(image, affine=torch.diag(torch.tensor([2.0, 3, 4, 1])), meta={"filename_or_obj": "a.nii.gz"})
    for scheme in (ZSCORE, {"scheme": "zscore", "inside_mask": True}, CT, {"scheme": "none"}):
        plain, found = normalize(image, scheme), normalize(meta, scheme)
        assert (type(plain), plain.dtype) == (torch.Tensor, torch.float32)
        assert (type(found), found.dtype) == (MetaTensor, torch.float32)
        assert torch.equal(found.as_tensor(), plain)
        assert torch.equal(found.affine, meta.affine)
        assert found.meta["filename_or_obj"] == "a.nii.gz"


def test_views_are_normalized_like_their_copies():
    image = torch.tensor(make_body()).permute(0, 3, 1, 2).flip(1)
    for scheme in (ZSCORE, {"scheme": "zscore", "inside_mask": True}, CT):
        assert torch.allclose(normalize(image, scheme), normalize(image.contiguous(), scheme), atol=1e-6)


@pytest.mark.parametrize(
    "scheme",
    [
        {"scheme": "zcore"},
        {"inside_mask": True},
        "zscore",
        {"scheme": "zscore", "mask": True},
        {"scheme": "zscore", "inside_mask": 1},
        {"scheme": "ct", "lower": 0, "upper": 1, "mean": 0},
        {**CT, "inside_mask": True},
        {**CT, "lower": 250},
        {**CT, "std": -1},
        {**CT, "mean": None},
        {**CT, "mean": float("nan")},
        {"scheme": "none", "inside_mask": False},
    ],
)
def test_unknown_schemes_and_settings_are_refused(scheme):
    with pytest.raises(InputError, match="normalization"):
        NormalizeChannelsd("image", [scheme])


def test_number_of_schemes_must_be_that_of_the_channels():
    image = MetaTensor(torch.ones(2, 3, 3, 3), meta={"filename_or_obj": "case_3.nii.gz"})
    for schemes in ([ZSCORE], [ZSCORE] * 3, []):
        with pytest.raises(InputError, match=r"case_3.nii.gz: has 2 channels"):
            normalize(image, *schemes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
def test_background_outside_the_mask_becomes_minus_one(dtype):
    image = torch.tensor(make_body())
    label = torch.zeros(image.shape, dtype=dtype)
    label[0, 4:8, 4:8, 4:8] = 2
    label[0, 0, 0, 0] = 1  # annotated, though outside
    before = label.clone()
    given = MetaTensor(label, meta={"filename_or_obj": "l.nii.gz"})
    found = MarkOutsided("label")({"image": image, "label": given})["label"]
    expected = torch.where(nonzero_mask(image) | (label != 0), label.int(), -1)
    assert torch.equal(found.as_tensor().int(), expected)
    assert found.dtype == (torch.int16 if dtype == torch.uint8 else dtype)
    assert found.meta["filename_or_obj"] == "l.nii.gz"
    assert torch.equal(label, before)
    assert (found[0, 5, 4, 4], found[0, 3, 3, 3], found[0, 0, 0, 0]) == (2, 0, 1)


def test_masking_sets_channels_to_zero_outside_and_ends_the_mark():
    image, label = torch.randn(3, 4, 5, 6), torch.randint(-1, 3, (1, 4, 5, 6))
    before = image.clone(), label.clone()
    item = {"image": MetaTensor(image, meta={"a": 1}), "label": label}
    found = MaskOutsided("image", "label", [0, 2])(item)
    assert torch.equal(found["image"][[0, 2]].as_tensor(), image[[0, 2]] * (label >= 0))
    assert torch.equal(found["image"][1].as_tensor(), image[1])
    assert torch.equal(found["label"], label * (label > 0))
    assert found["image"].meta["a"] == 1
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


def test_masking_without_channels_only_ends_the_mark():
    image, label = torch.randn(1, 4, 5, 6), torch.randint(-1, 3, (1, 4, 5, 6))
    found = MaskOutsided("image", "label", [])({"image": image, "label": label})
    assert found["image"] is image
    assert found["label"].min() == 0


def test_what_does_not_fit_together_is_refused():
    image, label = torch.ones(1, 4, 4, 4), torch.ones(1, 4, 4, 5)
    with pytest.raises(InputError, match="label: has shape"):
        MarkOutsided(["label"], image_key="image")({"image": image, "label": label})
    with pytest.raises(InputError, match="label: has shape"):
        MaskOutsided("image", "label", [0])({"image": image, "label": label})
    with pytest.raises(InputError, match=r"channels \[1\]"):
        MaskOutsided("image", "label", [0, 1])({"image": image, "label": image})


def test_marked_channels_are_masked_as_they_were_normalized():
    image = torch.tensor(make_body(2))
    item = {"image": image, "label": torch.zeros(1, *image.shape[1:])}
    inside = {"scheme": "zscore", "inside_mask": True}
    item = NormalizeChannelsd("image", [inside, ZSCORE])(MarkOutsided("label")(item))
    normalized = item["image"].clone()
    item["image"] = item["image"] + torch.where(item["label"] < 0, 5, 0)  # what an augmentation would do outside
    found = MaskOutsided("image", "label", [0])(item)["image"]
    assert torch.equal(found[0], normalized[0])
    assert not torch.equal(found[1], normalized[1])
