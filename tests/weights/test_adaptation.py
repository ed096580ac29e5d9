"""Tensors of weights for a network that differs."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from mednextv2 import ops
from mednextv2.weights.adaptation import adapt_channels, convert_grn_gain, enlarge_kernel


def test_every_channel_of_the_file_is_used_alike():
    weight = torch.randn(4, 2, 3, 3)
    adapted = adapt_channels(weight, 5)
    torch.testing.assert_close(adapted.sum(1), weight.sum(1))
    torch.testing.assert_close(adapted[:, 0::2].sum(1), weight[:, 0])
    torch.testing.assert_close(adapted[:, 1::2].sum(1), weight[:, 1])


def test_one_channel_is_repeated_and_divided_as_by_nnunet():
    weight = torch.randn(4, 1, 3, 3, 3)
    torch.testing.assert_close(adapt_channels(weight, 4), weight.repeat(1, 4, 1, 1, 1) / 4)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("small", "large"), [(3, 5), (3, 7), (5, 7), (1, 3), (3, 3)])
def test_kernels_are_enlarged_by_linear_interpolation_between_voxel_centres(small, large, dims):
    """As algorithm 1 of MedNeXt, computed by SciPy: the border is continued, and equal shapes are copied."""
    weight = torch.randn(3, 1, *[small] * dims)
    places = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    grid = np.meshgrid(*[places] * dims, indexing="ij")
    expected = [map_coordinates(filters[0].double().numpy(), grid, order=1, mode="nearest") for filters in weight]
    enlarged = enlarge_kernel(weight, (large,) * dims)
    assert enlarged.shape == (3, 1, *[large] * dims)
    np.testing.assert_allclose(enlarged[:, 0].numpy(), expected, rtol=0, atol=1e-6)
    if small == large:
        assert torch.equal(enlarged, weight)


def test_a_line_becomes_what_it_is_by_hand():
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, :, 1] = 1.0
    torch.testing.assert_close(enlarge_kernel(weight, (5, 5))[0, 0, 2], torch.tensor([0.0, 0.4, 1.0, 0.4, 0.0]))


@pytest.mark.parametrize(("given", "needed"), [("sum", "mean"), ("mean", "sum"), ("sum", "sum"), ("mean", "mean")])
def test_grn_of_one_denominator_computes_the_same_with_the_other(given, needed):
    x = torch.randn(2, 6, 5, 4, 3, dtype=torch.float64)
    gamma, beta = torch.randn(2, 6, dtype=torch.float64)
    expected = ops.grn(x, gamma, beta, denominator=given)
    actual = ops.grn(x, convert_grn_gain(gamma, given, needed), beta, denominator=needed)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)  # 1e-6 is added to either denominator
