"""The mean and variance of channels over space."""

import torch
from torch import Tensor

from mednextv2.ops import memory_layout
from mednextv2.ops.parameters import Statistics


@torch.no_grad()
def moments(y: Tensor) -> Statistics:
    """Return the mean and biased variance over space, each `(N, C)`, in float32 for half precision."""
    variance, mean = torch.var_mean(memory_layout.rows(y).to(memory_layout.statistics_dtype(y)), dim=1, correction=0)
    return Statistics(mean, variance)
