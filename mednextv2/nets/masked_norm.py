"""Instance normalisation over the visible positions of a feature map."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def masked_instance_norm(
    x: Tensor, visible: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise each channel of each sample over its visible positions; hidden positions become zero.

    Statistics are sums over visible positions in float32 (float64 for float64). Samples may differ in the number of
    their visible positions; without any, a sample is zero.

    Args:
        x: Features, `(N, C, *positions)`; what is at hidden positions has no influence.
        visible: The visible positions, bool, `(N, 1, *positions)`.
        weight: The scale per channel, `(C,)`, or None.
        bias: The shift per channel, `(C,)`, or None.
        eps: The number that is added to the variance.

    Returns:
        A tensor with the shape and dtype of `x`.
    """
    return _MaskedNorm.apply(x, visible, weight, bias, eps)


class _MaskedNorm(Function):
    """Keeps its input for the backward pass; autograd would keep several tensors of its size, in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, visible: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        number = _sum(visible.to(_precision(x))).clamp(min=1)
        mean = _sum(_seen(x, visible)) / number
        centred = _seen(x - mean, visible)
        scale = torch.rsqrt(_sum(centred.square()) / number + eps)
        ctx.save_for_backward(x, visible, weight, bias, number, mean, scale)
        y = centred * (scale if weight is None else scale * _per_channel(weight, x))
        return (y if bias is None else _seen(y + _per_channel(bias, x), visible)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, visible, weight, bias, number, mean, scale = ctx.saved_tensors
        d = _seen(grad, visible)
        normalised = _seen(x - mean, visible) * scale
        total, product = _sum(d), _sum(d * normalised)
        factor = scale if weight is None else scale * _per_channel(weight, x)
        dx = _seen((d - total / number).addcmul_(normalised, product / number, value=-1), visible) * factor
        d_weight = None if weight is None else product.sum(0).flatten().to(weight.dtype)
        d_bias = None if bias is None else total.sum(0).flatten().to(bias.dtype)
        return dx.to(x.dtype), None, d_weight, d_bias, None


def _precision(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _seen(x: Tensor, visible: Tensor) -> Tensor:
    return torch.where(visible, x.to(_precision(x)), 0.0)


def _sum(x: Tensor) -> Tensor:
    return x.sum(list(range(2, x.dim())), keepdim=True)


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.to(_precision(x)).view(1, -1, *[1] * (x.dim() - 2))
