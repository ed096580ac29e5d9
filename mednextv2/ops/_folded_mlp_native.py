"""The folded MLP with the C++ library: see `native/mlp.h`."""

import torch
from torch import Tensor

from mednextv2.ops import memory_layout
from mednextv2.ops.parameters import Mlp, Settings, Statistics


def forward(
    y: Tensor, statistics: Statistics, mlp: Mlp, residual: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Return the output, `(N, O, *spatial)`, and the norms `g`, `(N, E)`; arguments as for `folded_mlp_op`."""
    residual = None if residual is None else memory_layout.channels_last(residual)
    return torch.ops.mednextv2_native.mlp(y, *statistics, *mlp, residual, *settings)


def backward(
    grad: Tensor, y: Tensor, statistics: Statistics, mlp: Mlp, g: Tensor, settings: Settings
) -> tuple[Tensor, Mlp]:
    """Return the gradients of y and of the weights, given the gradient of the output."""
    dy, *gradients = torch.ops.mednextv2_native.mlp_backward(grad.to(y.dtype), y, *statistics, *mlp, g, *settings)
    return dy, mlp.with_dtypes(Mlp(*gradients))
