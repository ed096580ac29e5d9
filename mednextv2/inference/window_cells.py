"""The image under a sliding window, cut into cells, each of which lies in the same windows throughout."""

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

Index = tuple[int, ...]  # the index of a cell or a window along each axis

_LOWEST = -2000.0  # a shifted logit that never wins; float16 can represent the sum of 27 of them
_CHUNK = 2**18  # how many numbers are added in float32 at a time if sums are in half precision; fits in a cache


@dataclass(frozen=True)
class Axis:
    """One axis of an image under a sliding window.

    Attributes:
        size: Number of voxels of the image.
        patch: Number of voxels of a window.
        starts: First voxel of each window, in rising order; below 0 if the image is shorter than a window.
    """

    size: int
    patch: int
    starts: tuple[int, ...]

    @cached_property
    def edges(self) -> list[int]:
        """Where cells begin, and the end of the last."""
        ends = {start + self.patch for start in self.starts}
        return sorted({min(max(edge, 0), self.size) for edge in {*self.starts, *ends, 0, self.size}})

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.edges) - 1

    def covered(self, window: int) -> range:
        """Return the cells that a window covers."""
        start = self.starts[window]
        first = bisect.bisect_left(self.edges, max(start, 0))
        return range(first, bisect.bisect_right(self.edges, start + self.patch) - 1)

    @cached_property
    def windows(self) -> list[int]:
        """The number of windows that cover each cell."""
        counts = [0] * self.cells
        for window in range(len(self.starts)):
            for cell in self.covered(window):
                counts[cell] += 1
        return counts


def window_order(axes: Sequence[Axis]) -> list[Index]:
    """Return all windows, slab after slab along the longest axis, so that as few voxels as possible wait at any time.

    A window never comes before a window whose indices are all equal to or lower than its own.
    """
    first, *others = sorted(range(len(axes)), key=lambda axis: -axes[axis].size)
    slabs = [[number] for number in range(len(axes[first].starts))]
    starts = axes[first].starts
    # the last window is moved inwards; taken together with the one before it, fewer voxels wait
    if len(starts) > 2 and starts[-1] - starts[-2] < starts[1] - starts[0]:
        slabs[-2:] = [[*slabs[-2], *slabs[-1]]]
    windows = []
    for slab in slabs:
        for *place, number in product(*(range(len(axes[axis].starts)) for axis in others), slab):
            window = {first: number, **dict(zip(others, place, strict=True))}
            windows.append(tuple(window[axis] for axis in range(len(axes))))
    return windows


def most_waiting(axes: Sequence[Axis]) -> int:
    """Return the largest number of voxels in cells that some windows have covered and others have not yet."""
    left: dict[Index, int] = {}
    waiting = most = 0
    for window in window_order(axes):
        done = []
        for index in _covered(axes, window):
            voxels = math.prod(axis.edges[i + 1] - axis.edges[i] for axis, i in zip(axes, index, strict=True))
            if index not in left:
                left[index] = _count(axes, index)
                waiting += voxels
            left[index] -= 1
            if not left[index]:
                done.append(voxels)
        most = max(most, waiting)
        waiting -= sum(done)
    return most


def _covered(axes: Sequence[Axis], window: Index) -> Iterator[Index]:
    return product(*(axis.covered(number) for axis, number in zip(axes, window, strict=True)))


def _count(axes: Sequence[Axis], index: Index) -> int:
    return math.prod(axis.windows[i] for axis, i in zip(axes, index, strict=True))


