"""A block as one operator: the depthwise convolution, the folded MLP, the residual.

Forward, it is :func:`mednextv2.ops.depthwise` and then :func:`mednextv2.ops.folded_mlp`. In the joined operator, the
small kernels between the two are one; if the residual is the input itself, the convolution's gradient is added to the
residual's as it is computed; and the gradient of the convolution's bias is not summed, since it is zero: the norm
removes the bias.
"""

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mednextv2.ops import _block_in_two_steps as halves
from mednextv2.ops import implementation_choice, implementations, memory_layout
from mednextv2.ops.depthwise import depthwise_reference
from mednextv2.ops.folded_mlp import folded_mlp_reference
from mednextv2.ops.missing_derivatives import first_only
from mednextv2.ops.parameters import Convolution, Mlp, Saved, Settings, pick
from mednextv2.ops.problem_sizes import Problem
from mednextv2.ops.shape_checks import check_block, check_grn, check_tensor, result_shape


def block_reference(
    x: Tensor, convolution: Convolution, mlp: Mlp, residual: Tensor | None = None, settings: Settings | None = None
) -> Tensor:
    """Define :func:`block` by its plain formula; the arguments and the result are the same."""
    return folded_mlp_reference(depthwise_reference(x, convolution), mlp, residual, settings)


def block(
    x: Tensor, convolution: Convolution, mlp: Mlp, residual: Tensor | None = None, settings: Settings | None = None
) -> Tensor:
    """Apply a MedNeXt block: `compress(grn(gelu(expand(norm(depthwise(x)))))) + residual`.

    Args:
        x: The input, `(N, C, *spatial)`, in two or three dimensions.
        convolution: The depthwise convolution: see :func:`mednextv2.ops.depthwise`.
        mlp: The weights of the operations after it: see :func:`mednextv2.ops.folded_mlp`.
        residual: The tensor that is added to the result, with the same shape; `x` itself in a standard block; or None.
        settings: The constants of the norms; by default those of :class:`mednextv2.ops.parameters.Settings`.

    Returns:
        The output, `(N, O, *spatial of the convolution)`, channels-last, in the dtype of `x` or of autocast.

    Raises:
        ValueError: If shapes or settings do not fit.

    Source:
        Roy et al. 2023, MedNeXt, sections 2.1 and 2.2 (arXiv:2303.09975); GRN: Woo et al. 2023 (arXiv:2301.00808).
    """
    check_tensor("x", x)
    settings, own = settings or Settings(), residual is x
    check_grn(mlp, settings)
    x = memory_layout.autocast(x)
    residual = None if residual is None or own else residual.to(x.dtype)
    if implementations.plain(x):
        return block_reference(x, convolution, mlp, x if own else residual, settings)
    mlp = mlp._replace(w1=mlp.w1.flatten(1), w2=mlp.w2.flatten(1))
    check_block(x, convolution, mlp, x if own else residual)
    residual = None if residual is None else memory_layout.channels_last(residual)
    keep = not torch.is_grad_enabled()
    out, *_ = block_op(memory_layout.channels_last(x), *convolution, *mlp, residual, own, keep, *settings)
    return out


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
    """Return the output and the tensors that the backward pass needs: see :class:`mednextv2.ops.parameters.Saved`.

    Besides the arguments of :func:`block`, there are two: `own_residual` adds `x`; `keep`, in inference, allows results
    that depend only on weights to be kept for the next call, and returns empty tensors for the backward pass.
    """
    convolution, settings = Convolution(weight, bias, stride, transposed), Settings(norm_eps, grn_eps, grn_sum)
    mlp = Mlp(norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2)
    residual = x if own_residual else residual
    with memory_layout.no_autocast(x):
        module = choose(x, convolution, mlp, residual is not None)
        out, saved = module.forward(x, convolution, mlp, residual, settings, keep)
        return out, *(_nothing(x, len(Saved._fields)) if keep else saved)


def _nothing(x: Tensor, count: int) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(0) for _ in range(count))


