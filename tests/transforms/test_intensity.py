import numpy as np
import pytest
import torch
import torch.nn.functional as F
from intensity_helpers import SHAPES, always, assert_rate, draw
from monai.transforms import AdjustContrast
from scipy import ndimage, stats

from mednextv2.transforms.intensity import RandBlurChannelsd, RandGammad, RandLowResolutiond, RandNoised


def assert_uniform(values, low, high):
    assert low <= min(values)
    assert max(values) <= high
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def assert_independent(a, b):
    assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(len(a))


# --- noise -------------------------------------------------------------------------------------------------------


def test_noise_has_a_standard_deviation_up_to_a_tenth_that_the_channels_share():
    results = torch.stack(draw(always(RandNoised), torch.zeros(2, 16, 16, 16), 500))
    found = results.std((2, 3, 4), correction=0)
    torch.testing.assert_close(found[:, 0], found[:, 1], rtol=0.08, atol=0)
    assert stats.kstest(found.mean(1).numpy(), stats.uniform(0, 0.1).cdf).pvalue > 1e-3


def test_noise_is_normal_around_zero_and_independent_between_voxels_channels_and_calls():
    image = torch.randn(2, 20, 20, 20)
    results = [r - image for r in draw(always(RandNoised, std=(0.5, 0.5)), image, 2)]
    values = torch.stack(results).reshape(4, -1).numpy()
    for part in values:
        assert stats.kstest(part, stats.norm(0, 0.5).cdf).pvalue > 1e-3
        assert_independent(part[1:], part[:-1])
    for i in range(4):
        for j in range(i):
            assert_independent(values[i], values[j])


# --- blur --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sigma", [0.5, 0.57, 0.6, 0.75, 0.9, 0.93, 1.0])
def test_blur_is_scipys_with_mirrored_borders_and_the_odd_number_of_taps_nearest_to_six_sigmas(shape, sigma):
    image = torch.randn(shape)
    taps = min(range(1, 20, 2), key=lambda n: abs(n - (6 * sigma + 0.5)))
    assert taps in (3, 5, 7)
    expected = image.double().numpy()
    for axis in range(1, len(shape)):
        expected = ndimage.gaussian_filter1d(expected, sigma, axis, mode="mirror", radius=taps // 2)
    (found,) = draw(always(RandBlurChannelsd, sigma=(sigma, sigma)), image, 1)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_blur_draws_a_sigma_for_every_channel_and_axis():
    image = torch.zeros(2, 9, 9, 9)
    image[:, 4, 4, 4] = 1
    results = torch.stack(draw(always(RandBlurChannelsd), image, 400)).double()
    centre = results[:, :, 4, 4, 4]
    beside = torch.stack([results[:, :, 5, 4, 4], results[:, :, 4, 5, 4], results[:, :, 4, 4, 5]], -1)
    sigmas = (-0.5 / (beside / centre[..., None]).log()).sqrt().reshape(400, 6).T.numpy()
    for i in range(6):
        assert_uniform(np.clip(sigmas[i], 0.5, 1.0), 0.5, 1.0)
        np.testing.assert_allclose(sigmas[i], np.clip(sigmas[i], 0.5, 1.0), atol=1e-5)
        for j in range(i):
            assert_independent(sigmas[i], sigmas[j])


@pytest.mark.parametrize("shape", [(1, 1, 9, 9), (1, 2, 9, 3), (1, 1, 1)], ids=str)
def test_blur_takes_axes_shorter_than_its_kernel(shape):
    image = torch.randn(shape)
    (found,) = draw(always(RandBlurChannelsd, sigma=(1.0, 1.0)), image, 1)
    expected = image.double().numpy()
    for axis in range(1, len(shape)):
        expected = ndimage.gaussian_filter1d(expected, 1.0, axis, mode="mirror", radius=min(3, shape[axis] - 1))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


# --- low resolution ----------------------------------------------------------------------------------------------


def down_and_up(array, sizes):
    """By definition, axis by axis: the voxel below each coarse centre, then lines between the coarse centres."""
    for axis, m in enumerate(sizes):
        n = array.shape[axis]
        nearest = np.floor((np.arange(m) + 0.5) * n / m).astype(int)
        array = np.take(array, nearest, axis)
        centres, wanted = (np.arange(m) + 0.5) * n / m, np.arange(n) + 0.5
        array = np.apply_along_axis(lambda line, x=wanted, c=centres: np.interp(x, c, line), axis, array)
    return array


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("factor", [0.5, 0.63, 0.8, 1.0])
@pytest.mark.parametrize("keep_axis", [None, 0, 1])
def test_low_resolution_is_nearest_down_to_the_rounded_size_and_linear_up(shape, factor, keep_axis):
    image = torch.randn(shape)
    sizes = [n if axis == keep_axis else round(n * factor) for axis, n in enumerate(shape[1:])]
    (found,) = draw(always(RandLowResolutiond, factor=(factor, factor), keep_axis=keep_axis), image, 1)
    assert found.shape == image.shape
    expected = np.stack([down_and_up(channel, sizes) for channel in image.double().numpy()])
    np.testing.assert_allclose(found.numpy(), expected, atol=5e-6)


def test_low_resolution_keeps_one_voxel_at_least():
    (found,) = draw(always(RandLowResolutiond, factor=(0.1, 0.1)), torch.arange(24.0).reshape(1, 4, 6), 1)
    torch.testing.assert_close(found, torch.full((1, 4, 6), 2 * 6 + 3.0))  # the voxel below the centre


def test_low_resolution_draws_one_factor_for_all_axes_of_a_channel():
    lengths = (40, 60)
    image = torch.randn(2, *lengths)
    grids = sorted({tuple(round(n * f) for n in lengths) for f in np.linspace(0.5, 1, 5001)})
    references = torch.stack(
        [
            F.interpolate(F.interpolate(image[None], grid, mode="nearest-exact"), lengths, mode="bilinear")[0]
            for grid in grids
        ]
    )
    sizes = np.empty((2, 400))
    for i, result in enumerate(draw(always(RandLowResolutiond), image, 400)):
        for c in (0, 1):
            distance = (references[:, c] - result[c]).abs().amax((1, 2))
            assert distance.min() < 1e-5
            sizes[c, i] = grids[distance.argmin()][1]
    for found in sizes:
        counts = np.bincount(found.astype(int), minlength=61)[30:]
        expected = np.array([1, *[2] * 29, 1]) / 60 * 400  # the extreme sizes are those of half a step
        assert counts.sum() == 400
        assert stats.chisquare(counts, expected).pvalue > 1e-3
    assert_independent(*sizes)


# --- gamma -------------------------------------------------------------------------------------------------------


def gamma_by_definition(channel, gamma, invert):
    x = channel.astype(np.float64) * (-1 if invert else 1)
    spread = x.max() - x.min()
    y = ((x - x.min()) / spread) ** gamma * spread + x.min()
    y = (y - y.mean()) / y.std() * x.std() + x.mean()
    return y * (-1 if invert else 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.4])
