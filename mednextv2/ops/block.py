"""A block as one operator: the depthwise convolution, the folded MLP, the residual.

Forward it is :func:`mednextv2.ops.depthwise` and then :func:`mednextv2.ops.folded_mlp`. Joined, small kernels between
the two are one; where the residual is the input itself, the convolution's gradient is computed on top of the
residual's; and nobody sums the gradient of the convolution's bias, which is zero, since the norm takes the bias out.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mednextv2.ops import choosing, features, implementations
from mednextv2.ops._depthwise_torch import convolve
from mednextv2.ops.depthwise import choose as choose_depthwise
from mednextv2.ops.derivatives import first_only
from mednextv2.ops.folded_mlp import choose as choose_mlp
from mednextv2.ops.folded_mlp import folded_mlp_reference
from mednextv2.ops.parameters import Convolution, Mlp, Settings
from mednextv2.ops.problems import Problem
from mednextv2.ops.shapes import check_block, check_tensor, result_shape

_TENSORS = 2 + len(Mlp._fields)  # weight, bias and the MLP's


def block_reference(
    x: Tensor, convolution: Convolution, mlp: Mlp, residual: Tensor | None = None, settings: Settings | None = None
) -> Tensor:
    """Define :func:`block` by its plain formula; arguments and result as there."""
    weight, bias, stride, transposed = convolution
    norm_eps, grn_eps, grn_sum = settings or Settings()
    y = convolve(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), stride, transposed)
    return folded_mlp_reference(y, *mlp, residual, norm_eps, grn_eps, "sum" if grn_sum else "mean")


def block(
    x: Tensor, convolution: Convolution, mlp: Mlp, residual: Tensor | None = None, settings: Settings | None = None
) -> Tensor:
    """Apply a MedNeXt block: `compress(grn(gelu(expand(norm(depthwise(x)))))) + residual`.

    Args:
        x: `(N, C, *spatial)` in two or three dimensions.
        convolution: The depthwise convolution, see :func:`mednextv2.ops.depthwise`.
        mlp: What follows, see :func:`mednextv2.ops.folded_mlp`; `w1` and `w2` may be the weights of convolutions of
            kernel 1.
        residual: Added to the result, of its shape; `x` itself in a standard block; or None.
        settings: Constants of the norms; by default those of :class:`mednextv2.ops.parameters.Settings`.

    Returns:
        `(N, O, *spatial of the convolution)`, channels-last, in the dtype of `x` (under autocast, autocast's).

    Raises:
        ValueError: For shapes that do not fit each other.

    Source:
        Roy et al. 2023, MedNeXt, sections 2.1 and 2.2 (arXiv:2303.09975); GRN: Woo et al. 2023 (arXiv:2301.00808).
    """
    check_tensor("x", x)
    settings, own = settings or Settings(), residual is x
    x = features.autocast(x)
    residual = None if residual is None or own else residual.to(x.dtype)
    if implementations.plain(x):
        return block_reference(x, convolution, mlp, x if own else residual, settings)
    mlp = mlp._replace(w1=mlp.w1.flatten(1), w2=mlp.w2.flatten(1))
    check_block(x, convolution, mlp, x if own else residual)
    residual = None if residual is None else features.channels_last(residual)
    keep = not torch.is_grad_enabled()
    return block_op(features.channels_last(x), *convolution, *mlp, residual, own, keep, *settings)[0]


@torch.library.custom_op("mednextv2::block", mutates_args=())
def block_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    transposed: bool,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    w2: Tensor,
    b2: Tensor,
    residual: Tensor | None,
    own_residual: bool,
    keep: bool,
    norm_eps: float,
    grn_eps: float,
    grn_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the output, and what the backward pass needs: see `_block_triton.Saved`.

    Beside the arguments of :func:`block`: `own_residual` adds `x`; `keep`, in inference, lets what depends on weights
    alone be kept for the next call, and returns nothing for a backward pass, but empty tensors.
    """
    convolution, settings = Convolution(weight, bias, stride, transposed), Settings(norm_eps, grn_eps, grn_sum)
    mlp = Mlp(norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2)
    residual = x if own_residual else residual
    with features.no_autocast(x):
        kernels = choose(x, convolution, mlp, residual is not None)
        if kernels is not None:
            out, saved = kernels.forward(x, convolution, mlp, residual, settings, keep)
        else:
            y, mean, variance = choose_depthwise(x, weight, stride, transposed).forward(x, convolution)
            module = choose_mlp(y, mlp, residual is not None)
            out, g = module.forward(y, (mean, variance), mlp, residual, settings)
            saved = (y, mean, variance, g, *_nothing(x, 3))
        return out, *(_nothing(x, 7) if keep else saved)


def _nothing(x: Tensor, count: int) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(0) for _ in range(count))


