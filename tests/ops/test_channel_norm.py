import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mednextv2.ops import channel_norm

SHAPES = [(1, 1, 5, 7), (2, 3, 8, 6), (3, 4, 1, 9), (1, 5, 3, 5, 7), (2, 3, 4, 4, 4), (3, 2, 1, 1, 2)]


def define(x, weight, bias, eps):
    """(N, C, *space) arrays to float64: one sample and channel after the other."""
    x, weight, bias = (np.asarray(a.detach().double().contiguous()) for a in (x, weight, bias))
    y = np.empty_like(x)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            values = x[n, c]
            deviation = np.sqrt(np.mean((values - np.mean(values)) ** 2) + eps)
            y[n, c] = (values - np.mean(values)) / deviation * weight[c] + bias[c]
    return torch.from_numpy(y)


def layout_of(x):
    return torch.channels_last if x.dim() == 4 else torch.channels_last_3d


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_it_agrees_with_the_definition(shape, channels_last, dtype, tolerance):
    x = (torch.randn(shape, dtype=torch.float64) * 3 - 2).to(dtype)
    weight, bias = torch.randn(shape[1], dtype=dtype), torch.randn(shape[1], dtype=dtype)
    if channels_last:
        x = x.contiguous(memory_format=layout_of(x))
    y = channel_norm(x, weight, bias, 1e-5)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), define(x, weight, bias, 1e-5), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_eps_is_added_to_the_variance(eps):
    x, weight, bias = torch.randn(2, 3, 5, 4).double(), torch.randn(3).double(), torch.randn(3).double()
    torch.testing.assert_close(channel_norm(x, weight, bias, eps), define(x, weight, bias, eps))


def test_eps_is_that_of_torch_unless_given():
    x, weight, bias = torch.randn(2, 3, 5, 4).double() * 1e-2, torch.randn(3).double(), torch.randn(3).double()
    torch.testing.assert_close(channel_norm(x, weight, bias), F.group_norm(x, 3, weight, bias))


@pytest.mark.parametrize("space", [(1, 1), (1, 1, 1)])
@pytest.mark.parametrize("value", [0.0, 3.0, -1e4])
def test_a_channel_of_one_voxel_becomes_its_bias_with_finite_gradients(space, value):
    x = torch.full((2, 4, *space), value, requires_grad=True)
    weight, bias = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    y = channel_norm(x, weight, bias)
    torch.testing.assert_close(y, bias.reshape(1, 4, *space).expand_as(y), rtol=0, atol=0)
    y.square().sum().backward()
    assert x.grad.isfinite().all()
    torch.testing.assert_close(weight.grad, torch.zeros(4))
    torch.testing.assert_close(bias.grad, 4 * bias.detach())  # two samples of 2 * bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_all_zero_channel_becomes_its_bias_with_finite_gradients(dtype):
    x = torch.randn(2, 3, 4, 5, 6).to(dtype)
    x[:, 1] = 0
    x.requires_grad_()
    weight, bias = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    y = channel_norm(x, weight, bias)
    torch.testing.assert_close(y[:, 1], bias[1].to(dtype).expand_as(y[:, 1]), rtol=0, atol=0)
    (y * torch.randn_like(y)).sum().backward()
    for grad in (x.grad, weight.grad, bias.grad):
        assert grad.isfinite().all()
    assert x.grad[:, 1].abs().sum() > 0  # the gradient reaches it


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_mean_of_1000_deviations_costs_no_more_than_its_rounding(channels_last):
    x = torch.randn(2, 4, 24, 25, 23) + 1000
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    weight, bias = torch.rand(4) + 0.5, torch.randn(4)
    y = channel_norm(x, weight, bias)
    torch.testing.assert_close(y.double(), define(x, weight, bias, 1e-5), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (0, 5000), (40, 1), (0, 1e-3)])
def test_half_precision_has_the_statistics_of_float32(dtype, rounding, mean, deviation):
    # beyond float16: the square of 5000, and the sum of 8000 values of 40 (which bfloat16 rounds to a multiple of 2048)
    x = (torch.randn(2, 3, 20, 20, 20) * deviation + mean).to(dtype)
    weight, bias = torch.rand(3) + 0.5, torch.randn(3)
    y = channel_norm(x, weight, bias)
    assert y.dtype == dtype
    expected = define(x, weight, bias, 1e-5)
    assert y.isfinite().all()
    assert ((y.double() - expected).abs() <= rounding * expected.abs() + 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_may_be_in_half_precision_too(dtype):
    x, weight, bias = torch.randn(2, 3, 4, 4).to(dtype), torch.randn(3).to(dtype), torch.randn(3).to(dtype)
    y = channel_norm(x, weight, bias)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), define(x, weight, bias, 1e-5), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("shape", [(2, 3, 3, 4), (1, 2, 2, 3, 3), (2, 2, 1, 1, 1)], ids=str)
def test_gradients_agree_with_finite_differences(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(shape[1], dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(channel_norm, (x, weight, bias))


def test_gradients_in_bfloat16_are_those_of_float64_but_for_rounding():
    x = (torch.randn(2, 3, 8, 8, 8) * 2 + 5).bfloat16()
    weight, direction = torch.rand(3) + 0.5, torch.randn(2, 3, 8, 8, 8)

    def gradient(dtype):
        z = x.to(dtype).requires_grad_()
        (channel_norm(z, weight, torch.zeros(3)) * direction.to(dtype)).sum().backward()
        return z.grad.double()

    expected = gradient(torch.float64)
    assert (gradient(torch.bfloat16) - expected).norm() < 1e-2 * expected.norm()


def test_samples_and_channels_do_not_see_one_another():
    x, weight, bias = torch.randn(3, 4, 5, 6), torch.randn(4), torch.randn(4)
    whole = channel_norm(x, weight, bias)
    for n in range(3):
        for c in range(4):
            alone = channel_norm(x[n : n + 1, c : c + 1], weight[c : c + 1], bias[c : c + 1])
            torch.testing.assert_close(whole[n : n + 1, c : c + 1], alone)


@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 3, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_channels_last_input_gives_a_channels_last_output(shape, dtype):
    x = torch.randn(shape).to(dtype)
    x = x.contiguous(memory_format=layout_of(x))
    y = channel_norm(x, torch.ones(3), torch.zeros(3))
    assert y.is_contiguous(memory_format=layout_of(x))
    assert channel_norm(x.contiguous(), torch.ones(3), torch.zeros(3)).is_contiguous()


def test_the_input_is_not_changed():
    x = torch.randn(2, 3, 4, 5)
    before = x.clone()
    channel_norm(x, torch.randn(3), torch.randn(3))
    assert torch.equal(x, before)
