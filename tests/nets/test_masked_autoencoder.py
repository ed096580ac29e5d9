"""The masked autoencoder: what it may see, what it returns, and whose weights it has."""

import pytest
import torch
from monai.data import MetaTensor
from net_helpers import TwoHeads, image, lively, tiny

from mednextv2.errors import InputError
from mednextv2.nets import MaskedAutoencoder


def cells(*grid, batch=1, hidden=0.5):
    return torch.rand(batch, *grid) >= hidden


def test_the_dense_form_is_the_network_on_an_image_with_zeros():
    network = lively(tiny(out_channels=1))
    x, visible = image(3, batch=2), cells(2, 2, 2, batch=2)
    big = visible.repeat_interleave(16, 1).repeat_interleave(16, 2).repeat_interleave(16, 3)[:, None]
    torch.testing.assert_close(MaskedAutoencoder(network)(x, visible), network(x * big), rtol=0, atol=0)


def test_the_reconstruction_is_in_full_precision_and_a_plain_tensor():
    network = MaskedAutoencoder(lively(tiny(out_channels=1)))
    with torch.autocast("cpu", torch.bfloat16):
        y = network(MetaTensor(image(3)), cells(2, 2, 2))
    assert type(y) is torch.Tensor
    assert y.dtype == torch.float32
    assert network.double()(image(3).double(), cells(2, 2, 2)).dtype == torch.float64


def test_of_several_heads_the_first_counts_and_all_have_a_gradient():
    network = TwoHeads()
    masked = MaskedAutoencoder(network)
    x, visible = torch.randn(1, 1, 6, 6, 6), torch.ones(1, 1, 1, 1, dtype=torch.bool)
    y = masked(x, visible)
    assert torch.equal(y, network(x)[0])
    y.square().sum().backward()
    assert network.head.weight.grad.abs().sum() > 0
    assert network.small.weight.grad.abs().sum() == 0
    assert all(p.grad is not None for p in masked.parameters())
    assert torch.equal(masked.eval()(x, visible), y)


def test_an_unknown_form_is_refused():
    with pytest.raises(InputError, match="form 'thin': there is no such masked autoencoder; choose one of dense"):
        MaskedAutoencoder(tiny(), "thin")
