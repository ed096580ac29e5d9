"""What the tests of the network share."""

import torch
from torch import nn

from mednextv2.nets import MedNeXt

V1, V2 = {"global_resp_norm": False}, {"global_resp_norm": True}


def tiny(**kwargs):
    settings = {"init_filters": 4, "blocks_down": 1, "blocks_bottleneck": 1, "blocks_up": 1}
    return MedNeXt(**{**settings, **kwargs})


def lively(network):
    """Give every parameter a value that matters; GRN's are zero at first and would hide a mistake."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return network


def image(spatial_dims, size=32, batch=1, channels=1):
    return torch.randn(batch, channels, *[size] * spatial_dims)


def gradients(network, x):
    network.zero_grad()
    outputs = network(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum() for y in outputs).backward()
    return {k: p.grad.clone() for k, p in network.named_parameters()}


def trained(network):
    """Take two steps of training on the operators' fast path."""
    spatial_dims = network.spatial_dims
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(2):
        for name, gradient in gradients(network, image(spatial_dims, batch=2)).items():
            network.get_parameter(name).grad = gradient / (1 + gradient.norm())
        optimizer.step()
    network.zero_grad()
    return network


def assert_same(actual, expected, tolerance=1e-5):
    """Compare tensors, or lists of them, that two paths computed in another order of operations: by their norms."""
    if isinstance(expected, torch.Tensor):
        actual, expected = [actual], [expected]
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).norm() <= tolerance * b.norm()


def count(network):
    return sum(p.numel() for p in network.parameters())


class TwoHeads(nn.Module):
    """Two heads in training, one in evaluation; counts its calls."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.small = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 2, 1), nn.Conv3d(4, 2, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = torch.tanh(self.body(x))
        return [self.head(x), self.small(x[..., ::2])] if self.training else self.head(x)


def patches(count, batch=2):
    """Random inputs of a network of two heads."""
    return [torch.randn(batch, 1, 6, 6, 6) for _ in range(count)]


def loss_of(outputs):
    """Loss of its heads in training."""
    return sum((o.float() ** 2 * w).mean() for w, o in zip((1.0, 0.5), outputs, strict=True))


def train(network, run, inputs, set_to_none=True, autocast=False):
    """Train; return the weights, and the gradients of every step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    gradients = []
    for x in inputs:
        optimizer.zero_grad(set_to_none=set_to_none)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(run(network, x))
        loss.backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
        optimizer.step()
    return [p.detach().clone() for p in network.parameters()], gradients


def usual(network, x):
    """Run a network as it is, where others are recorded."""
    return network(x)
