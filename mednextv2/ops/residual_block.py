"""A standard block as one operator: the depthwise convolution, then the folded MLP with the input as the residual.

Forward it is these two. Backward, the input's gradient has two parts, that of the residual and that of the convolution:
here the convolution's is computed on top of the residual's, instead of in a tensor of its own that is then added.
"""

import torch
from torch import Tensor

from mednextv2.ops import paths
from mednextv2.ops.depthwise import choose as choose_depthwise
from mednextv2.ops.depthwise import depthwise, depthwise_backward_op
from mednextv2.ops.folded_mlp import choose as choose_mlp
from mednextv2.ops.folded_mlp import folded_mlp, folded_mlp_backward_op
from mednextv2.ops.shapes import check_depthwise, check_grn, check_mlp


def residual_block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    compress_weight: Tensor,
    compress_bias: Tensor,
    norm_eps: float = 1e-5,
    grn_eps: float = 1e-6,
    grn_denominator: str = "mean",
) -> Tensor:
    """Apply a block of stride 1 with its residual connection: `folded_mlp(depthwise(x)) + x`.

    Args:
        x: `(N, C, *spatial)` in two or three dimensions.
        weight: Of the depthwise convolution, see :func:`mednextv2.ops.depthwise`.
        bias: `(C,)` or None.
        norm_weight: This and all that follow: see :func:`mednextv2.ops.folded_mlp`.
        norm_bias: `(C,)`.
        expand_weight: `(E, C)`.
        expand_bias: `(E,)`.
        gamma: `(E,)` or None.
        beta: `(E,)` or None.
        compress_weight: `(C, E)`.
        compress_bias: `(C,)`.
        norm_eps: Added to the variance.
        grn_eps: Added to GRN's denominator.
        grn_denominator: `"mean"` or `"sum"`.

    Returns:
        `(N, C, *spatial)`, channels-last.

    Raises:
        ValueError: For shapes that do not fit each other, or another denominator.

    Source:
        Roy et al. 2023, MedNeXt, section 2.1 (arXiv:2303.09975).
    """
    x = paths.autocast(x)
    if paths.plain(x):
        y, statistics = depthwise(x, weight, bias)
        return folded_mlp(
            y, norm_weight, norm_bias, expand_weight, expand_bias, gamma, beta, compress_weight, compress_bias, x,
            norm_eps, grn_eps, grn_denominator, statistics,
        )  # fmt: skip
    parameters = (norm_weight, norm_bias, expand_weight, expand_bias, gamma, beta, compress_weight, compress_bias)
    check_grn(gamma, beta, grn_denominator)
    check_depthwise(x, weight, bias, 1)
    check_mlp(x, parameters, x)
    return residual_block_op(
        paths.channels_last(x), weight, bias, norm_weight, norm_bias, expand_weight.flatten(1), expand_bias,
        gamma, beta, compress_weight.flatten(1), compress_bias, norm_eps, grn_eps, grn_denominator == "sum",
    )[0]  # fmt: skip


@torch.library.custom_op("mednextv2::residual_block", mutates_args=())
def residual_block_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    w2: Tensor,
    b2: Tensor,
    norm_eps: float,
    grn_eps: float,
    grn_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the output and what the backward pass needs: convolved `y`, its mean and variance, the norms `g`."""
    y, mean, variance = choose_depthwise(x, weight)[0](x, weight, bias, 1, False)
    inputs = (y, mean, variance, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2)
    out, g = choose_mlp(y).forward(*inputs, x, norm_eps, grn_eps, grn_sum)
    return out, y, mean, variance, g


@torch.library.custom_op("mednextv2::depthwise_backward_onto", mutates_args=())
def depthwise_backward_onto_op(grad: Tensor, x: Tensor, weight: Tensor, onto: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, with `onto` added, of weight and of bias, at stride 1."""
    backward = choose_depthwise(x, weight)[1]
    return backward(paths.channels_last(grad), x, weight, 1, False, True, onto=paths.channels_last(onto))


@residual_block_op.register_fake
def _(x, weight, bias, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, norm_eps, grn_eps, grn_sum):
    mean = x.new_empty(x.shape[:2], dtype=paths.statistics_dtype(x))
    g = mean.new_empty((x.shape[0], 0 if gamma is None else w1.shape[0]))
    return torch.empty_like(x), torch.empty_like(x), mean, torch.empty_like(mean), g


@depthwise_backward_onto_op.register_fake
def _(grad, x, weight, onto):
    return torch.empty_like(x), torch.empty_like(weight), weight.new_empty(weight.shape[0])


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, *parameters, norm_eps, grn_eps, grn_sum = inputs
    ctx.save_for_backward(x, weight, *parameters, *output[1:])
    ctx.has_bias = bias is not None
    ctx.settings = (norm_eps, grn_eps, grn_sum)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, *_):
    if grad is None:
        return (None,) * 14
    x, weight, *parameters, y, mean, variance, g = ctx.saved_tensors
    gamma, beta = parameters[4:6]
    dy, *rest = folded_mlp_backward_op(grad, y, mean, variance, *parameters, g, *ctx.settings)
    if gamma is None:
        rest[4] = None
    if beta is None:
        rest[5] = None
    if ctx.needs_input_grad[0]:
        dx, dw, db = depthwise_backward_onto_op(dy, x, weight, grad.to(x.dtype))
    else:  # behind frozen layers
        dx, (_, dw, db) = None, depthwise_backward_op(dy, x, weight, 1, False, False)
    return dx, dw, db if ctx.has_bias else None, *rest, None, None, None


residual_block_op.register_autograd(_backward, setup_context=_setup_context)
