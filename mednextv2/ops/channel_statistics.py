"""The mean and variance of channels over space."""

import torch
from torch import Tensor

from mednextv2.ops import memory_layout
from mednextv2.ops.parameters import Statistics


@torch.no_grad()
def moments(y: Tensor) -> Statistics:
    """Return the mean and biased variance over space, each `(N, C)`, in float32 for half precision."""
    rows = memory_layout.rows(y).to(memory_layout.statistics_dtype(y))
    if y.device.type == "cpu":  # where torch.var_mean takes 9 to 18 times as long
        mean = rows.mean(1)
        return Statistics(mean, (rows - mean[:, None]).square_().mean(1))
    variance, mean = torch.var_mean(rows, dim=1, correction=0)
    return Statistics(mean, variance)
