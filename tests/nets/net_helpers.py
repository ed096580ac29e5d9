"""What the tests of the network share."""

import torch

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
