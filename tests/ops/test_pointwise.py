"""The convolution of kernel 1, against the sum over channels."""

import pytest
import torch

from mednextv2 import ops

SPACES = [(5, 4), (3, 4, 5), (1, 1), (1, 1, 1)]


def case(space, channels=3, out=4, bias=True, batch=2, dtype=torch.float64):
    weight = torch.randn(out, channels, *[1] * len(space), dtype=dtype)
    return torch.randn(batch, channels, *space, dtype=dtype), weight, torch.randn(out, dtype=dtype) if bias else None


def by_hand(x, weight, bias):
    y = torch.einsum("nc...,oc->no...", x, weight.flatten(1))
    return y if bias is None else y + bias.view(-1, *[1] * (x.dim() - 2))


@pytest.mark.parametrize("path", ["auto", "torch", "reference"])
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize(("channels", "out", "bias"), [(3, 4, True), (1, 8, True), (5, 1, False)])
def test_output_and_gradients_are_those_of_the_sum_over_channels(path, space, channels, out, bias):
    given = [None if v is None else v.requires_grad_() for v in case(space, channels, out, bias)]
    leaves = [v for v in given if v is not None]
    with ops.use(path):
        found = ops.pointwise(*given)
        gradients = torch.autograd.grad(found.square().sum(), leaves)
    expected = by_hand(*given)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), leaves))


@pytest.mark.parametrize("space", SPACES[:2], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_result_is_channels_last_whatever_the_layout_of_the_input(space, channels):
    x, weight, bias = case(space, channels, dtype=torch.float32)
    layout = torch.channels_last_3d if len(space) == 3 else torch.channels_last
    plain = ops.pointwise(x, weight, bias)
    assert plain.is_contiguous(memory_format=layout)
    assert torch.equal(ops.pointwise(x.contiguous(memory_format=layout), weight, bias), plain)


@pytest.mark.parametrize("path", ["auto", "reference"])
def test_autocast_computes_in_its_dtype(path):
    x, weight, bias = case((4, 5, 6), dtype=torch.float32)
    with ops.use(path), torch.autocast("cpu", torch.bfloat16):
        y = ops.pointwise(x, weight, bias)
    assert y.dtype == torch.bfloat16
    exact = by_hand(x, weight, bias)
    assert 0 < (y.float() - exact).norm() < 1e-2 * exact.norm()


def test_no_samples_give_no_samples():
    x, weight, bias = case((4, 5), batch=0)
    assert ops.pointwise(x, weight, bias).shape == (0, 4, 4, 5)


def test_a_trace_holds_pytorchs_convolution():
    x, weight, bias = case((4, 5, 6), dtype=torch.float32)
    traced = torch.jit.trace(ops.pointwise, (x, weight, bias))
    assert "aten::_convolution" in str(traced.graph)
    assert "linear" not in str(traced.graph)


def test_another_number_of_channels_is_refused():
    x, weight, bias = case((4, 5), channels=3)
    with pytest.raises(RuntimeError):
        ops.pointwise(x[:, :2], weight, bias)
