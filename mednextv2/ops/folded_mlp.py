"""The inside of a MedNeXt block as one operator: norm, expansion, GELU, GRN, compression, residual.

The expanded tensor, 2 to 8 times as wide as the block's input, is what makes MedNeXt slow and hungry: the usual code
walks over it five times and keeps two or three copies for the backward pass. Here it is never stored whole: it is made
again where it is needed, one extra matrix product forward and one backward. :func:`folded_mlp_reference` is the
definition; the other paths are compared with it.

`_folded_mlp_torch.py` has the mathematics in PyTorch calls, `native/` the same in C++, `_folded_mlp_triton.py` on CUDA.
All of them are behind two custom operators, so that autograd, `torch.compile`, activation checkpointing and DDP see
one operation.
"""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from mednextv2.ops import _folded_mlp_torch as folded
from mednextv2.ops import choosing, features, implementations
from mednextv2.ops.channel_norm import channel_norm
from mednextv2.ops.derivatives import first_only
from mednextv2.ops.grn import grn
from mednextv2.ops.parameters import Mlp, Settings
from mednextv2.ops.problems import Problem
from mednextv2.ops.shapes import check_grn, check_mlp, check_tensor
from mednextv2.ops.statistics import moments


def folded_mlp_reference(
    y: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    compress_weight: Tensor,
    compress_bias: Tensor,
    residual: Tensor | None = None,
    norm_eps: float = 1e-5,
    grn_eps: float = 1e-6,
    grn_denominator: str = "mean",
) -> Tensor:
    """Define :func:`folded_mlp` by its plain formula; arguments and result as there."""
    spatial = [1] * (y.dim() - 2)
    expand_weight, expand_bias, compress_weight, compress_bias = (
        p.to(y.dtype) for p in (expand_weight, expand_bias, compress_weight, compress_bias)
    )
    h = channel_norm(y, norm_weight, norm_bias, norm_eps)
    convolution = F.conv3d if y.dim() == 5 else F.conv2d
    h = F.gelu(convolution(h, expand_weight.reshape(*expand_weight.shape[:2], *spatial), expand_bias))
    if gamma is not None and beta is not None:
        h = grn(h, gamma, beta, grn_eps, grn_denominator)
    out = convolution(h, compress_weight.reshape(*compress_weight.shape[:2], *spatial), compress_bias)
    return out if residual is None else residual + out


def folded_mlp(
    y: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    compress_weight: Tensor,
    compress_bias: Tensor,
    residual: Tensor | None = None,
    norm_eps: float = 1e-5,
    grn_eps: float = 1e-6,
    grn_denominator: str = "mean",
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Apply norm, expansion, GELU, GRN and compression of a MedNeXt block, and add the residual.

    `out = compress(grn(gelu(expand(norm(y))))) + residual`, with the norm of every channel over space.

    Args:
        y: Output of the depthwise convolution, `(N, C, *spatial)`; float32, float64 or half precision.
        norm_weight: Scale of the norm, `(C,)`.
        norm_bias: Shift of the norm, `(C,)`.
        expand_weight: `(E, C)`, or the weight of a convolution of kernel 1.
        expand_bias: `(E,)`.
        gamma: Gain of GRN, `(E,)`; None for a block without GRN (v1).
        beta: Shift of GRN, `(E,)`; None where gamma is.
        compress_weight: `(O, E)`, or the weight of a convolution of kernel 1.
        compress_bias: `(O,)`.
        residual: Added to the result, `(N, O, *spatial)`, or None.
        norm_eps: Added to the variance.
        grn_eps: Added to GRN's denominator.
        grn_denominator: `"mean"` or `"sum"`.
        statistics: Mean and biased variance of `y` over space, `(N, C)` each, as :func:`mednextv2.ops.depthwise`
            returns them; computed here where None. Their gradient is part of that of `y`.

    Returns:
        `(N, O, *spatial)`, channels-last, in the dtype of `y` (under autocast, autocast's).

    Raises:
        ValueError: For shapes that do not fit each other, or another denominator.

    Source:
        Roy et al. 2023, MedNeXt, section 2.1 (arXiv:2303.09975); GRN: Woo et al. 2023 (arXiv:2301.00808). The folded
        form and its gradients: `docs/fast_block.md`.
    """
    check_tensor("y", y)
    check_grn(gamma, beta, grn_denominator)
    y = features.autocast(y)
    residual = None if residual is None else residual.to(y.dtype)
    if implementations.plain(y):
        return folded_mlp_reference(
            y, norm_weight, norm_bias, expand_weight, expand_bias, gamma, beta, compress_weight, compress_bias,
            residual, norm_eps, grn_eps, grn_denominator,
        )  # fmt: skip
    parameters = (norm_weight, norm_bias, expand_weight, expand_bias, gamma, beta, compress_weight, compress_bias)
    check_mlp(y, parameters, residual, statistics)
    y = features.channels_last(y)
    mean, variance = moments(y) if statistics is None else statistics
    out, _ = folded_mlp_op(
        y, mean, variance, norm_weight, norm_bias, expand_weight.flatten(1), expand_bias, gamma, beta,
        compress_weight.flatten(1), compress_bias, None if residual is None else features.channels_last(residual),
        norm_eps, grn_eps, grn_denominator == "sum",
    )  # fmt: skip
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
    """Run the chosen path; returns the output and the norm of each expanded channel, `(N, E)` (empty without GRN)."""
    mlp, settings = Mlp(norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2), Settings(norm_eps, grn_eps, grn_sum)
    with features.no_autocast(y):
        return choose(y, mlp, residual is not None).forward(y, (mean, variance), mlp, residual, settings)


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
    with features.no_autocast(y):
        grad = features.channels_last(grad)
        dy, gradients = choose(y, mlp).backward(grad, y, (mean, variance), mlp, g, settings)
    return dy, *gradients


def choose(y: Tensor, mlp: Mlp, residual: bool = False) -> ModuleType:
    """Return the module of the chosen path."""
    expanded, out = mlp.w1.shape[0], mlp.w2.shape[0]
    problem = Problem(
        y.dim() - 2, y.shape[1], expanded, out, 0, 1, False, mlp.gamma is not None, residual, y.dtype
    )  # fmt: skip
    path = choosing.choose_for(problem, y.device).name
    if path == implementations.NATIVE:
        from mednextv2.ops import _folded_mlp_native as native

        return native
    if path == implementations.TRITON:
        from mednextv2.ops import _folded_mlp_triton as triton

        return triton
    return folded


@folded_mlp_op.register_fake
def _(y, mean, variance, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, residual, norm_eps, grn_eps, grn_sum):
    out = features.channels_last(y.new_empty(y.shape[0], w2.shape[0], *y.shape[2:]))
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


def _setup_context(ctx, inputs, output) -> None:
    *tensors, residual, norm_eps, grn_eps, grn_sum = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.has_residual = residual is not None
    ctx.settings = (norm_eps, grn_eps, grn_sum)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, _):
    if grad is None:
        return (None,) * 15
    *inputs, g = ctx.saved_tensors
    gamma, beta = inputs[7], inputs[8]
    dy, *rest = folded_mlp_backward_op(grad, *inputs, g, *ctx.settings)
    if gamma is None:
        rest[4] = None
    if beta is None:
        rest[5] = None
    return dy, None, None, *rest, grad if ctx.has_residual else None, None, None, None


folded_mlp_op.register_autograd(_backward, setup_context=_setup_context)
first_only(folded_mlp_backward_op, "folded_mlp")