class _Inputs(NamedTuple):
    """Arguments of `block_op`, by name; or their gradients, with None for those that do not exist."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    stride: int | None
    transposed: bool | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    w1: Tensor | None
    b1: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    w2: Tensor | None
    b2: Tensor | None
    residual: Tensor | None
    own_residual: bool | None
    keep: bool | None
    norm_eps: float | None
    grn_eps: float | None
    grn_sum: bool | None


class _Kept(NamedTuple):
    """The tensors that are kept for the backward pass."""

    x: Tensor
    weight: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    w1: Tensor
    b1: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    w2: Tensor
    b2: Tensor
    y: Tensor
    mean: Tensor
    variance: Tensor
    g: Tensor
    w1n: Tensor
    b1n: Tensor
    taps: Tensor


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
    """Return the gradients of x (empty unless `need_x`), weight, bias and the MLP (GRN's are empty without GRN)."""
    convolution, settings = Convolution(weight, None, stride, transposed), Settings(norm_eps, grn_eps, grn_sum)
    mlp, saved = Mlp(norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2), Saved(y, mean, variance, g, w1n, b1n, taps)
    with memory_layout.no_autocast(x):
        module = _joined() if saved.w1n.numel() else halves  # as in the forward pass, even if the choice has changed
        dx, dw, db, d_mlp = module.backward(
            memory_layout.channels_last(grad), x, convolution, mlp, saved, settings, need_x, own_residual
        )  # fmt: skip
        return dx, dw, db, *d_mlp


def choose(x: Tensor, convolution: Convolution, mlp: Mlp, residual: bool) -> ModuleType:
    """Return the module of a joined block, or the one with two steps that choose separately."""
    problem = Problem(
        spatial_dims=x.dim() - 2,
        channels=x.shape[1],
        expanded=mlp.w1.shape[0],
        out_channels=mlp.w2.shape[0],
        kernel_size=convolution.weight.shape[-1],
        stride=convolution.stride,
        transposed=convolution.transposed,
        grn=mlp.gamma is not None,
        residual=residual,
        dtype=x.dtype,
    )
    return _joined() if implementation_choice.choose_for(problem, x.device).name == implementations.TRITON else halves


def _joined() -> ModuleType:
    from mednextv2.ops import _block_triton as triton

    return triton


@block_op.register_fake
def _(x, weight, bias, stride, transposed, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, residual, own_residual,
      keep, norm_eps, grn_eps, grn_sum):  # fmt: skip
    space = result_shape(x, weight, stride, transposed)
    out = memory_layout.channels_last(x.new_empty(x.shape[0], w2.shape[0], *space))
    if keep:
        return out, *_nothing(x, len(Saved._fields))
    y = memory_layout.channels_last(x.new_empty(*x.shape[:2], *space))
    mean, variance = (x.new_empty(x.shape[:2], dtype=memory_layout.statistics_dtype(x)) for _ in range(2))
    g = mean.new_empty((x.shape[0], 0 if gamma is None else w1.shape[0]))
    mlp = Mlp(norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2)
    has_residual = own_residual or residual is not None
    if choose(x, Convolution(weight, bias, stride, transposed), mlp, has_residual) is halves:
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
    given, (_, *saved) = _Inputs(*inputs), output
    ctx.save_for_backward(given.x, given.weight, *pick(Mlp, given), *saved)
    ctx.stride, ctx.transposed, ctx.settings = given.stride, given.transposed, pick(Settings, given)
    ctx.has_bias, ctx.has_residual = given.bias is not None, given.residual is not None
    ctx.own_residual = given.own_residual
    ctx.mark_non_differentiable(*saved)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple:
    gradients = _Inputs(*[None] * len(_Inputs._fields))
    if grad is None:
        return tuple(gradients)
    kept, (need_x, *_) = _Kept(*ctx.saved_tensors), ctx.needs_input_grad
    mlp = pick(Mlp, kept)
    dx, dw, db, *d_mlp = block_backward_op(
        grad, kept.x, kept.weight, ctx.stride, ctx.transposed, *mlp, *pick(Saved, kept), ctx.own_residual, need_x,
        *ctx.settings,
    )  # fmt: skip
    d_mlp = mlp.where_given(Mlp(*d_mlp))
    gradients = gradients._replace(x=dx if need_x else None, weight=dw, bias=db if ctx.has_bias else None)
    return tuple(gradients._replace(**d_mlp._asdict(), residual=grad if ctx.has_residual else None))


block_op.register_autograd(_backward, setup_context=_setup_context)
first_only(block_backward_op, "block")
