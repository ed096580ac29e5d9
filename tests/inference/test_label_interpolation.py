"""Labels between voxels, in C++ and in PyTorch, against interpolating all logits."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mednextv2 import ops
from mednextv2.data import LabelScheme
from mednextv2.inference import label_interpolation
from mednextv2.inference.label_interpolation import labels_between, logits_between
from mednextv2.ops import native
from mednextv2.transforms.spline_resize import linear_taps

# where the library can be built, it must be there: what is compared would else be one and the same
pytestmark = pytest.mark.skipif(
    bool(native._unfit() or native._without_compiler()), reason="no C++ compiler for x86-64 Linux"
)

MODES = {3: "trilinear", 2: "bilinear"}


def scheme_of(outputs, regions=False):
    if not regions:
        return LabelScheme(["background", *(f"class {i}" for i in range(1, outputs))])
    # painted in an order that is not that of the values, and one value by two regions
    entries = [{"name": f"region {i}", "values": [1 + i % 3], "paint": 1 + (2 * i + 1) % 3} for i in range(outputs)]
    return LabelScheme(["background", "a", "b", "c"], entries)


def make(outputs, shape, dtype=torch.float32, seed=0, smooth=True):
    """Return weighted sums with the channels last in memory, and weights; logits are 0 on average."""
    torch.manual_seed(seed)
    coarse = torch.randn(1, outputs, *(max(1, n // 3) for n in shape)) * 5
    logits = F.interpolate(coarse, shape, mode=MODES[len(shape)])[0] if smooth else torch.randn(outputs, *shape)
    weights = torch.rand(shape) + 0.1
    sums = (logits * weights).movedim(0, -1).contiguous().to(dtype).movedim(-1, 0)
    return sums, weights


def both(sums, weights, taps, scheme):
    """Return what C++ and what PyTorch decides."""
    assert label_interpolation._fit_for_native(sums, scheme)
    fast = labels_between(sums, weights, taps, scheme)
    with ops.use("torch"):
        assert not label_interpolation._fit_for_native(sums, scheme)
        return fast, labels_between(sums, weights, taps, scheme)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("outputs", [2, 3, 7, 8, 9, 16, 50, 117])
def test_classes_are_those_of_all_logits_interpolated(outputs, dtype):
    for shape, target in (((9, 13, 7), (17, 13, 5)), ((5, 1, 11), (5, 1, 24)), ((12, 10), (19, 7))):
        sums, weights = make(outputs, shape, dtype, seed=outputs)
        taps = {a: linear_taps(n, m) for a, (n, m) in enumerate(zip(shape, target, strict=True)) if n != m}
        scheme = scheme_of(outputs)
        logits = F.interpolate((sums.float() / weights)[None], target, mode=MODES[len(shape)])[0]
        fast, plain = both(sums, weights, taps, scheme)
        clear = logits.topk(2, 0).values.diff(dim=0)[0].abs() > 1e-4  # rounding decides between equals
        assert clear.double().mean() > 0.99
        assert torch.equal(fast[clear], logits.argmax(0).to(fast.dtype)[clear])
        assert torch.equal(plain[clear], fast[clear])
        assert torch.allclose(logits_between(sums, weights, taps), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_channels_may_be_first(half):
    sums, weights = make(5, (9, 13, 7), torch.float16 if half else torch.float32)
    taps, scheme = {1: linear_taps(13, 20)}, scheme_of(5)
    expected = labels_between(sums, weights, taps, scheme)
    assert torch.equal(labels_between(sums.contiguous(), weights, taps, scheme), expected)
    same = labels_between(sums, weights, {}, scheme)
    assert torch.equal(labels_between(sums.contiguous(), weights, {}, scheme), same)
    assert torch.equal(same, sums.argmax(0).to(torch.uint8))


@pytest.mark.parametrize("outputs", [1, 3, 8, 13, 31])
def test_regions_are_those_of_all_logits_interpolated(outputs):
    shape, target = (9, 13, 7), (17, 10, 9)
    sums, weights = make(outputs, shape, seed=outputs)
    taps = {a: linear_taps(n, m) for a, (n, m) in enumerate(zip(shape, target, strict=True))}
    scheme = scheme_of(outputs, regions=True)
    logits = F.interpolate((sums / weights)[None], target, mode="trilinear")[0]
    fast, plain = both(sums, weights, taps, scheme)
    clear = (logits.abs() > 1e-4).all(0)
    assert clear.double().mean() > 0.99
    assert torch.equal(fast[clear], scheme.decide(logits)[0][clear])
    assert torch.equal(fast[clear], plain[clear])


def test_random_grids_agree():
    random = np.random.default_rng(0)
    for seed in range(60):
        shape, target = (tuple(random.integers(1, 14, 3).tolist()) for _ in range(2))
        outputs, regions = int(random.integers(2, 40)), bool(random.integers(2))
        regions &= outputs <= 31
        dtype = torch.float16 if random.integers(2) else torch.float32
        sums, weights = make(outputs, shape, dtype, seed, smooth=bool(random.integers(2)))
        taps = {a: linear_taps(n, m) for a, (n, m) in enumerate(zip(shape, target, strict=True)) if random.integers(3)}
        fast, plain = both(sums, weights, taps, scheme_of(outputs, regions))
        assert fast.dtype == plain.dtype
        assert fast.shape == plain.shape == tuple(target[a] if a in taps else n for a, n in enumerate(shape))
        different = fast != plain
        if different.any():  # only where rounding decides
            logits = logits_between(sums, weights, taps)
            close = logits.abs().amin(0) if regions else logits.topk(2, 0).values.diff(dim=0)[0].abs()
            assert close[different].max() < 1e-5, (seed, shape, target, outputs, regions, dtype)


def test_many_labels_are_int16():
    sums, weights = make(300, (5, 6, 4), smooth=False)
    fast, plain = both(sums, weights, {0: linear_taps(5, 9)}, scheme_of(300))
    assert fast.dtype == torch.int16
    assert fast.max() > 255
    assert torch.equal(fast, plain)


def test_the_first_of_equal_classes_wins():
    for outputs in (3, 8, 11, 50):
        sums = torch.zeros(4, 5, 6, outputs)
        sums[..., outputs // 2 :] = 1  # many equal
        taps = {2: linear_taps(6, 11)}
        labels = labels_between(sums.movedim(-1, 0), torch.ones(4, 5, 6), taps, scheme_of(outputs))
        assert (labels == outputs // 2).all()


@pytest.mark.parametrize("outputs", [3, 20])
def test_what_is_not_a_number_gives_a_label_that_exists(outputs):
    sums = torch.full((4, 5, 6, outputs), float("nan"))
    sums[:2] = float("-inf")
    sums[2, ..., 1] = 3
    labels = labels_between(sums.movedim(-1, 0), torch.ones(4, 5, 6), {0: linear_taps(4, 7)}, scheme_of(outputs))
    assert labels.max() < outputs


def test_memory_stays_small():
    """Interpolated logits are never stored: 100 classes on 100³ voxels would be 400 MB."""
    sums, weights = make(100, (10, 10, 10))
    taps = {axis: linear_taps(10, 100) for axis in range(3)}
    with torch.profiler.profile(profile_memory=True) as profile:
        labels_between(sums, weights, taps, scheme_of(100))
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 10**6 <= largest < 3 * 10**6


def test_the_operator_refuses_what_does_not_fit():
    labels = torch.ops.mednextv2_native.labels
    rows, weights = torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4)
    place = [torch.arange(n) for n in (2, 3, 4)]
    share = [torch.zeros(n) for n in (2, 3, 4)]
    assert labels(rows, weights, place, place, share, [], False).shape == (2, 3, 4)
    outside = [*place[:2], torch.tensor([0, 1, 4])]
    for arguments in (
        (rows.double(), weights, place, place, share, [], False),
        (rows.movedim(0, 1), weights, place, place, share, [], False),
        (rows, weights[:1], place, place, share, [], False),
        (rows, weights, place[:2], place, share, [], False),
        (rows, weights, outside, outside, [*share[:2], torch.zeros(3)], [], False),
        (rows, weights, place, place, [*share[:2], torch.zeros(3)], [], False),
        (rows, weights, place, place, share, [1, 2], False),
    ):
        with pytest.raises(RuntimeError, match="mednextv2"):
            labels(*arguments)
