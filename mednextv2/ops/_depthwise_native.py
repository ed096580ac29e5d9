"""The depthwise convolution by the C++ library: see `native/depthwise.h`."""

import torch


def forward(x, weight, bias, stride, transposed):
    """Return the result, its mean and its biased variance; arguments as in `depthwise_op`."""
    return torch.ops.mednextv2_native.depthwise(x, weight, bias, stride, transposed)


def backward(grad, x, weight, stride, transposed, need_x, onto=None):
    """Return the gradients of x (empty unless wanted; with `onto` added), weight and bias."""
    grad = grad.to(x.dtype)
    dx, dw, db = torch.ops.mednextv2_native.depthwise_backward(grad, x, weight, stride, transposed, need_x, onto)
    return dx, dw.to(weight.dtype), db.to(weight.dtype)