def test_gamma_agrees_with_its_definition_and_with_monai_channel_by_channel(shape, invert, gamma):
    image = torch.randn(shape) * 2 + torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) * 5 - 3
    # two-sided drawing takes a single exponent from a range that ends at 1 only half of the time
    ends = (gamma, 1.0) if gamma < 1 else (1.0, gamma)
    transform = always(RandGammad, gamma=ends, invert=invert)
    transform.R = Fixed(below=gamma < 1, value=gamma)
    (found,) = draw(transform, image, 1)
    peer = AdjustContrast(gamma, invert_image=invert, retain_stats=True)
    for c in range(shape[0]):
        expected = gamma_by_definition(image[c].numpy(), gamma, invert)
        np.testing.assert_allclose(found[c].numpy(), expected, atol=2e-5)
        torch.testing.assert_close(found[c], peer(image[c : c + 1])[0].as_tensor(), atol=2e-5, rtol=1e-5)


class Fixed:
    """Random numbers that open every gate, choose one side of 1, and then give one value."""

    def __init__(self, below, value):
        self.below, self.value = below, value

    def rand(self, *size):
        return np.zeros(size) if size else (0.0 if self.below else 0.9)

    def uniform(self, low, high):
        assert low <= self.value <= high
        return self.value


def exponents(invert, times):
    """Recovered from three voxels at 0, 1/2 and 1 of the range, between which the transform is `t ** gamma`."""
    image = torch.tensor([[-1.0, 3.0, 7.0, 7.0], [0.0, 50.0, 100.0, 0.0]]).reshape(2, 2, 2)
    results = torch.stack(draw(always(RandGammad, invert=invert), image, times)).reshape(times, 2, 4).double()
    low, half, high = results[:, :, 0], results[:, :, 1], results[:, :, 2]
    return -torch.log2((high - half if invert else half - low) / (high - low)).T.numpy()


@pytest.mark.parametrize("invert", [False, True])
def test_gamma_draws_half_of_the_exponents_below_one_and_half_above_for_each_channel(invert):
    found = exponents(invert, 2000)
    for channel in found:
        below, above = channel[channel < 1], channel[channel >= 1]
        assert_rate(len(below), 2000, 0.5)
        assert_uniform(np.clip(below, 0.7, 1), 0.7, 1)
        assert_uniform(np.clip(above, 1, 1.5), 1, 1.5)
    assert found.min() > 0.7 - 1e-5
    assert found.max() < 1.5 + 1e-5
    assert_independent(*found)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_gamma_keeps_mean_standard_deviation_and_order(invert, offset):
    image = torch.randn(2, 12, 12, 12) * torch.tensor([1.0, 30.0]).reshape(2, 1, 1, 1) + offset
    for result in draw(always(RandGammad, invert=invert), image, 20):
        for before, after in zip(image.double(), result.double(), strict=True):
            deviation = before.std().item()
            assert abs(after.mean() - before.mean()).item() < 1e-4 * deviation + 1e-6 * offset
            assert after.std().item() == pytest.approx(deviation, rel=1e-3)
            assert (after.flatten()[before.flatten().argsort()].diff() >= 0).all()


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1000.3, 1e30])
def test_gamma_leaves_a_constant_channel_as_it_is(invert, value):
    image = torch.stack([torch.full((7, 11, 13), value), torch.randn(7, 11, 13)])
    for result in draw(always(RandGammad, invert=invert), image, 10):
        assert torch.equal(result[0], image[0])
        assert not torch.equal(result[1], image[1])


def test_gamma_of_a_nearly_constant_channel_is_finite():
    for step in (1e-45, 1e-38, 1e-30):
        image = torch.zeros(1, 5, 5)
        image[0, 2, 2] = step
        assert all(result.isfinite().all() for result in draw(always(RandGammad), image, 10))
