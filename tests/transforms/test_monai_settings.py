"""The steps of nnU-Net's augmentation that are MONAI's transforms: that these settings are nnU-Net's."""

from itertools import product

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandFlipd, RandScaleIntensityd, RandScaleIntensityFixedMeand
from scipy import stats

TIMES = 3000


def brightness():
    return RandScaleIntensityd("image", prob=0.15, factors=0.25, channel_wise=True)


def contrast():
    return RandScaleIntensityFixedMeand("image", prob=0.15, factors=0.25, channel_wise=True, preserve_range=True)


def assert_rate(count, times, probability):
    """Within 4.5 standard deviations of the binomial distribution."""
    assert abs(count - times * probability) < 4.5 * np.sqrt(times * probability * (1 - probability)), count / times


def factors_of(transform, image, measure):
    """The factors of the two channels, `(2, n)`, of the samples that are changed, out of TIMES."""
    found = []
    for _ in range(TIMES):
        result = transform({"image": image})["image"]
        if not torch.equal(result, image):
            found.append([measure(result[c], image[c]) for c in (0, 1)])
    return np.array(found).T


@pytest.mark.parametrize(
    ("make", "measure"),
    [
        (brightness, lambda after, before: (after[0, 0] / before[0, 0]).item()),
        # the outermost voxels are clipped, the others are not
        (contrast, lambda after, before: ((after[0, 1] - after[1, 0]) / (before[0, 1] - before[1, 0])).item()),
    ],
    ids=["brightness", "contrast"],
)
@pytest.mark.parametrize("track_meta", [False, True])
def test_fifteen_percent_of_samples_get_factors_half_below_one_and_half_above_for_each_channel(
    make, measure, track_meta
):
    image = torch.tensor([[-9.0, 1.0, -2.0, 10.0], [-50.0, 3.0, 7.0, 60.0]]).reshape(2, 2, 2)
    found = factors_of(make().set_random_state(0), MetaTensor(image) if track_meta else image, measure)
    assert_rate(found.shape[1], TIMES, 0.15)
    for channel in found:
        below, above = channel[channel < 1], channel[channel >= 1]
        assert_rate(len(below), len(channel), 0.5)
        assert stats.kstest(below, stats.uniform(0.75, 0.25).cdf).pvalue > 1e-3
        assert stats.kstest(above, stats.uniform(1.0, 0.25).cdf).pvalue > 1e-3
        assert channel.min() >= 0.75 - 1e-5
        assert channel.max() <= 1.25 + 1e-5
    assert abs(np.corrcoef(found)[0, 1]) < 4.5 / np.sqrt(found.shape[1])


@pytest.mark.parametrize("shape", [(1, 9, 8), (2, 6, 5, 7)], ids=str)
def test_brightness_multiplies_each_channel_by_one_number(shape):
    image = torch.randn(shape) + 3
    transform = brightness()
    transform.prob = 1.0
    before = image.clone()
    result = transform.set_random_state(0)({"image": image})["image"]
    for c in range(shape[0]):
        factor = result[c].flatten()[0] / image[c].flatten()[0]
        torch.testing.assert_close(result[c].as_tensor(), image[c] * factor, rtol=1e-5, atol=1e-6)
    assert torch.equal(image, before)


@pytest.mark.parametrize("shape", [(1, 9, 8), (2, 6, 5, 7)], ids=str)
def test_contrast_stretches_each_channel_about_its_mean_and_clips_to_its_old_range(shape):
    image = torch.randn(shape) * 2 + 5
    transform = contrast()
    transform.prob = 1.0
    transform.set_random_state(0)
    before, stretched = image.clone(), 0
    for _ in range(20):
        result = transform({"image": image})["image"].as_tensor()
        for x, y in zip(image.double(), result.double(), strict=True):
            middle = (x - x.mean()).abs().flatten().argsort()[x.numel() // 2]  # far from mean and from the borders
            factor = (y.flatten()[middle] - x.mean()) / (x.flatten()[middle] - x.mean())
            expected = ((x - x.mean()) * factor + x.mean()).clamp(x.min(), x.max())
            torch.testing.assert_close(y, expected, rtol=0, atol=2e-4)
            stretched += int(factor > 1)
    assert 0 < stretched < 20 * shape[0]
    assert torch.equal(image, before)


@pytest.mark.parametrize("make", [brightness, contrast])
def test_nothing_is_copied_when_the_gate_is_closed(make):
    image, transform = torch.randn(2, 4, 4), make()
    transform.prob = 0.0
    assert transform({"image": image})["image"].data_ptr() == image.data_ptr()


@pytest.mark.parametrize("dims", [2, 3])
def test_each_axis_is_mirrored_half_of_the_time_in_image_and_label_alike(dims):
    image = torch.arange(2.0**dims).reshape(1, *[2] * dims)
    mirror = Compose([RandFlipd(["image", "label"], prob=0.5, spatial_axis=axis) for axis in range(dims)])
    mirror.set_random_state(0)
    combinations = [[axis for axis in range(dims) if chosen[axis]] for chosen in product([0, 1], repeat=dims)]
    counts = dict.fromkeys(range(len(combinations)), 0)
    for _ in range(500):
        result = mirror({"image": image, "label": image.clone()})
        assert torch.equal(result["image"], result["label"])
        expected = (image.flip([axis + 1 for axis in axes]) for axes in combinations)
        counts[[torch.equal(result["image"].as_tensor(), e) for e in expected].index(True)] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
