"""The merging of an up block's parts: transformed features, shortcut and skip connection."""

from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

from mednextv2.ops import implementations, memory_layout
from mednextv2.ops.missing_derivatives import first_only

_Index = tuple[EllipsisType | slice, ...]


def upsample_merge_reference(y: Tensor, shortcut: Tensor | None, skip: Tensor | None) -> Tensor:
    """Define :func:`upsample_merge` by its plain formula; the arguments and the result are the same."""
    if shortcut is not None:
        grid = torch.zeros_like(y)
        every_second: _Index = (..., *[slice(None, None, 2)] * (y.dim() - 2))
        grid[every_second] = shortcut
        y = y + grid
    y = F.pad(y, [1, 0] * (y.dim() - 2))
    return y if skip is None else y + skip


def upsample_merge(y: Tensor, shortcut: Tensor | None, skip: Tensor | None) -> Tensor:
    """Add the shortcut at every second voxel, put one zero in front of every axis, and add the skip connection.

    A transposed convolution with kernel size 1 and stride 2 writes only to every second voxel. As a convolution with
    kernel size 1 on the coarse grid and a sum here, it costs an eighth.

    Args:
        y: The output of the block on its grid of `2 n - 1` voxels per axis, `(N, O, *2n-1)`.
        shortcut: The shortcut, `(N, O, *n)`, or None.
        skip: The skip connection, `(N, O, *2n)`, or None.

    Returns:
        The sum, `(N, O, *2n)`, channels-last.

    Source:
        Roy et al. 2023, MedNeXt, section 2.2 (arXiv:2303.09975); the zero in front is as in the authors' code.
    """
    if implementations.plain(y):
        return upsample_merge_reference(y, shortcut, skip)
    return upsample_merge_op(y, shortcut, skip)


@torch.library.custom_op("mednextv2::upsample_merge", mutates_args=())
def upsample_merge_op(y: Tensor, shortcut: Tensor | None, skip: Tensor | None) -> Tensor:
    """Write each part once, without a padded copy or a grid of zeros."""
    behind, second = _places(y.dim())
    if skip is None:
        out = memory_layout.channels_last(y.new_zeros(*y.shape[:2], *[n + 1 for n in y.shape[2:]]))
        out[behind] = y
    else:
        out = skip.to(y.dtype, memory_format=_format(y), copy=True)
        out[behind] += y
    if shortcut is not None:
        out[second] += shortcut
    return out


@upsample_merge_op.register_fake
def _(y, shortcut, skip):
    return memory_layout.channels_last(y.new_empty(*y.shape[:2], *[n + 1 for n in y.shape[2:]]))


@torch.library.custom_op("mednextv2::upsample_merge_backward", mutates_args=())
def upsample_merge_backward_op(grad: Tensor, has_shortcut: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of y and of the shortcut (empty without one); that of the skip connection is `grad`."""
    behind, second = _places(grad.dim())
    shortcut = grad[second].clone(memory_format=_format(grad)) if has_shortcut else grad.new_empty(0)
    return grad[behind].clone(memory_format=_format(grad)), shortcut


@upsample_merge_backward_op.register_fake
def _(grad, has_shortcut):
    like = memory_layout.channels_last(grad.new_empty(*grad.shape[:2], *[n - 1 for n in grad.shape[2:]]))
    half = memory_layout.channels_last(grad.new_empty(*grad.shape[:2], *[n // 2 for n in grad.shape[2:]]))
    return like, half if has_shortcut else grad.new_empty(0)


def _places(dim: int) -> tuple[_Index, _Index]:
    """Return the indices of the voxels after the zeros, and of every second one of these."""
    spatial = dim - 2
    return (..., *[slice(1, None)] * spatial), (..., *[slice(1, None, 2)] * spatial)


def _format(x: Tensor) -> torch.memory_format:
    return torch.channels_last_3d if x.dim() == 5 else torch.channels_last


def _setup_context(ctx, inputs, output) -> None:
    _, shortcut, skip = inputs
    ctx.shortcut_dtype = None if shortcut is None else shortcut.dtype
    ctx.skip_dtype = None if skip is None else skip.dtype


def _backward(ctx, grad):
    has_shortcut = ctx.shortcut_dtype is not None
    dy, shortcut = upsample_merge_backward_op(grad, has_shortcut)
    shortcut = shortcut.to(ctx.shortcut_dtype) if has_shortcut else None
    return dy, shortcut, None if ctx.skip_dtype is None else grad.to(ctx.skip_dtype)


upsample_merge_op.register_autograd(_backward, setup_context=_setup_context)
first_only(upsample_merge_backward_op, "upsample_merge")
