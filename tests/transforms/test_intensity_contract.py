"""What all transforms of intensities have in common: when they act, what they leave alone, what they refuse."""

import numpy as np
import pytest
import torch
from intensity_helpers import SHAPES, always, assert_rate, draw
from monai.data import MetaTensor
from monai.transforms import Compose

from mednextv2.errors import InputError
from mednextv2.transforms.intensity import RandBlurChannelsd, RandGammad, RandLowResolutiond, RandNoised

KINDS = [RandNoised, RandBlurChannelsd, RandLowResolutiond, RandGammad]
PER_CHANNEL = KINDS[1:]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def visible(kind):
    """Settings with which even images of six voxels an axis are changed: 0.95 times 6 is rounded to 6."""
    return {"factor": (0.5, 0.9)} if kind is RandLowResolutiond else {}


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
