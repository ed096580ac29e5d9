"""Mean and variance of channels over space, against NumPy's in float64."""

import numpy as np
import pytest
import torch

from mednextv2.ops import memory_layout
from mednextv2.ops.channel_statistics import moments

SHAPES = [(2, 3, 5, 4), (3, 8, 4, 5, 6), (1, 1, 1, 2)]


def expected(y):
    axes = tuple(range(2, y.dim()))
    array = y.detach().double().numpy()
    return array.mean(axes), array.var(axes)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_moments_are_those_of_numpy(shape, dtype, result):
    y = memory_layout.channels_last((torch.randn(shape, dtype=torch.float64) * 3 + 1).to(dtype))
    found = moments(y)
    for actual, wanted in zip(found, expected(y), strict=True):
        assert actual.dtype == result
        assert actual.shape == shape[:2]
        np.testing.assert_allclose(actual.numpy(), wanted, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=1e-6)
    assert found._fields == ("mean", "variance")


def test_the_variance_is_the_biased_one():
    y = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 1, 2, 2)
    mean, variance = moments(y)
    assert mean.item() == 3
    assert variance.item() == pytest.approx((4 + 1 + 0 + 9) / 4)


def test_a_large_mean_does_not_drown_the_variance():
    y = torch.randn(1, 4, 8, 8, 8) + 1000
    mean, variance = expected(y)
    found = moments(memory_layout.channels_last(y))
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(found.variance.numpy(), variance, rtol=1e-4)


def test_sums_of_half_precision_do_not_overflow():
    y = torch.full((1, 2, 64, 64), 300.0, dtype=torch.float16)  # 4096 squares of 9e4 each
    mean, variance = moments(y)
    assert mean.tolist() == [[300, 300]]
    assert variance.tolist() == [[0, 0]]


def test_one_voxel_has_no_variance():
    y = torch.randn(2, 3, 1, 1, 1)
    mean, variance = moments(y)
    assert torch.equal(mean, y.flatten(1))
    assert (variance == 0).all()


def test_both_layouts_give_the_same_and_no_gradient_is_followed():
    y = torch.randn(2, 3, 4, 5, 6, requires_grad=True)
    for a, b in zip(moments(y), moments(memory_layout.channels_last(y)), strict=True):
        torch.testing.assert_close(a, b)
        assert not a.requires_grad
