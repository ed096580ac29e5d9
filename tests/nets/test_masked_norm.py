"""Instance normalisation over visible positions, against PyTorch's of the gathered ones."""

import pytest
import torch
import torch.nn.functional as F

from mednextv2.nets.masked_norm import masked_instance_norm


def some(space, dtype=torch.float64, mean=0.0):
    """Features, a mask with other counts in each sample, scale and shift."""
    x = torch.randn(3, 4, *space, dtype=dtype) + mean
    visible = torch.rand(3, 1, *space) < torch.tensor([0.3, 0.5, 0.8]).view(3, 1, *[1] * len(space))
    return x, visible, torch.randn(4, dtype=dtype), torch.randn(4, dtype=dtype)


def gathered_norm(x, visible, weight, bias, eps):
    """Normalise the visible positions of each sample with PyTorch's InstanceNorm, and put them back."""
    samples = []
    for sample, mask in zip(x, visible, strict=True):
        rows = F.instance_norm(sample[None, :, mask[0]], weight=weight, bias=bias, eps=eps)
        samples.append(torch.zeros_like(sample).masked_scatter(mask, rows))
    return torch.stack(samples)


@pytest.mark.parametrize("space", [(6, 7), (4, 5, 6)])
@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none"])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_it_normalises_the_visible_positions_alone(space, affine, mean):
    x, visible, weight, bias = some(space, mean=mean)
    leaves = {
        "x": x.requires_grad_(),
        "weight": weight.requires_grad_() if affine in ("both", "weight") else None,
        "bias": bias.requires_grad_() if affine in ("both", "bias") else None,
    }
    wanted = [leaf for leaf in leaves.values() if leaf is not None]
    found = masked_instance_norm(visible=visible, eps=1e-3, **leaves)
    expected = gathered_norm(visible=visible, eps=1e-3, **leaves)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(x)
    torch.testing.assert_close(
        torch.autograd.grad((found * direction).sum(), wanted),
        torch.autograd.grad((expected * direction).sum(), wanted),
    )


def test_gradcheck():
    x, visible, weight, bias = (t.requires_grad_() if t.is_floating_point() else t for t in some((3, 2, 2)))
    assert torch.autograd.gradcheck(masked_instance_norm, (x, visible, weight, bias))


def test_hidden_positions_are_zero_and_have_no_influence():
    x, visible, weight, bias = some((4, 4))
    found = masked_instance_norm(x, visible, weight, bias)
    assert (found[~visible.expand_as(x)] == 0).all()
    for other in (7.0, float("nan"), float("inf")):
        changed = torch.where(visible, x, other).requires_grad_()
        again = masked_instance_norm(changed, visible, weight, bias)
        assert torch.equal(again, found)
        again.square().sum().backward()
        assert (changed.grad[~visible.expand_as(x)] == 0).all()


def test_statistics_are_in_single_precision_for_half():
    x, visible, weight, bias = some((8, 8, 8), torch.float32, mean=30)
    found = masked_instance_norm(x.bfloat16(), visible, weight, bias)
    assert found.dtype == torch.bfloat16
    expected = masked_instance_norm(x.bfloat16().double(), visible, weight.double(), bias.double())
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("number", [0, 1])
def test_a_sample_with_hardly_a_visible_position_is_finite(number):
    x, _, weight, bias = some((3, 3))
    visible = torch.zeros(3, 1, 3, 3, dtype=torch.bool)
    visible[:, :, 0, :number] = True
    found = masked_instance_norm(x.requires_grad_(), visible, weight, bias)
    expected = torch.where(visible, bias.view(1, -1, 1, 1), 0.0)  # a single value is its own mean
    torch.testing.assert_close(found, expected.expand_as(x))
    found.sum().backward()
    assert (x.grad == 0).all()
