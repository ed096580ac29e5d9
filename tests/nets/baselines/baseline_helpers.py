"""What the tests of the baselines share."""

import pytest
import torch
from monai.data import MetaTensor
from net_helpers import count


def heads_of(output):
    return output if isinstance(output, list) else [output]


def check_parameters(make, published, share=0.05):
    """Compare the number of parameters with the published one, of a network without memory."""
    with torch.device("meta"):
        assert count(make()) == pytest.approx(published, rel=share)


def check_shapes(make, size, scales):
    """Check the outputs for a large patch without computing: of each head in training, and the only one otherwise."""
    with torch.device("meta"):
        network, x = make(), torch.zeros(2, 1, *[size] * 3)
        outputs = heads_of(network(x))
        assert [tuple(y.shape[2:]) for y in outputs] == [(size // scale,) * 3 for scale in scales]
        assert all(y.shape[:2] == (2, 14) for y in outputs)
        assert network.eval()(x).shape == (2, 14, size, size, size)


def check_training(network, size):
    """Check a step: every parameter has a gradient, and evaluation returns what the first head does."""
    x = MetaTensor(torch.randn(1, 2, *size))
    outputs = heads_of(network(x))
    assert all(type(y) is torch.Tensor for y in outputs)
    sum((y * torch.randn_like(y)).sum() for y in outputs).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), outputs[0], rtol=1e-4, atol=1e-5)


def check_learning(network, size, steps=12, learning_rate=1e-2):
    """Check that the loss of one patch, a bright ball, falls by more than a third."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    ball = (sum(a**2 for a in axes) < 0.4)[None]
    x = ball[None].float().repeat(1, 2, 1, 1, 1) + 0.1 * torch.randn(1, 2, *size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(heads_of(network(x))[0], ball.long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 1.5, losses


def check_refusal(network, size, message):
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(1, 2, *size))
