"""The depthwise convolution of a MedNeXt block, with the statistics that its norm needs."""

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mednextv2.ops import _depthwise_torch, implementation_choice, implementations, memory_layout
from mednextv2.ops._depthwise_torch import convolve
from mednextv2.ops.missing_derivatives import first_only
from mednextv2.ops.parameters import Convolution, Statistics
from mednextv2.ops.problem_sizes import Problem
from mednextv2.ops.shape_checks import check_depthwise, check_tensor, result_shape


def depthwise_reference(x: Tensor, convolution: Convolution) -> Tensor:
    """Define :func:`depthwise` by PyTorch's convolutions; the arguments are the same; return only the output."""
    return convolve(x, convolution)


def depthwise(x: Tensor, convolution: Convolution) -> tuple[Tensor, Statistics | None]:
    """Convolve every channel with its own kernel, and return the result and its moments.

    Args:
        x: The input, `(N, C, *spatial)`, in two or three dimensions.
        convolution: The weights. The kernel size k is odd, and k // 2 zeros are padded. The transposed convolution
            turns an axis of n voxels into one of `stride (n - 1) + 1`.

    Returns:
        The result, channels-last, and its moments, as :func:`mednextv2.ops.folded_mlp` takes them, or None if the plain
        definition is used.

    Raises:
        ValueError: If shapes do not fit each other, or the stride is not supported.

    Source:
        Roy et al. 2023, MedNeXt, sections 2.1 and 2.2 (arXiv:2303.09975).
    """
    check_tensor("x", x)
    x = memory_layout.autocast(x)
    if implementations.plain(x):
        return depthwise_reference(x, convolution), None
    check_depthwise(x, convolution)
    y, mean, variance = depthwise_op(memory_layout.channels_last(x), *convolution)
    return y, Statistics(mean, variance)


@torch.library.custom_op("mednextv2::depthwise", mutates_args=())
def depthwise_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, transposed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the chosen implementation; return the result, its mean and its biased variance."""
    convolution = Convolution(weight, bias, stride, transposed)
    with memory_layout.no_autocast(x):
        y, statistics = choose(x, convolution).forward(x, convolution)
        return y, *statistics


class _Inputs(NamedTuple):
    """Arguments of `depthwise_op`, by name; or their gradients, with None for those that do not exist."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    stride: int | None
    transposed: bool | None


@torch.library.custom_op("mednextv2::depthwise_backward", mutates_args=())
def depthwise_backward_op(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, transposed: bool, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (empty unless `need_x`), weight and bias."""
    convolution = Convolution(weight, None, stride, transposed)
    with memory_layout.no_autocast(x):
        return choose(x, convolution).backward(memory_layout.channels_last(grad), x, convolution, need_x)


def choose(x: Tensor, convolution: Convolution) -> ModuleType:
    """Return the module of the chosen implementation."""
    problem = Problem(
        spatial_dims=x.dim() - 2,
        channels=x.shape[1],
        expanded=0,
        out_channels=x.shape[1],
        kernel_size=convolution.weight.shape[-1],
        stride=convolution.stride,
        transposed=convolution.transposed,
        grn=False,
        residual=False,
        dtype=x.dtype,
    )
    name = implementation_choice.choose_for(problem, x.device).name
    if name == implementations.NATIVE:
        from mednextv2.ops import _depthwise_native as native

        return native
    if name == implementations.TRITON:
        from mednextv2.ops import _depthwise_triton as triton

        return triton
    return _depthwise_torch


@depthwise_op.register_fake
def _(x, weight, bias, stride, transposed):
    spatial = result_shape(x, weight, stride, transposed)
    y = memory_layout.channels_last(x.new_empty(*x.shape[:2], *spatial))
    mean = x.new_empty(x.shape[:2], dtype=memory_layout.statistics_dtype(x))
    return y, mean, torch.empty_like(mean)


@depthwise_backward_op.register_fake
def _(grad, x, weight, stride, transposed, need_x):
    dx = torch.empty_like(x) if need_x else x.new_empty(0)
    return dx, weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    given = _Inputs(*inputs)
    _, *statistics = output
    ctx.save_for_backward(given.x, given.weight)
    ctx.has_bias, ctx.stride, ctx.transposed = given.bias is not None, given.stride, given.transposed
    ctx.mark_non_differentiable(*statistics)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    x, weight = ctx.saved_tensors
    need_x, *_ = ctx.needs_input_grad
    dx, dw, db = depthwise_backward_op(grad, x, weight, ctx.stride, ctx.transposed, need_x)
    gradients = _Inputs(x=dx if need_x else None, weight=dw, bias=db if ctx.has_bias else None,
                        stride=None, transposed=None)  # fmt: skip
    return tuple(gradients)


depthwise_op.register_autograd(_backward, setup_context=_setup_context)
first_only(depthwise_backward_op, "depthwise")