class Cells:
    """Weighted sums of logits, only of the cells that still wait for a window.

    Args:
        axes: The axes of the image.
        dtype: The type of the sums: float32, or float16, for which the logits of classes should be shifted.
        device: The device of the sums.
        shifted: Whether :func:`shift` is applied to logits before they are added.
    """

    def __init__(self, axes: Sequence[Axis], dtype: torch.dtype, device: torch.device, shifted: bool = False) -> None:
        self.axes, self.dtype, self.device, self.shifted = axes, dtype, device, shifted
        self._free: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        self._held, self._most = 0, most_waiting(axes)  # number of voxels of all cells that have memory
        self._left: dict[Index, int] = {}
        self._sums: dict[Index, Tensor] = {}
        self._weights: dict[Index, Tensor] = {}

    def to(self, device: torch.device) -> None:
        """Move the sums to another device."""
        self.device = device
        self._make_room(self._most)
        for group in (self._sums, self._weights):
            group.update({index: tensor.to(device) for index, tensor in group.items()})

    def reserve(self, window: Index, logits: Tensor) -> None:
        """Allocate memory for the cells of a window, so that :meth:`add` needs no more.

        Args:
            window: The index of the window along each axis.
            logits: The logits of the window, `(C, *patch)`.
        """
        for index in _covered(self.axes, window):
            if index not in self._sums:
                shape = [self.axes[a].edges[i + 1] - self.axes[a].edges[i] for a, i in enumerate(index)]
                free = self._free.get(tuple(shape))
                if free:
                    sums, weights = (tensor.zero_() for tensor in free.pop())
                else:
                    self._make_room(math.prod(shape))
                    self._held += math.prod(shape)
                    sums = zeros(len(logits), shape, logits, self.dtype, self.device)
                    weights = torch.zeros(shape, device=self.device)
                self._sums[index], self._weights[index] = sums, weights

    def add(self, window: Index, logits: Tensor, weights: Tensor) -> list[Index]:
        """Add a window's logits.

        Args:
            window: The index of the window along each axis.
            logits: The logits of the window, `(C, *patch)`, float32.
            weights: The weights of its voxels, `patch`, float32.

        Returns:
            The cells that no further window covers, in rising order.
        """
        self.reserve(window, logits)
        for index in _covered(self.axes, window):
            place = [
                slice(axis.edges[i] - axis.starts[w], axis.edges[i + 1] - axis.starts[w])
                for axis, i, w in zip(self.axes, index, window, strict=True)
            ]
            part, weight = logits[(slice(None), *place)], weights[tuple(place)]
            part, weight = part.to(self.device), weight.to(self.device)
            self._add(self._sums[index], part, weight)
            self._weights[index] += weight
        return self.skip(window)

    def skip(self, window: Index) -> list[Index]:
        """Count a window as done; return the cells that no further window covers, in rising order."""
        done = []
        for index in _covered(self.axes, window):
            self._left[index] = self._left.get(index, _count(self.axes, index)) - 1
            if not self._left[index]:
                done.append(index)
        return done

    def take(self, index: Index) -> tuple[Tensor | None, Tensor | None]:
        """Hand over a cell's sums `(C, ...)` and weights `(...)`; both are None if every window was skipped."""
        return self._sums.pop(index, None), self._weights.pop(index, None)

    def give_back(self, sums: Tensor | None, weights: Tensor | None) -> None:
        """Take back the memory of a cell that is finished, for the next cell of its shape."""
        if sums is None or weights is None:
            return
        if sums.device == self.device:
            self._free.setdefault(tuple(weights.shape), []).append((sums, weights))
        else:
            self._held -= weights.numel()

    def _make_room(self, voxels: int) -> None:
        """Drop free cells, so that there is never more memory than for the largest number of waiting voxels.

        The last slab's cells are thinner, so the memory of earlier cells would be kept without being used.
        """
        for shape, free in self._free.items():
            while free and self._held + voxels > self._most:
                free.pop()
                self._held -= math.prod(shape)

    def _add(self, sums: Tensor, part: Tensor, weight: Tensor) -> None:
        if sums.dtype == torch.float32 and not self.shifted:
            sums.addcmul_(part, weight)
            return
        step = max(1, _CHUNK // max(1, sums[:, 0].numel()))
        for start in range(0, sums.shape[1], step):
            place = slice(start, start + step)
            logits = shift(part[:, place]) if self.shifted else part[:, place]
            sums[:, place] = sums[:, place].float().addcmul_(logits, weight[place])


def zeros(channels: int, shape: Sequence[int], like: Tensor, dtype: torch.dtype, device: Any) -> Tensor:
    """Return zeros, `(channels, *shape)`, with the channels last in memory if they are last in `like`."""
    if is_channels_last(like):
        return torch.zeros(*shape, channels, dtype=dtype, device=device).movedim(-1, 0)
    return torch.zeros(channels, *shape, dtype=dtype, device=device)


def is_channels_last(array: Tensor) -> bool:
    """Tell whether the channels of `(C, ...)` are next to each other in memory."""
    return len(array) > 1 and array.stride(0) == 1


def shift(logits: Tensor) -> Tensor:
    """Subtract the largest logit of each voxel from its logits, which changes neither their softmax nor their order.

    The classes that may win are then near 0, where half precision has its finest steps.

    Args:
        logits: The logits, `(C, ...)`.

    Returns:
        Values from -2000 to 0.
    """
    return (logits - logits.amax(0, keepdim=True)).clamp_(min=_LOWEST)
