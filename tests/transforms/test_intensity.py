import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import AdjustContrast, Compose
from scipy import ndimage, stats

from mednextv2.errors import InputError
from mednextv2.transforms.intensity import RandBlurChannelsd, RandGammad, RandLowResolutiond, RandNoised

KINDS = [RandNoised, RandBlurChannelsd, RandLowResolutiond, RandGammad]
PER_CHANNEL = KINDS[1:]
SHAPES = [(1, 9, 8), (3, 12, 7), (1, 6, 9, 7), (2, 8, 5, 6)]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def always(kind, seed=0, **settings):
    """The transform with every gate open."""
    gates = {"prob": 1.0} if kind is RandNoised else {"prob": 1.0, "channel_prob": 1.0}
    return kind("image", **gates | settings).set_random_state(seed)


def visible(kind):
    """Settings with which even images of six voxels an axis are changed: 0.95 times 6 is rounded to 6."""
    return {"factor": (0.5, 0.9)} if kind is RandLowResolutiond else {}


def draw(transform, image, times):
    return [transform({"image": image})["image"] for _ in range(times)]


def assert_rate(count, times, probability):
    """Within 4 standard deviations of the binomial distribution."""
    assert abs(count - times * probability) < 4 * np.sqrt(times * probability * (1 - probability)), count / times


def assert_uniform(values, low, high):
    assert low <= min(values)
    assert max(values) <= high
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def assert_independent(a, b):
    assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(len(a))


# --- gates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "sample", "channel"),
    [
        (RandNoised("image"), 0.1, 1.0),
        (RandBlurChannelsd("image"), 0.2, 0.5),
        (RandLowResolutiond("image", **visible(RandLowResolutiond)), 0.25, 0.5),
        (RandGammad("image"), 0.3, 1.0),
        (RandGammad("image", prob=0.1, invert=True), 0.1, 1.0),
    ],
    ids=["noise", "blur", "low_resolution", "gamma", "inverted_gamma"],
)
def test_samples_and_channels_are_changed_as_often_as_in_nnunet(transform, sample, channel):
    image, times = torch.randn(2, 6, 6), 3000
    results = draw(transform.set_random_state(1), image, times)
    first, second = torch.tensor([[not torch.equal(r[c], image[c]) for c in (0, 1)] for r in results]).T
    assert_rate(int(first.sum()), times, sample * channel)
    assert_rate(int(second.sum()), times, sample * channel)
    assert_rate(int((first & second).sum()), times, sample * channel**2)
    assert_rate(int((first | second).sum()), times, sample * (1 - (1 - channel) ** 2))
    assert all(r is image for r, changed in zip(results, first | second, strict=True) if not changed)


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_zero_and_one_are_never_and_always(kind):
    image = torch.randn(2, 6, 6, 6)
    assert all(result is image for result in draw(kind("image", prob=0.0), image, 50))
    for result in draw(always(kind, **visible(kind)), image, 50):
        assert not any(torch.equal(result[c], image[c]) for c in (0, 1))
    if kind in PER_CHANNEL:
        for unchanged in (image, MetaTensor(image), image.half()):
            results = draw(kind("image", prob=1.0, channel_prob=0.0), unchanged, 20)
            assert all(result is unchanged for result in results)


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


# --- every transform ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_the_callers_image_is_never_changed_and_shares_no_memory_with_the_result(kind, shape, device):
    image = torch.randn(shape, device=device)
    before, data = image.clone(), {"image": image, "label": object()}
    settings = {} if kind is RandNoised else {"channel_prob": 0.5}
    transform = kind("image", prob=1.0, **settings).set_random_state(0)
    for _ in range(20):
        result = transform(data)
        assert torch.equal(image, before)
        assert data["image"] is image
        assert result["label"] is data["label"]
        found = result["image"]
        assert (found.shape, found.dtype, found.device) == (image.shape, torch.float32, image.device)
        assert found is image or found.untyped_storage().data_ptr() != image.untyped_storage().data_ptr()