@torch.library.custom_op("mednextv2::block_backward", mutates_args=())
def block_backward_op(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
    transposed: bool,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    w2: Tensor,
    b2: Tensor,
    y: Tensor,
    mean: Tensor,
    variance: Tensor,
    g: Tensor,
    w1n: Tensor,
    b1n: Tensor,
    taps: Tensor,
    own_residual: bool,
    need_x: bool,
    norm_eps: float,
    grn_eps: float,
    grn_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x (empty unless `need_x`), weight, bias and the MLP (those of GRN empty without)."""
    convolution, settings = Convolution(weight, None, stride, transposed), Settings(norm_eps, grn_eps, grn_sum)
    mlp = Mlp(norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2)
    with features.no_autocast(x):
        grad = features.channels_last(grad)
        if w1n.numel():
            from mednextv2.ops import _block_triton as kernels

            saved = kernels.Saved(y, mean, variance, g, w1n, b1n, taps)
            dx, dw, db, d_mlp = kernels.backward(
                grad, x, convolution, mlp, saved, settings, need_x, own_residual
            )  # fmt: skip
            return dx, dw, db, *d_mlp
        dy, d_mlp = choose_mlp(y, mlp, own_residual).backward(grad, y, (mean, variance), mlp, g, settings)
        onto = grad.to(x.dtype) if own_residual and need_x else None
        module = choose_depthwise(x, weight, stride, transposed)
        dx, dw, db = module.backward(features.channels_last(dy), x, convolution, need_x, onto=onto)
        return dx, dw, db, *d_mlp


def choose(x: Tensor, convolution: Convolution, mlp: Mlp, residual: bool) -> ModuleType | None:
    """Return the module of a joined block, or None where its two halves choose for themselves."""
    weight, _, stride, transposed = convolution
    problem = Problem(
        spatial_dims=x.dim() - 2,
        channels=x.shape[1],
        expanded=mlp.w1.shape[0],
        out_channels=mlp.w2.shape[0],
        kernel_size=weight.shape[-1],
        stride=stride,
        transposed=transposed,
        grn=mlp.gamma is not None,
        residual=residual,
        dtype=x.dtype,
    )
    if choosing.choose_for(problem, x.device).name != implementations.TRITON:
        return None
    from mednextv2.ops import _block_triton as kernels

    return kernels


@block_op.register_fake
def _(x, weight, bias, stride, transposed, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, residual, own_residual,
      keep, norm_eps, grn_eps, grn_sum):  # fmt: skip
    space = result_shape(x, weight, stride, transposed)
    out = features.channels_last(x.new_empty(x.shape[0], w2.shape[0], *space))
    if keep:
        return out, *_nothing(x, 7)
    y = features.channels_last(x.new_empty(*x.shape[:2], *space))
    mean, variance = (x.new_empty(x.shape[:2], dtype=features.statistics_dtype(x)) for _ in range(2))
    g = mean.new_empty((x.shape[0], 0 if gamma is None else w1.shape[0]))
    mlp = Mlp(norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2)
    has_residual = own_residual or residual is not None
    if choose(x, Convolution(weight, bias, stride, transposed), mlp, has_residual) is None:
        return out, y, mean, variance, g, *_nothing(x, 3)
    taps = mean.new_empty(weight[0].numel(), weight.shape[0])
    return out, y, mean, variance, g, x.new_empty(w1.shape), mean.new_empty(w1.shape[0]), taps


@block_backward_op.register_fake
def _(grad, x, weight, stride, transposed, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, y, mean, variance, g,
      w1n, b1n, taps, own_residual, need_x, norm_eps, grn_eps, grn_sum):  # fmt: skip
    mlp = (norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2)
    gradients = (w1.new_empty(0) if p is None else torch.empty_like(p) for p in mlp)
    dx = torch.empty_like(x) if need_x else x.new_empty(0)
    return dx, weight.new_empty(weight.shape), weight.new_empty(weight.shape[0]), *gradients


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, bias, stride, transposed, *rest = inputs
    mlp, (residual, own_residual, _, *settings) = rest[: len(Mlp._fields)], rest[len(Mlp._fields) :]
    ctx.save_for_backward(x, weight, *mlp, *output[1:])
    ctx.convolution, ctx.settings = (stride, transposed), settings
    ctx.has_bias, ctx.has_residual, ctx.own_residual = bias is not None, residual is not None, own_residual
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple:
    settings = (None,) * len(Settings._fields)
    if grad is None:
        return (None,) * (_TENSORS + 6 + len(settings))
    x, weight, *rest = ctx.saved_tensors
    need_x = ctx.needs_input_grad[0]
    dx, dw, db, *d_mlp = block_backward_op(
        grad, x, weight, *ctx.convolution, *rest, ctx.own_residual, need_x, *ctx.settings
    )  # fmt: skip
    d_mlp = [gradient if p is not None else None for gradient, p in zip(d_mlp, rest, strict=False)]
    d_residual = grad if ctx.has_residual else None
    convolution = (dw, db if ctx.has_bias else None, None, None)
    return dx if need_x else None, *convolution, *d_mlp, d_residual, None, None, *settings


block_op.register_autograd(_backward, setup_context=_setup_context)
first_only(block_backward_op, "block")
