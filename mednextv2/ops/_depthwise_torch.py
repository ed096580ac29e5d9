"""The depthwise convolution in PyTorch calls: for every device, dtype and kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mednextv2.ops import memory_layout
from mednextv2.ops.channel_statistics import moments
from mednextv2.ops.parameters import Convolution, Statistics


def forward(x: Tensor, convolution: Convolution) -> tuple[Tensor, Statistics]:
    """Return the result and its moments; the arguments are those of `depthwise_op`."""
    y = memory_layout.channels_last(convolve(x, convolution))
    return y, moments(y)


def backward(
    grad: Tensor, x: Tensor, convolution: Convolution, need_x: bool, onto: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (empty unless `need_x`; with `onto` added), weight and bias."""
    weight, _, stride, transposed = convolution
    if x.device.type == "cpu" and x.dtype != memory_layout.statistics_dtype(x):
        # oneDNN's weight gradient in bfloat16 is wrong for some channels-last shapes: (2, 24, 2, 2, 2) in PyTorch 2.13
        plain = memory_layout.statistics_dtype(x)
        onto = None if onto is None else onto.to(plain)
        dx, dw, db = backward(grad.to(plain), x.to(plain), convolution, need_x, onto)
        return dx.to(x.dtype), dw, db
    w = weight.to(x.dtype)
    padding = [size // 2 for size in weight.shape[2:]]
    ones, zeros = [1] * len(padding), [0] * len(padding)
    # PyTorch's CPU code takes ten times as long for this gradient of the input as for the equivalent forward
    # convolution with a reversed kernel, and 50 times as long for the gradient of the bias as for a sum
    turned = need_x and stride == 1 and x.device.type == "cpu"
    mask = [need_x and not turned, True, False]
    dx, dw, _ = torch.ops.aten.convolution_backward(
        grad, x, w, None, [stride] * len(padding), padding, ones, transposed, zeros, x.shape[1], mask
    )
    if turned:
        dx = convolve(grad, Convolution(w if transposed else w.flip(*range(2, w.dim())), None))
    dx = memory_layout.channels_last(dx) if need_x else x.new_empty(0)
    dx = dx if onto is None else dx.add_(onto)
    db = memory_layout.rows(grad).sum((0, 1), dtype=memory_layout.statistics_dtype(x))
    return dx, dw.to(weight.dtype), db.to(weight.dtype)


def convolve(x: Tensor, convolution: Convolution) -> Tensor:
    """Call PyTorch's convolution in the dtype of `x`; the arguments are those of :func:`mednextv2.ops.depthwise`."""
    weight, bias, stride, transposed = convolution
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    padding = [size // 2 for size in weight.shape[2:]]
    if transposed:
        spread = F.conv_transpose3d if x.dim() == 5 else F.conv_transpose2d
        return spread(x, weight, bias, stride, padding, groups=x.shape[1])
    gather = F.conv3d if x.dim() == 5 else F.conv2d
    return gather(x, weight, bias, stride, padding, groups=x.shape[1])
