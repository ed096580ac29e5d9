"""The inside of a MedNeXt block as one operator: norm, expansion, GELU, GRN, compression, residual.

The expanded tensor, 2 to 8 times as wide as the block's input, is what makes MedNeXt slow and memory-hungry: ordinary
code goes through it five times and keeps two or three copies for the backward pass. Here, it is never stored whole, but
recomputed where it is needed, with one extra matrix product in the forward pass and one in the backward pass.
:func:`folded_mlp_reference` is the definition; the implementations are compared with it.

`_folded_mlp_torch.py` has the mathematics in PyTorch calls, `native/` the same in C++, and `_folded_mlp_triton.py` on
CUDA. All of them are behind two custom operators, so that autograd, `torch.compile`, activation checkpointing and DDP
see
one operation.
"""

from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mednextv2.ops import _folded_mlp_torch, implementation_choice, implementations, memory_layout
from mednextv2.ops.channel_norm import channel_norm
from mednextv2.ops.channel_statistics import moments
from mednextv2.ops.grn import grn
from mednextv2.ops.missing_derivatives import first_only
from mednextv2.ops.parameters import Mlp, Settings, Statistics, pick
from mednextv2.ops.problem_sizes import Problem
from mednextv2.ops.shape_checks import check_grn, check_mlp, check_tensor


def folded_mlp_reference(
    y: Tensor, mlp: Mlp, residual: Tensor | None = None, settings: Settings | None = None
) -> Tensor:
    """Define :func:`folded_mlp` by its plain formula; the arguments and the result are the same."""
    spatial, settings = [1] * (y.dim() - 2), settings or Settings()
    w1, b1, w2, b2 = (p.to(y.dtype) for p in (mlp.w1, mlp.b1, mlp.w2, mlp.b2))
    h = channel_norm(y, mlp.norm_weight, mlp.norm_bias, settings.norm_eps)
    convolution = F.conv3d if y.dim() == 5 else F.conv2d
    h = F.gelu(convolution(h, w1.reshape(*w1.shape[:2], *spatial), b1))
    if mlp.gamma is not None and mlp.beta is not None:
        h = grn(h, mlp.gamma, mlp.beta, settings.grn_eps, "sum" if settings.grn_sum else "mean")
    out = convolution(h, w2.reshape(*w2.shape[:2], *spatial), b2)
    return out if residual is None else residual + out


def folded_mlp(
    y: Tensor,
    mlp: Mlp,
    residual: Tensor | None = None,
    settings: Settings | None = None,
    statistics: Statistics | None = None,
) -> Tensor:
    """Apply norm, expansion, GELU, GRN and compression of a MedNeXt block, and add the residual.

    `out = compress(grn(gelu(expand(norm(y))))) + residual`, with the norm of every channel over space.

    Args:
        y: The output of the depthwise convolution, `(N, C, *spatial)`; float32, float64 or half precision.
        mlp: The weights.
        residual: The tensor that is added to the result, `(N, O, *spatial)`, or None.
        settings: The constants of the norms; by default those of :class:`mednextv2.ops.Settings`.
        statistics: The moments of `y`, as :func:`mednextv2.ops.depthwise` returns them; computed here if None. Their
            gradient is part of that of `y`.

    Returns:
        The output, `(N, O, *spatial)`, channels-last, in the dtype of `y` or of autocast.

    Raises:
        ValueError: If shapes or settings do not fit.

    Source:
        Roy et al. 2023, MedNeXt, section 2.1 (arXiv:2303.09975); GRN: Woo et al. 2023 (arXiv:2301.00808). The folded
        form and its gradients: `docs/fast_block.md`.
    """
    check_tensor("y", y)
    settings = settings or Settings()
    check_grn(mlp, settings)
    y = memory_layout.autocast(y)
    residual = None if residual is None else residual.to(y.dtype)
    if implementations.plain(y):
        return folded_mlp_reference(y, mlp, residual, settings)
    check_mlp(y, mlp, residual, statistics)
    y = memory_layout.channels_last(y)
    statistics = moments(y) if statistics is None else statistics
    mlp = mlp._replace(w1=mlp.w1.flatten(1), w2=mlp.w2.flatten(1))
    residual = None if residual is None else memory_layout.channels_last(residual)
    out, _ = folded_mlp_op(y, *statistics, *mlp, residual, *settings)
    return out


