"""The folded MLP by the C++ library: see `native/mlp.h`."""

import torch

from mednextv2.ops import paths


def forward(y, *arguments):
    """Return the output and the norms `g`; arguments as in `folded_mlp_op`."""
    *rest, residual, norm_eps, grn_eps, grn_sum = arguments
    residual = None if residual is None else paths.channels_last(residual)
    return torch.ops.mednextv2_native.mlp(y, *rest, residual, norm_eps, grn_eps, grn_sum)


def backward(grad, y, *arguments):
    """Return the nine gradients; arguments as in `folded_mlp_backward_op`."""
    dy, *gradients = torch.ops.mednextv2_native.mlp_backward(grad.to(y.dtype), y, *arguments)
    _, _, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, *_ = arguments
    parameters = (norm_weight, norm_bias, w1, b1, w1 if gamma is None else gamma, w1 if beta is None else beta, w2, b2)
    return dy, *(g.to(p.dtype) for g, p in zip(gradients, parameters, strict=True))
