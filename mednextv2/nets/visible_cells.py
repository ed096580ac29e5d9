"""Visible cells of a masked image, on the grids of voxels and of features.

A mask divides a patch into cells of equal size, and is a bool tensor `(N, *grid)`: True for a cell that the network
sees. A position of a feature map is visible if any voxel in it is.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def cell_size(visible: Tensor, space: Sequence[int]) -> list[int]:
    """Return the voxels of a cell along each axis.

    Args:
        visible: The visible cells, bool, `(N, *grid)`.
        space: The size of the patch in voxels.

    Raises:
        ValueError: If the mask is not bool, or the patch is not a multiple of its grid.
    """
    grid = list(visible.shape[1:])
    if visible.dtype != torch.bool:
        raise ValueError(f"visible is a bool tensor, True for cells that the network sees, not {visible.dtype}")
    if len(grid) != len(space) or any(g < 1 or n % g for n, g in zip(space, grid, strict=True)):
        raise ValueError(f"visible has a grid of {tuple(grid)} cells, of which a patch {tuple(space)} is no multiple")
    return [n // g for n, g in zip(space, grid, strict=True)]


def visible_positions(visible: Tensor, space: Sequence[int], stride: Sequence[int] | int = 1) -> Tensor:
    """Return which positions of a feature map are visible.

    Args:
        visible: The visible cells, bool, `(N, *grid)`.
        space: The size of the patch in voxels.
        stride: The voxels of a position along each axis; 1 for the voxels themselves.

    Returns:
        A bool tensor, `(N, *positions)`: True where any voxel of the position is visible.

    Raises:
        ValueError: If the mask is not bool, or the patch is not a multiple of its grid or of the stride.

    Example:
        >>> visible_positions(torch.tensor([[True, False, False]]), [6]).int().tolist()
        [[1, 1, 0, 0, 0, 0]]
        >>> visible_positions(torch.tensor([[True, False, False]]), [6], 3).int().tolist()
        [[1, 0]]
    """
    cells = cell_size(visible, space)
    strides = [stride] * len(space) if isinstance(stride, int) else list(stride)
    if any(n % s for n, s in zip(space, strides, strict=True)):
        raise ValueError(f"a patch {tuple(space)} is no multiple of a stride {tuple(strides)}")
    shared = [math.gcd(cell, s) for cell, s in zip(cells, strides, strict=True)]
    fine = _repeat(visible, [cell // g for cell, g in zip(cells, shared, strict=True)])
    return _any(fine, [s // g for s, g in zip(strides, shared, strict=True)])


def _repeat(x: Tensor, times: list[int]) -> Tensor:
    """Repeat every element along the spatial axes."""
    for axis in range(len(times)):  # a view with two axes for each
        x = x.unsqueeze(2 + 2 * axis)
    pairs = [n for size, time in zip(x.shape[1::2], times, strict=True) for n in (size, time)]
    sizes = [size * time for size, time in zip(x.shape[1::2], times, strict=True)]
    return x.expand(x.shape[0], *pairs).reshape(x.shape[0], *sizes)


def _any(x: Tensor, times: list[int]) -> Tensor:
    """Tell for groups of elements along the spatial axes whether any is True."""
    for axis, time in enumerate(times):
        x = x.unflatten(1 + axis, (-1, time)).any(2 + axis)
    return x


def hide(image: Tensor, visible: Tensor) -> Tensor:
    """Return an image with zeros in the hidden cells, whatever is there, NaN included.

    Args:
        image: The image, `(N, C, *space)`.
        visible: The visible cells, bool, `(N, *grid)`.
    """
    return torch.where(visible_positions(visible, image.shape[2:])[:, None], image, 0.0)
