"""The depthwise convolution by the C++ library: see `native/depthwise.h`."""

import torch

from mednextv2.ops.parameters import Convolution


def forward(x, convolution: Convolution):
    """Return the result, its mean and its biased variance; arguments as in `depthwise_op`."""
    return torch.ops.mednextv2_native.depthwise(x, *convolution)


def backward(grad, x, convolution: Convolution, need_x: bool, onto=None):
    """Return the gradients of x (empty unless wanted; with `onto` added), weight and bias."""
    weight, _, stride, transposed = convolution
    grad = grad.to(x.dtype)
    dx, dw, db = torch.ops.mednextv2_native.depthwise_backward(grad, x, weight, stride, transposed, need_x, onto)
    return dx, dw.to(weight.dtype), db.to(weight.dtype)
