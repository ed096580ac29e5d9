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


def count(network):
    return sum(p.numel() for p in network.parameters())
