"""Sampling of patches from stored volumes, with rotation and scaling."""

import math
import operator
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_SLAB = 1 << 17  # number of voxels sampled at a time, whose coordinates and corners fit in the cache
_MARGIN = 2  # voxels of padding on each side of a box: one for interpolation, and one that is completely outside


def extract_patch(
    image: np.ndarray,
    label: np.ndarray,
    centre: Sequence[int],
    patch_size: Sequence[int],
    matrix: np.ndarray | None = None,
    fill_label: int = 0,
) -> tuple[Tensor, Tensor]:
    """Read a patch, rotated and scaled while it is sampled, so that no corner is missing if the volume has data there.

    The image is interpolated linearly, and is 0 outside. The label is the one with the largest linearly interpolated
    indicator, or the lowest of several such labels; outside it is `fill_label`. Axes that the matrix leaves unchanged
    are not interpolated, and without a matrix, the patch is a plain crop.

    `torch.nn.functional.grid_sample` is not used: its normalised coordinates do not hit whole voxels exactly, and it
    needs an indicator for each label. Here, a label is looked up if all corners around a place have the same label, and
    otherwise the corners are compared with one another, so the time does not depend on the number of labels.

    Args:
        image: Channels and 2 or 3 axes, `(C, ...)`, of any real type: an array, a memory map, or any object with a
            shape whose slices are arrays. Only the box around the patch is read.
        label: The label map, `(1, ...)`, with whole numbers up to int16.
        centre: The voxel of the volume that becomes voxel `patch_size // 2` of the patch.
        patch_size: Number of voxels along each axis.
        matrix: The matrix `(d, d)` from offsets in the patch, in voxels from its centre, to offsets in the volume.
        fill_label: The label of voxels outside the volume.

    Returns:
        The image, float32, `(C, *patch_size)`, and the label map, int16, `(1, *patch_size)`.

    Source:
        nnU-Net v2 (`SpatialTransform`): linear images, arg-max of linearly sampled indicators.
    """
    if matrix is None or np.array_equal(matrix, np.eye(len(patch_size))):
        spans = [_span(c - p // 2, p, n) for c, p, n in zip(centre, patch_size, image.shape[1:], strict=True)]
        return _pad(_slice(image, spans), spans, np.float32, 0), _pad(_slice(label, spans), spans, np.int16, fill_label)
    grid = _Grid(np.asarray(matrix, np.float64), centre, patch_size, image.shape[1:])
    part = grid.read(image)
    images = grid.rows(part, np.float16 if part.dtype == np.float16 else np.float32, 0)
    voxels = torch.empty(len(images), *grid.plane)

    part = grid.read(label)
    values = {int(part.min()), int(part.max())} if part.size else set()
    if not all(span.inside for span in grid.spans):
        values.add(fill_label)
    labels = torch.full((math.prod(grid.patch[: grid.whole]), *grid.plane), min(values), dtype=torch.int16)
    cells = []
    if len(values) > 1:
        small = min(*values, fill_label) >= -128 and max(*values, fill_label) <= 127
        cells = [_Cells(row, grid.strides) for row in grid.rows(part, np.int8 if small else np.int16, fill_label)]

    for slab, index, fractions in grid.slabs():
        for row, target in zip(images, voxels, strict=True):
            target[slab] = _interpolate(row, index, fractions, grid.strides).view_as(target[slab])
        for row, target in zip(cells, labels, strict=False):
            target[slab] = row.vote(index, fractions).view_as(target[slab])
    return grid.restore(voxels), grid.restore(labels)


class _Span(NamedTuple):
    """One axis of a box: its part inside the volume, the padding on both sides, and whether it is completely inside."""

    start: int
    stop: int
    before: int
    after: int
    inside: bool


def _span(first: int, size: int, length: int) -> _Span:
    start = max(first, 0)
    stop = max(start, min(first + size, length))
    before = start - first
    return _Span(start, stop, before, size - before - (stop - start), stop - start == size)


def _slice(array: np.ndarray, spans: Sequence[_Span]) -> np.ndarray:
    return np.asarray(array[(slice(None), *(slice(span.start, span.stop) for span in spans))])


def _pad(part: np.ndarray, spans: Sequence[_Span], dtype: type, fill: int) -> Tensor:
    shape = (len(part), *(span.before + span.stop - span.start + span.after for span in spans))
    box: np.ndarray = np.empty(shape, dtype) if shape == part.shape else np.full(shape, fill, dtype)
    box[(slice(None), *(slice(span.before, span.before + span.stop - span.start) for span in spans))] = part
    return torch.from_numpy(box)


class _Grid:
    """The positions of a patch's voxels in the box of the volume that they need.

    The axes of a plane are sampled. Axes that the matrix leaves unchanged come before them, next to the channels, and
    are counted as rows. Each row is a box of the plane's axes, and all rows are sampled at the same places.
    """

    def __init__(
        self, matrix: np.ndarray, centre: Sequence[int], patch_size: Sequence[int], shape: Sequence[int]
    ) -> None:
        same = matrix == np.eye(len(matrix))
        alone = same.all(0) & same.all(1)
        self.order = np.argsort(~alone, kind="stable").tolist()
        self.patch = [patch_size[a] for a in self.order]
        self.whole = int(alone.sum())
        self.plane = self.patch[self.whole :]
        self.spans = [_span(centre[a] - patch_size[a] // 2, patch_size[a], shape[a]) for a in self.order[: self.whole]]
        self._terms = []  # for each axis of the plane: the amount that each offset in the patch adds to its coordinate
        self._limits = []  # coordinates are relative to the centre, so that float32 represents whole voxels exactly
        for a in self.order[self.whole :]:
            terms = [
                torch.from_numpy(np.float32(matrix[a, b] * (np.arange(patch_size[b]) - patch_size[b] // 2)))
                for b in self.order[self.whole :]
            ]
            # rounding is monotonic: the sums of the extremes are the extremes of the sums, to the last bit
            first = math.floor(_outer_sum([term.min() for term in terms]))
            last = math.ceil(_outer_sum([term.max() for term in terms]))
            span = _span(centre[a] + first, last - first + 1, shape[a])
            self.spans.append(span._replace(before=_MARGIN, after=_MARGIN))
            self._terms.append(terms)
            self._limits.append((span.start - _MARGIN - centre[a], span.stop + _MARGIN - 2 - centre[a]))
        sizes = [span.stop - span.start + 2 * _MARGIN for span in self.spans[self.whole :]]
        self.strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]

    def read(self, array: np.ndarray) -> np.ndarray:
        """Read the part of the box that exists, with its axes in the order of this grid."""
        spans = [self.spans[i] for i in np.argsort(self.order)]
        return _slice(array, spans).transpose(0, *(1 + a for a in self.order))

    def rows(self, part: np.ndarray, dtype: type, fill: int) -> Tensor:
        """Pad the part that was read, and return it as `(rows, voxels)`."""
        return _pad(part, self.spans, dtype, fill).flatten(0, self.whole).flatten(1)

    def restore(self, rows: Tensor) -> Tensor:
        """Reorder sampled rows to the axes of the patch."""
        back = [0, *(1 + i for i in np.argsort(self.order).tolist())]
        return rows.view(-1, *self.patch).permute(back).contiguous()

    def slabs(self) -> Iterator[tuple[slice, Tensor, list[Tensor]]]:
        """Yield parts of the plane's first axis, with the lower corners of their voxels in a row and the fractions."""
        step = max(1, _SLAB // math.prod(self.plane[1:]))
        for start in range(0, self.plane[0], step):
            slab = slice(start, start + step)
            index, fractions = torch.zeros((), dtype=torch.int32), []
            for terms, (low, high), stride in zip(self._terms, self._limits, self.strides, strict=True):
                position = _outer_sum([terms[0][slab], *terms[1:]]).flatten().clamp_(low, high)
                corner = position.floor()
                fractions.append(position.sub_(corner))
                index = corner.sub_(low).int().mul_(stride).add_(index)
            yield slab, index, fractions


def _outer_sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total[..., None] + term
    return total


def _interpolate(row: Tensor, index: Tensor, fractions: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    if not strides:
        return row.index_select(0, index).float()
    low = _interpolate(row, index, fractions[1:], strides[1:])
    high = _interpolate(row[strides[0] :], index, fractions[1:], strides[1:])
    return low.lerp_(high, fractions[0])


class _Cells:
    """A row of labels, with the extremes of the corners of each of its cells."""

    def __init__(self, row: Tensor, strides: Sequence[int]) -> None:
        self._row, self._strides = row, strides
        self._low = self._high = row
        for stride in strides:
            self._low = torch.minimum(self._low[:-stride], self._low[stride:])
            self._high = torch.maximum(self._high[:-stride], self._high[stride:])

    def vote(self, index: Tensor, fractions: Sequence[Tensor]) -> Tensor:
        """Return the label with the largest weight among the corners."""
        labels = self._low.index_select(0, index)
        mixed = (labels != self._high.index_select(0, index)).nonzero().squeeze(1)
        index = index.index_select(0, mixed)
        sides = [(1 - f, f) for f in (fraction.index_select(0, mixed) for fraction in fractions)]
        corners, weights = [], []
        for bits in product((0, 1), repeat=len(sides)):
            corners.append(self._row[sum(map(operator.mul, bits, self._strides)) :].index_select(0, index))
            weights.append(reduce(operator.mul, (side[bit] for side, bit in zip(sides, bits, strict=True))))
        for a, b in combinations(range(len(corners)), 2):  # a label's first corner gets the weights of all its corners
            weights[a].addcmul_((corners[a] == corners[b]).float(), weights[b])
        best, winner = weights[0], corners[0]
        for score, corner in zip(weights[1:], corners[1:], strict=True):
            better = (score > best) | ((score == best) & (corner < winner))
            best, winner = torch.where(better, score, best), torch.where(better, corner, winner)
        labels[mixed] = winner
        return labels
