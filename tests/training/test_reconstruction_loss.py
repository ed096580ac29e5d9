"""The loss of masked autoencoding, in one process and in two."""

import pytest
import torch
from forked_processes import in_two_processes, joined
from monai.data import MetaTensor
from net_helpers import lively, tiny
from torch import nn

from mednextv2.nets import MaskedAutoencoder
from mednextv2.nets.masked_autoencoder import FORMS
from mednextv2.training.masking import BlockMasks
from mednextv2.training.reconstruction_loss import ReconstructionLoss


def some(channels=2, batch=3):
    x, y = torch.randn(batch, channels, 4, 6), torch.randn(batch, channels, 4, 6)
    return y, x, torch.rand(batch, 2, 3) < 0.5


def by_hand(y, x, visible, counted=None):
    """Go through all numbers."""
    total, number = 0.0, 0
    for n, c, i, j in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        if not visible[n, i // 2, j // 2] and (counted is None or counted[n, c % counted.shape[1], i, j]):
            total += (y[n, c, i, j].item() - x[n, c, i, j].item()) ** 2
            number += 1
    return total / max(number, 1)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("counted", [None, 1, 2])
def test_it_is_the_mean_over_voxels_and_channels_of_hidden_cells(channels, counted):
    y, x, visible = some(channels)
    mask = None if counted is None else torch.rand(3, min(counted, channels), 4, 6) < 0.7
    found = ReconstructionLoss()(y, x, visible, mask)
    assert found.item() == pytest.approx(by_hand(y, x, visible, mask), rel=1e-5)


def test_visible_and_uncounted_voxels_have_no_influence_and_no_gradient():
    y, x, visible = some()
    y.requires_grad_()
    counted = torch.rand(3, 1, 4, 6) < 0.7
    seen = (visible.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None] | ~counted).expand_as(y)
    value = ReconstructionLoss()(y, x, visible, counted)
    value.backward()
    assert (y.grad[seen] == 0).all()
    assert (y.grad[~seen] != 0).all()
    x = torch.where(seen, float("nan"), x)
    torch.testing.assert_close(ReconstructionLoss()(y, x, visible, counted), value, rtol=0, atol=0)


def test_it_is_in_full_precision_and_takes_what_monai_has():
    y, x, visible = some()
    with torch.autocast("cpu", torch.bfloat16):
        found = ReconstructionLoss()(y.bfloat16(), MetaTensor(x), visible)
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, ReconstructionLoss()(y.bfloat16().float(), x, visible), rtol=0, atol=0)
    assert ReconstructionLoss()(y.double(), x, visible).dtype == torch.float64


def test_nothing_that_counts_has_no_loss():
    y, x, visible = some()
    y.requires_grad_()
    value = ReconstructionLoss()(y, x, torch.ones_like(visible))
    value.backward()
    assert value == 0
    assert (y.grad == 0).all()


def test_an_image_of_another_shape_is_refused():
    y, x, visible = some()
    with pytest.raises(ValueError, match="is not of image"):
        ReconstructionLoss()(y[:, :1], x, visible)


# ------------------------------------------------------------------------------------------------ two processes


def build(form):
    torch.manual_seed(1)
    return MaskedAutoencoder(lively(tiny(spatial_dims=2, out_channels=1)), form).double()


def batch():
    """Four samples whose numbers of counted voxels differ, and their masks."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 1, 64, 64, generator=generator, dtype=torch.float64)
    counted = torch.rand(4, 1, 64, 64, generator=generator) < torch.tensor([0.1, 0.3, 0.6, 1]).view(4, 1, 1, 1)
    return x, counted


def step(network, rank, samples):
    """Compute the loss and the gradients of the samples of one process."""
    x, counted = (t[samples] for t in batch())
    visible = BlockMasks([64, 64], 16, 0.75, seed=4).training(7, samples)
    value = ReconstructionLoss()(network(x, visible), x, visible, counted)
    value.backward()
    assert all(p.grad is not None for p in network.parameters())
    return value.detach(), {k.removeprefix("module."): p.grad for k, p in network.named_parameters()}


def one_process_of_two(rank, folder):
    with joined(rank, folder):
        return {
            form: step(nn.parallel.DistributedDataParallel(build(form)), rank, range(2 * rank, 2 * rank + 2))
            for form in FORMS
        }


def test_two_processes_have_the_loss_and_the_gradients_of_one_with_both_halves_of_a_batch(tmp_path):
    found = in_two_processes(one_process_of_two, tmp_path)
    for form in FORMS:
        value, gradients = step(build(form), 0, range(4))
        for rank in range(2):
            torch.testing.assert_close(found[rank][form][0], value)
            torch.testing.assert_close(found[rank][form][1], gradients)
