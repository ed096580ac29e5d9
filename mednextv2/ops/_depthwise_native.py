"""The depthwise convolution with the C++ library: see `native/depthwise.h`."""

import torch
from torch import Tensor

from mednextv2.ops.parameters import Convolution, Statistics


def forward(x: Tensor, convolution: Convolution) -> tuple[Tensor, Statistics]:
    """Return the result and its moments; the arguments are those of `depthwise_op`."""
    y, mean, variance = torch.ops.mednextv2_native.depthwise(x, *convolution)
    return y, Statistics(mean, variance)


def backward(
    grad: Tensor, x: Tensor, convolution: Convolution, need_x: bool, onto: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (empty unless `need_x`; with `onto` added), weight and bias."""
    weight, _, stride, transposed = convolution
    grad = grad.to(x.dtype)
    dx, dw, db = torch.ops.mednextv2_native.depthwise_backward(grad, x, weight, stride, transposed, need_x, onto)
    return dx, dw.to(weight.dtype), db.to(weight.dtype)
