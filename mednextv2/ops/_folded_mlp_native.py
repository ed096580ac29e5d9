"""The folded MLP by the C++ library: see `native/mlp.h`."""

import torch

from mednextv2.ops import features
from mednextv2.ops.parameters import Mlp, Settings


def forward(y, statistics, mlp: Mlp, residual, settings: Settings):
    """Return the output and the norms `g`; arguments as in `folded_mlp_op`."""
    residual = None if residual is None else features.channels_last(residual)
    return torch.ops.mednextv2_native.mlp(y, *statistics, *mlp, residual, *settings)


def backward(grad, y, statistics, mlp: Mlp, g, settings: Settings):
    """Return the gradients of y and of the weights; arguments as in `folded_mlp_backward_op`."""
    dy, *gradients = torch.ops.mednextv2_native.mlp_backward(grad.to(y.dtype), y, *statistics, *mlp, g, *settings)
    return dy, mlp.with_dtypes(Mlp(*gradients))