@pytest.mark.parametrize("kind", PER_CHANNEL)
def test_channels_that_are_not_drawn_keep_every_bit(kind):
    image = torch.randn(4, 6, 7)
    results = draw(kind("image", prob=1.0, channel_prob=0.5, **visible(kind)).set_random_state(0), image, 200)
    kept = np.array([[torch.equal(r[c], image[c]) for c in range(4)] for r in results])
    for c in range(4):
        assert_rate(kept[:, c].sum(), 200, 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_random_state_gives_the_same_results_whatever_the_global_ones_are(kind):
    image = torch.randn(2, 7, 6, 5)
    transform = kind("image", prob=0.5)
    expected = draw(transform.set_random_state(7), image, 20)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    found = draw(kind("image", prob=0.5).set_random_state(7), image, 20)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    others = draw(transform.set_random_state(8), image, 20)
    assert not all(torch.equal(a, b) for a, b in zip(others, expected, strict=True))


def test_seeding_a_pipeline_seeds_all_of_them():
    image = torch.randn(2, 7, 6, 5)
    first, second = (Compose([kind("image", prob=0.7) for kind in KINDS]).set_random_state(3) for _ in range(2))
    results = [(first({"image": image})["image"], second({"image": image})["image"]) for _ in range(10)]
    assert all(torch.equal(a, b) for a, b in results)
    assert not torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_does_not_depend_on_the_layout_in_memory(kind):
    image = torch.randn(2, 7, 6, 5)
    turned = image.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    assert not turned.is_contiguous()
    (expected,), (found,) = draw(always(kind), image, 1), draw(always(kind), turned, 1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_metatensors_stay_metatensors_and_keep_what_they_carry(kind):
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.randn(2, 6, 5, 4), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    image.push_applied_operation({"class": "Spacingd"})
    (found,), (plain,) = draw(always(kind), image, 1), draw(always(kind), image.as_tensor(), 1)
    assert type(plain) is torch.Tensor
    assert type(found) is MetaTensor
    assert torch.equal(found.as_tensor(), plain)
    assert torch.equal(found.affine, affine)
    assert found.meta["filename_or_obj"] == "a.nii.gz"
    assert [operation["class"] for operation in found.applied_operations] == ["Spacingd"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_floating_point_type_is_kept_and_half_precision_is_computed_in_single(kind, dtype):
    image = torch.randn(2, 8, 8, 8).to(dtype) * 4
    (found,) = draw(always(kind), image, 1)
    assert found.dtype == dtype
    if dtype != torch.float64:
        (expected,) = draw(always(kind), image.float(), 1)
        assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize("kind", PER_CHANNEL)
def test_no_value_is_read_back_from_the_device(kind):
    image = torch.empty(2, 8, 8, 8, device="meta")  # has no values: reading one is an error
    (found,) = draw(always(kind), image, 1)
    assert (found.shape, found.device.type) == (image.shape, "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", PER_CHANNEL)
def test_a_gpu_gives_the_same_as_a_cpu(kind):
    image = torch.randn(2, 12, 10, 8)
    for expected, found in zip(draw(always(kind), image, 10), draw(always(kind), image.cuda(), 10), strict=True):
        torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_several_keys_share_the_gate_of_the_sample_alone(kind):
    image = torch.randn(1, 7, 6)
    transform = kind(["a", "b"], prob=0.5).set_random_state(0)
    transform.channel_prob = 1.0
    changed = 0
    for _ in range(100):
        result = transform({"a": image, "b": image})
        assert (result["a"] is image) == (result["b"] is image)
        changed += result["a"] is not image and not torch.equal(result["a"], result["b"])
    assert changed > 30


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_a_missing_key_is_an_error_even_when_nothing_is_drawn_unless_allowed(kind, prob):
    with pytest.raises(KeyError, match="image"):
        kind("image", prob=prob)({"label": 1})
    assert kind("image", prob=prob, allow_missing_keys=True)({"label": 1}) == {"label": 1}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (RandNoised, {"std": (0.1, 0.0)}, "std"),
        (RandNoised, {"std": 0.1}, "std 0.1"),
        (RandNoised, {"std": (-0.1, 0.1)}, "0 or more"),
        (RandBlurChannelsd, {"sigma": (0.5, 1.0, 2.0)}, "sigma"),
        (RandBlurChannelsd, {"sigma": ("a", 1.0)}, "sigma"),
        (RandLowResolutiond, {"factor": (0.5, 1.5)}, "in 0 to 1"),
        (RandLowResolutiond, {"keep_axis": 3}, "keep_axis 3"),
        (RandGammad, {"gamma": (1.2, 1.5)}, "gamma"),
        (RandGammad, {"gamma": (0.5, 0.9)}, "gamma"),
        (RandGammad, {"gamma": (0.0, 1.5)}, "gamma"),
    ],
)
def test_a_wrong_setting_is_named(kind, settings, message):
    with pytest.raises(InputError, match=message):
        kind("image", **settings)