@torch.library.custom_op("mednextv2::folded_mlp", mutates_args=())
def folded_mlp_op(
    y: Tensor,
    mean: Tensor,
    variance: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    w2: Tensor,
    b2: Tensor,
    residual: Tensor | None,
    norm_eps: float,
    grn_eps: float,
    grn_sum: bool,
) -> tuple[Tensor, Tensor]:
    """Run the chosen implementation; return the output and the norms of expanded channels, `(N, E)` or empty."""
    mlp, settings = Mlp(norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2), Settings(norm_eps, grn_eps, grn_sum)
    with memory_layout.no_autocast(y):
        module = choose(y, mlp, residual is not None)
        return module.forward(y, Statistics(mean, variance), mlp, residual, settings)


class _Inputs(NamedTuple):
    """Arguments of `folded_mlp_op`, by name; or their gradients, with None for those that do not exist."""

    y: Tensor | None
    mean: Tensor | None
    variance: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    w1: Tensor | None
    b1: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    w2: Tensor | None
    b2: Tensor | None
    residual: Tensor | None
    norm_eps: float | None
    grn_eps: float | None
    grn_sum: bool | None


class _Saved(NamedTuple):
    """The tensors that are kept for the backward pass, in the order of the arguments of `folded_mlp_backward_op`."""

    y: Tensor
    mean: Tensor
    variance: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    w1: Tensor
    b1: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    w2: Tensor
    b2: Tensor
    g: Tensor


@torch.library.custom_op("mednextv2::folded_mlp_backward", mutates_args=())
def folded_mlp_backward_op(
    grad: Tensor,
    y: Tensor,
    mean: Tensor,
    variance: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    w2: Tensor,
    b2: Tensor,
    g: Tensor,
    norm_eps: float,
    grn_eps: float,
    grn_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of y, norm_weight, norm_bias, w1, b1, gamma, beta (empty without GRN), w2 and b2."""
    mlp, settings = Mlp(norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2), Settings(norm_eps, grn_eps, grn_sum)
    with memory_layout.no_autocast(y):
        grad = memory_layout.channels_last(grad)
        dy, gradients = choose(y, mlp).backward(grad, y, Statistics(mean, variance), mlp, g, settings)
    return dy, *gradients


def choose(y: Tensor, mlp: Mlp, residual: bool = False) -> ModuleType:
    """Return the module of the chosen implementation."""
    problem = Problem(
        spatial_dims=y.dim() - 2,
        channels=y.shape[1],
        expanded=mlp.w1.shape[0],
        out_channels=mlp.w2.shape[0],
        kernel_size=0,
        stride=1,
        transposed=False,
        grn=mlp.gamma is not None,
        residual=residual,
        dtype=y.dtype,
    )
    name = implementation_choice.choose_for(problem, y.device).name
    if name == implementations.NATIVE:
        from mednextv2.ops import _folded_mlp_native as native

        return native
    if name == implementations.TRITON:
        from mednextv2.ops import _folded_mlp_triton as triton

        return triton
    return _folded_mlp_torch


@folded_mlp_op.register_fake
def _(y, mean, variance, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, residual, norm_eps, grn_eps, grn_sum):
    out = memory_layout.channels_last(y.new_empty(y.shape[0], w2.shape[0], *y.shape[2:]))
    return out, mean.new_empty((y.shape[0], 0 if gamma is None else w1.shape[0]))


@folded_mlp_backward_op.register_fake
def _(
    grad, y, mean, variance, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, g, norm_eps, grn_eps, grn_sum
):  # fmt: skip
    absent = w1.new_empty(0)
    like = torch.empty_like
    return (
        like(y), like(norm_weight), like(norm_bias), like(w1), like(b1),
        absent if gamma is None else like(gamma), absent.clone() if beta is None else like(beta), like(w2), like(b2),
    )  # fmt: skip


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    given, (_, g) = _Inputs(*inputs), output
    ctx.save_for_backward(given.y, *pick(Statistics, given), *pick(Mlp, given), g)
    ctx.has_residual, ctx.settings = given.residual is not None, pick(Settings, given)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple:
    gradients = _Inputs(*[None] * len(_Inputs._fields))
    if grad is not None:
        saved = _Saved(*ctx.saved_tensors)
        dy, *d_mlp = folded_mlp_backward_op(grad, *saved, *ctx.settings)
        d_mlp = pick(Mlp, saved).where_given(Mlp(*d_mlp))
        gradients = gradients._replace(y=dy, **d_mlp._asdict(), residual=grad if ctx.has_residual else None)
    return tuple(gradients)


folded_mlp_op.register_autograd(_backward, setup_context=_setup_context)
first_only(folded_mlp_backward_op, "folded_mlp")
