"""The depthwise convolution of a MedNeXt block, with the statistics that its norm needs."""

from types import ModuleType

import torch
from torch import Tensor

from mednextv2.ops import _depthwise_torch, choosing, features, implementations
from mednextv2.ops._depthwise_torch import convolve
from mednextv2.ops.derivatives import first_only
from mednextv2.ops.parameters import Convolution
from mednextv2.ops.problems import Problem
from mednextv2.ops.shapes import check_depthwise, check_tensor, result_shape


def depthwise_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, transposed: bool = False
) -> Tensor:
    """Define :func:`depthwise` by PyTorch's convolutions; arguments as there, returns the output alone."""
    return convolve(x, weight, bias, stride, transposed)


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, transposed: bool = False
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Convolve every channel with a kernel of its own, and return the moments of the result beside it.

    Args:
        x: `(N, C, *spatial)` in two or three dimensions.
        weight: `(C, 1, k, k, k)` (or two k), k odd; padded with k // 2 zeros.
        bias: `(C,)` or None.
        stride: 1 or 2.
        transposed: The transposed convolution: an axis of n voxels becomes one of `stride (n - 1) + 1`.

    Returns:
        The result, channels-last, and its mean and biased variance over space, `(N, C)` each, as
        :func:`mednextv2.ops.folded_mlp` takes them; None in place of these where the plain definition is used.

    Raises:
        ValueError: For shapes that do not fit each other, or another stride.

    Source:
        Roy et al. 2023, MedNeXt, sections 2.1 and 2.2 (arXiv:2303.09975).
    """
    check_tensor("x", x)
    x = features.autocast(x)
    if implementations.plain(x):
        return depthwise_reference(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), stride,
                                   transposed), None  # fmt: skip
    check_depthwise(x, weight, bias, stride)
    y, mean, variance = depthwise_op(features.channels_last(x), weight, bias, stride, transposed)
    return y, (mean, variance)


@torch.library.custom_op("mednextv2::depthwise", mutates_args=())
def depthwise_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, transposed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the chosen path; returns the result, its mean and its biased variance."""
    with features.no_autocast(x):
        return choose(x, weight, stride, transposed).forward(x, Convolution(weight, bias, stride, transposed))


@torch.library.custom_op("mednextv2::depthwise_backward", mutates_args=())
def depthwise_backward_op(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, transposed: bool, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (empty unless `need_x`), weight and bias."""
    convolution = Convolution(weight, None, stride, transposed)
    with features.no_autocast(x):
        return choose(x, weight, stride, transposed).backward(features.channels_last(grad), x, convolution, need_x)


def choose(x: Tensor, weight: Tensor, stride: int = 1, transposed: bool = False) -> ModuleType:
    """Return the module of the chosen path."""
    channels = x.shape[1]
    problem = Problem(
        x.dim() - 2, channels, 0, channels, weight.shape[-1], stride, transposed, False, False, x.dtype
    )  # fmt: skip
    path = choosing.choose_for(problem, x.device).name
    if path == implementations.NATIVE:
        from mednextv2.ops import _depthwise_native as native

        return native
    if path == implementations.TRITON:
        from mednextv2.ops import _depthwise_triton as triton

        return triton
    return _depthwise_torch


@depthwise_op.register_fake
def _(x, weight, bias, stride, transposed):
    spatial = result_shape(x, weight, stride, transposed)
    y = features.channels_last(x.new_empty(*x.shape[:2], *spatial))
    mean = x.new_empty(x.shape[:2], dtype=features.statistics_dtype(x))
    return y, mean, torch.empty_like(mean)


@depthwise_backward_op.register_fake
def _(grad, x, weight, stride, transposed, need_x):
    dx = torch.empty_like(x) if need_x else x.new_empty(0)
    return dx, weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, stride, transposed = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias, ctx.stride, ctx.transposed = bias is not None, stride, transposed
    ctx.mark_non_differentiable(output[1], output[2])


def _backward(ctx, grad, _, __):
    x, weight = ctx.saved_tensors
    need_x = ctx.needs_input_grad[0]
    dx, dw, db = depthwise_backward_op(grad, x, weight, ctx.stride, ctx.transposed, need_x)
    return dx if need_x else None, dw, db if ctx.has_bias else None, None, None


depthwise_op.register_autograd(_backward, setup_context=_setup_context)
first_only(depthwise_backward_op, "depthwise")
