"""A whole block on CUDA: five launches forward, up to ten backward.

Forward: the convolution, with the moments of its tiles; one small kernel that joins these and folds the norm into the
    expansion; the norms; one small kernel for GRN's response; the output. In inference, results that depend only on
    weights are kept between calls if :func:`mednextv2.ops.hold_weights` allows it. Backward: see
    :func:`mednextv2.ops._folded_mlp_triton.backward_folded`, followed by the gradients of the convolution, to which
    that of the residual is added on the way.
"""

from torch import Tensor

from mednextv2.ops import _depthwise_triton as depthwise
from mednextv2.ops import _folded_mlp_triton as folded_mlp
from mednextv2.ops._folded_mlp_launch import Folded
from mednextv2.ops.held_weights import holding, kept
from mednextv2.ops.parameters import Convolution, Mlp, Saved, Settings


def forward(
    x: Tensor, convolution: Convolution, mlp: Mlp, residual: Tensor | None, settings: Settings, keep: bool
) -> tuple[Tensor, Saved]:
    """Return the output and what the backward pass needs.

    Args:
        x: Channels-last, half precision.
        convolution: The depthwise convolution of the block.
        mlp: The weights of the block's inside.
        residual: The tensor that is added to the output, or None.
        settings: The constants of the block's norms.
        keep: Whether results that depend only on weights may be kept for the next call.
    """
    mlp, weight = mlp.contiguous(), convolution.weight
    taps = kept("taps", weight, (weight,), lambda: depthwise.taps(weight), keep)
    y, parts = depthwise.convolve(x, taps, convolution)
    if keep and holding():
        mean, variance = depthwise.moments(parts, y)
        sources = (mlp.w1, mlp.b1, mlp.norm_weight, mlp.norm_bias)
        own = kept(f"w1n {y.dtype}", mlp.norm_weight, sources, lambda: folded_mlp.fold_weights(y, mlp), True)
        folded = Folded(mean, variance, *own)
    else:
        folded = folded_mlp.fold(y, mlp, parts)
    out, g = folded_mlp.forward_folded(y, folded, mlp, residual, settings)
    return out, Saved(y, folded.mean, folded.variance, g, folded.w1n, folded.b1n, taps)


def backward(
    grad: Tensor,
    x: Tensor,
    convolution: Convolution,
    mlp: Mlp,
    saved: Saved,
    settings: Settings,
    need_x: bool,
    own_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Mlp]:
    """Return the gradients of x (empty unless `need_x`), of the convolution's weight and bias, and of the MLP.

    The norm removes the bias again, so the gradient of the bias is zero.
    """
    mlp = mlp.contiguous()
    folded = Folded(saved.mean, saved.variance, saved.w1n, saved.b1n)
    dy, gradients, zeros = folded_mlp.backward_folded(grad, saved.y, folded, mlp, saved.g, settings)
    dx = x.new_empty(0)
    if need_x:
        onto = grad.to(x.dtype) if own_residual else None
        dx = depthwise.input_gradient(dy, x, saved.taps, convolution, onto)
    dw = depthwise.weight_gradient(dy, x, convolution)
    return dx, dw, zeros.to(dw.dtype), gradients
