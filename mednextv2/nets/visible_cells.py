"""Visible cells of a masked image, on the grids of voxels and of features.

A mask divides a patch into cells of equal size, and is a bool tensor `(N, *grid)`: True for a cell that the network
sees. A position of a feature map is visible if any voxel in it is.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mednextv2 import ops


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


class Level(NamedTuple):
    """The visible positions of a feature map, as the rows that :func:`mednextv2.ops.gather_rows` returns of it.

    Attributes:
        runs: The indices of runs of visible positions, int64, on the device of the features.
        length: The positions of a run.
        shape: The shape of the map without its channels, `(N, *positions)`.
        counts: The number of visible positions of each sample.
    """

    runs: Tensor
    length: int
    shape: tuple[int, ...]
    counts: tuple[int, ...]

    def gather(self, x: Tensor) -> Tensor:
        """Return the rows of visible positions, `(rows, C)`, of features `(N, C, *positions)`."""
        return ops.gather_rows(x, self.runs, self.length)

    def scatter(self, rows: Tensor, fill: Tensor | None = None) -> Tensor:
        """Return features, `(N, C, *positions)`, with zeros or `fill`, `(C,)`, at hidden positions."""
        return ops.scatter_rows(rows, self.runs, self.shape, self.length, fill)

    def per_sample(self, *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield parts of rows as features of which all positions are visible: `(n, C, positions, 1, 1)`.

        If all samples have equally many visible positions, they are one part, and otherwise one part each. They are
        views, in which statistics over space are those of the visible positions of a sample.
        """
        if len(set(self.counts)) == 1:
            parts = [(0, len(self.counts), self.counts[0])]
        else:
            starts = itertools.accumulate(self.counts, initial=0)
            parts = [(start, 1, number) for start, number in zip(starts, self.counts, strict=False)]
        for start, samples, number in parts:
            if number > 0:
                yield tuple(as_features(x[start : start + samples * number], samples, self.dims) for x in rows)

    @property
    def dims(self) -> int:
        """The number of spatial axes."""
        return len(self.shape) - 1


def as_features(rows: Tensor, samples: int, dims: int) -> Tensor:
    """View rows, `(samples * positions, C)`, as channels-last features, `(samples, C, positions, 1, 1)`.

    Args:
        rows: The rows of samples, of which all have equally many.
        samples: The number of samples.
        dims: The number of spatial axes.
    """
    return rows.view(samples, -1, *[1] * (dims - 1), rows.shape[1]).movedim(-1, 1)


def as_rows(x: Tensor) -> Tensor:
    """View channels-last features as rows, the opposite of :func:`as_features`."""
    return x.movedim(1, -1).flatten(0, -2)


@torch.compiler.disable  # the number of rows depends on the mask
def plan_level(visible: Tensor, space: Sequence[int], stride: Sequence[int], device: torch.device) -> Level:
    """Find the visible positions of a feature map.

    Args:
        visible: The visible cells, bool, `(N, *grid)`; best on the CPU, since a GPU would have to be waited for.
        space: The size of the patch in voxels.
        stride: The voxels of a position along each axis.
        device: The device of the features.

    Raises:
        ValueError: If the mask is not bool, or the patch is not a multiple of its grid or of the stride.
    """
    cell, step = cell_size(visible, space)[-1], stride[-1]
    length = cell // step if cell % step == 0 else 1
    runs = visible_positions(visible.cpu(), space, [*stride[:-1], step * length])
    counts = (runs.flatten(1).sum(1) * length).tolist()
    positions = [n // s for n, s in zip(space, stride, strict=True)]
    return Level(runs.flatten().nonzero().squeeze(1).to(device), length, (len(visible), *positions), tuple(counts))
