import numpy as np
import pytest
import torch

from mednextv2.ops import grn

SHAPES = [(1, 1, 5, 7), (2, 3, 8, 6), (3, 4, 1, 1), (1, 5, 3, 5, 7), (2, 3, 4, 4, 4), (3, 6, 1, 1, 1)]


def define(x, gamma, beta, eps, denominator):
    """(N, C, *space) arrays to float64: one sample after the other, ConvNeXt V2's algorithm 1."""
    x, gamma, beta = (np.asarray(a.detach().double().contiguous()) for a in (x, gamma, beta))
    y = np.empty_like(x)
    for n, sample in enumerate(x):
        norms = [np.sqrt(np.sum(channel**2)) for channel in sample]
        total = sum(norms) / (len(norms) if denominator == "mean" else 1)
        for c, channel in enumerate(sample):
            y[n, c] = gamma[c] * (channel * norms[c] / (total + eps)) + beta[c] + channel
    return torch.from_numpy(y)


def layout_of(x):
    return torch.channels_last if x.dim() == 4 else torch.channels_last_3d


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("denominator", ["mean", "sum"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_agrees_with_the_definition(shape, channels_last, denominator, dtype, tolerance):
    x = (torch.randn(shape, dtype=torch.float64) * 3 - 2).to(dtype)
    gamma, beta = torch.randn(shape[1], dtype=dtype), torch.randn(shape[1], dtype=dtype)
    if channels_last:
        x = x.contiguous(memory_format=layout_of(x))
    y = grn(x, gamma, beta, 1e-6, denominator)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), define(x, gamma, beta, 1e-6, denominator), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("denominator", ["mean", "sum"])
def test_eps_is_added_to_the_denominator(denominator):
    x, gamma, beta = torch.randn(2, 3, 5, 4).double(), torch.randn(3).double(), torch.randn(3).double()
    expected = define(x, gamma, beta, 0.7, denominator)
    torch.testing.assert_close(grn(x, gamma, beta, 0.7, denominator), expected)


def test_mean_and_an_eps_of_1e_6_are_used_unless_given():
    x, gamma, beta = torch.randn(2, 3, 5, 4).double() * 1e-6, torch.randn(3).double(), torch.randn(3).double() * 1e-6
    torch.testing.assert_close(grn(x, gamma, beta), define(x, gamma, beta, 1e-6, "mean"), rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("denominator", ["mean", "sum"])
def test_zero_gamma_and_beta_are_the_identity(dtype, denominator):
    x = torch.randn(2, 3, 4, 5, 6).to(dtype)
    assert torch.equal(grn(x, torch.zeros(3), torch.zeros(3), denominator=denominator), x)


def test_the_mean_form_is_the_sum_form_with_gamma_times_the_channels():
    channels = 5
    x, gamma, beta = torch.randn(2, channels, 3, 4, 5).double(), torch.randn(channels).double(), torch.randn(channels)
    for eps in (1e-6, 0.3):
        mean = grn(x, gamma, beta, eps, "mean")
        torch.testing.assert_close(mean, grn(x, gamma * channels, beta, eps * channels, "sum"), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(mean, grn(x, gamma, beta, eps, "sum"), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("zeros", [slice(1, 2), slice(None)], ids=["one channel", "all channels"])
def test_all_zero_channels_have_finite_gradients(dtype, zeros):
    x = torch.randn(2, 3, 4, 5, 6).to(dtype)
    x[:, zeros] = 0
    x.requires_grad_()
    gamma, beta = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    y = grn(x, gamma, beta)
    torch.testing.assert_close(y[:, zeros], beta[zeros].to(dtype).reshape(1, -1, 1, 1, 1).expand_as(y[:, zeros]))
    (y * torch.randn_like(y)).sum().backward()
    for grad in (x.grad, gamma.grad, beta.grad):
        assert grad.isfinite().all()
    assert x.grad[:, zeros].abs().sum() > 0  # through the added input


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("size", [0.01, 1.0, 200.0])
def test_half_precision_has_the_norms_of_float32(dtype, rounding, size):
    x = (torch.randn(1, 2, 64, 64, 64) * size).to(dtype)
    x[:, 1] *= 0.5
    if size == 200.0:  # the case that float16 cannot hold
        assert x[0, 0].double().norm() > torch.finfo(torch.float16).max
    gamma, beta = torch.tensor([1.5, -0.7]), torch.tensor([0.3, -0.2])
    y = grn(x, gamma, beta)
    assert y.dtype == dtype
    assert y.isfinite().all()
    expected = define(x, gamma, beta, 1e-6, "mean")
    # one rounding each of the scale, the shift and the result
    assert ((y.double() - expected).abs() <= rounding * (2.01 * expected.abs() + 2 * beta.abs().max())).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_may_be_in_half_precision_too(dtype):
    x, gamma, beta = (t.to(dtype) for t in (torch.randn(2, 3, 4, 4), torch.randn(3), torch.randn(3)))
    y = grn(x, gamma, beta)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), define(x, gamma, beta, 1e-6, "mean"), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("shape", [(2, 3, 3, 4), (1, 2, 2, 3, 3), (2, 3, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("denominator", ["mean", "sum"])
def test_gradients_agree_with_finite_differences(shape, denominator):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    gamma, beta = (torch.randn(shape[1], dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *a: grn(*a, 1e-6, denominator), (x, gamma, beta))


def test_gradients_in_float16_are_those_of_float64_but_for_rounding():
    x = (torch.randn(2, 3, 32, 32, 32) * 400).half()  # norm 72000
    gamma, direction = torch.randn(3), torch.randn(2, 3, 32, 32, 32) * 0.01

    def gradient(dtype):
        z = x.to(dtype).requires_grad_()
        (grn(z, gamma, torch.zeros(3)) * direction.to(dtype)).sum().backward()
        return z.grad.double()

    expected = gradient(torch.float64)
    assert (gradient(torch.float16) - expected).norm() < 2e-3 * expected.norm()


def test_channels_of_a_sample_compete_and_samples_do_not():
    x, gamma, beta = torch.randn(3, 4, 5, 6), torch.ones(4), torch.zeros(4)
    whole = grn(x, gamma, beta)
    for n in range(3):
        torch.testing.assert_close(whole[n : n + 1], grn(x[n : n + 1], gamma, beta))
    louder = x.clone()
    louder[:, 0] *= 100
    assert (grn(louder, gamma, beta)[:, 1:].abs() < whole[:, 1:].abs()).all()


@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 3, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_channels_last_input_gives_a_channels_last_output(shape, dtype):
    x = torch.randn(shape).to(dtype)
    x = x.contiguous(memory_format=layout_of(x))
    y = grn(x, torch.ones(3), torch.ones(3))
    assert y.is_contiguous(memory_format=layout_of(x))
    assert grn(x.contiguous(), torch.ones(3), torch.ones(3)).is_contiguous()


def test_the_input_is_not_changed():
    x = torch.randn(2, 3, 4, 5)
    before = x.clone()
    grn(x, torch.randn(3), torch.randn(3))
    assert torch.equal(x, before)


def test_gradients_of_half_precision_do_not_overflow():
    """The gradients of gamma and beta are sums over all voxels, far beyond the largest float16."""
    x = torch.randn(1, 3, 64, 64, 64).half()
    gamma, beta = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    (grn(x, gamma, beta).float() * x.float()).sum().backward()
    y, gamma64, beta64 = x.double(), torch.ones(3).double().requires_grad_(), torch.zeros(3).double().requires_grad_()
    (grn(y, gamma64, beta64) * y).sum().backward()
    assert gamma64.grad.min() > 65504
    torch.testing.assert_close(gamma.grad.double(), gamma64.grad, rtol=2e-3, atol=0)
