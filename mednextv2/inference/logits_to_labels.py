"""From sums of logits, cell by cell, to labels on the grid of the image before it was resampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from torch import Tensor

from mednextv2.inference.label_interpolation import labels_between, logits_between
from mednextv2.inference.window_cells import Axis, Index, zeros
from mednextv2.label_scheme import LabelScheme
from mednextv2.transforms.spline_resize import linear_taps, nearest_taps

_AIR = -30.0  # logit of every class but the background where nothing was predicted; the background's is 0


@dataclass(frozen=True)
class Target:
    """One axis of the grid on which labels are decided.

    Attributes:
        axis: The same axis of the grid on which logits are predicted.
        size: Number of voxels.
        nearest: Whether the nearest voxel is taken; else two are interpolated.
    """

    axis: Axis
    size: int
    nearest: bool = False

    @property
    def interpolated(self) -> bool:
        """Whether labels lie between the voxels of the logits."""
        return self.size != self.axis.size and not self.nearest

    @cached_property
    def taps(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each voxel, the two voxels between which it lies, and the weight of the second."""
        if self.interpolated:
            return linear_taps(self.axis.size, self.size)
        if self.size == self.axis.size:
            place = torch.arange(self.size)
        else:
            place = nearest_taps(self.axis.size, self.size)
        return place, place, torch.zeros(self.size)

    def range(self, cell: int) -> slice:
        """Return the voxels that are complete with a cell: those whose second tap lies in it."""
        edges = torch.tensor(self.axis.edges[cell : cell + 2])
        first, end = torch.searchsorted(self.taps[1].contiguous(), edges).tolist()
        return slice(first, end)


class LabelWriter:
    """Decides labels as soon as a cell of logits is complete, and keeps only the logits of the cell's last faces.

    The result equals that of linear interpolation of all logits followed by the decision.

    Args:
        targets: The three (or two) axes of the labels' grid.
        scheme: The meaning of the logits.
        device: The device of the labels.
        probabilities: The array for the outputs' probabilities, `(outputs, ...)` on the labels' grid, usually a
            memory-mapped file; None for labels alone.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        scheme: LabelScheme,
        device: torch.device,
        probabilities: np.ndarray | None = None,
    ) -> None:
        self.targets, self.scheme, self.probabilities = targets, scheme, probabilities
        self.labels = torch.zeros([t.size for t in targets], dtype=scheme.dtype, device=device)
        self._between = [axis for axis, target in enumerate(targets) if target.interpolated]
        self._faces: dict[Index, dict[int, tuple[Tensor, Tensor]]] = {}
        self._users: dict[Index, int] = {}
        self._copies: dict[tuple[int, torch.device], tuple[Tensor, Tensor, Tensor]] = {}
        self._like = torch.empty(scheme.outputs, 2, device=device)  # has the layout, type and device of the sums

    def finish(self, index: Index, sums: Tensor | None, weights: Tensor | None) -> None:
        """Decide the labels that are complete with a cell.

        Args:
            index: The index of the cell; the cells before it along each axis are finished.
            sums: The sums of its weighted logits, `(C, ...)`; None if nothing was predicted, which becomes background.
            weights: The sums of the weights, `(...)`.
        """
        if sums is None and (self._between or self.probabilities is not None):
            sums, weights = self._air(index)
        if sums is None or weights is None:
            return
        whole, whole_weights = sums, weights
        if self._between:
            self._like = zeros(len(sums), [2], sums, sums.dtype, sums.device)
            whole, whole_weights = self._with_faces(index, sums, weights)
            self._keep_faces(index, sums, weights)
        taps = self._taps(index, sums.device)
        self._write(index, labels_between(whole, whole_weights, taps, self.scheme))
        if self.probabilities is not None:
            logits = logits_between(whole, whole_weights, taps)
            values = logits.sigmoid_() if self.scheme.regions else logits.softmax(0)
            self.probabilities[(slice(None), *self._place(index))] = self._on_target(index, values).numpy()

    def _write(self, index: Index, labels: Tensor) -> None:
        self.labels[self._place(index)] = self._on_target(index, labels).to(self.labels.device)

    def _place(self, index: Index) -> tuple[slice, ...]:
        return tuple(target.range(cell) for target, cell in zip(self.targets, index, strict=True))

    def _on_target(self, index: Index, values: Tensor) -> Tensor:
        """Take the nearest voxels along axes without interpolation, along which values are still on the cell's grid."""
        before = values.ndim - len(index)
        for axis, (target, cell) in enumerate(zip(self.targets, index, strict=True)):
            if not target.interpolated and target.size != target.axis.size:
                taps = self._taps_on(axis, values.device)[0][target.range(cell)] - target.axis.edges[cell]
                values = values.index_select(before + axis, taps)
        return values

    # --- the layer of voxels before a cell -------------------------------------------------------------------------

    def _air(self, index: Index) -> tuple[Tensor, Tensor]:
        shape = [t.axis.edges[i + 1] - t.axis.edges[i] for t, i in zip(self.targets, index, strict=True)]
        sums = zeros(self.scheme.outputs, shape, self._like, self._like.dtype, self._like.device)
        sums[0 if self.scheme.regions else 1 :] = _AIR
        return sums, torch.ones(shape, device=sums.device)

    def _offsets(self, index: Index, sign: int) -> list[Index]:
        """Return the steps to the neighbours before (-1) or after (1) a cell, along axes with interpolation."""
        steps = [
            (0, 1) if axis in self._between and 0 <= i + sign < self.targets[axis].axis.cells else (0,)
            for axis, i in enumerate(index)
        ]
        return [offset for offset in product(*steps) if any(offset)]

    def _keep_faces(self, index: Index, sums: Tensor, weights: Tensor) -> None:
        after = self._offsets(index, 1)
        if after:
            self._users[index] = len(after)
            self._faces[index] = {
                axis: (_last(sums, axis + 1).clone(), _last(weights, axis).clone())
                for axis in {offset.index(1) for offset in after}
            }

    def _with_faces(self, index: Index, sums: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Put the last layers of the preceding cells in front of a cell."""
        before = self._offsets(index, -1)
        if not before:
            return sums, weights
        halo = [any(offset[axis] for offset in before) for axis in range(len(index))]
        shape = [n + h for n, h in zip(weights.shape, halo, strict=True)]
        whole = zeros(len(sums), shape, sums, sums.dtype, sums.device)
        whole_weights = weights.new_zeros(shape)
        inner = tuple(slice(h, None) for h in map(int, halo))
        whole[(slice(None), *inner)], whole_weights[inner] = sums, weights
        for offset in before:
            neighbour = tuple(i - o for i, o in zip(index, offset, strict=True))
            face, face_weights = self._faces[neighbour][offset.index(1)]
            for axis, step in enumerate(offset):
                if step:
                    face, face_weights = _last(face, axis + 1), _last(face_weights, axis)
            place = tuple(slice(0, 1) if step else inside for step, inside in zip(offset, inner, strict=True))
            whole[(slice(None), *place)], whole_weights[place] = face.to(whole.device), face_weights.to(whole.device)
            self._users[neighbour] -= 1
            if not self._users[neighbour]:
                del self._faces[neighbour], self._users[neighbour]
        return whole, whole_weights

    def _taps(self, index: Index, device: torch.device) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """Return the taps of interpolated axes that are complete with a cell, counted from its first voxel."""
        taps = {}
        for axis in self._between:
            target, cell = self.targets[axis], index[axis]
            first = target.axis.edges[cell] - (cell > 0)
            low, high, weight = (tap[target.range(cell)] for tap in self._taps_on(axis, device))
            taps[axis] = (low - first, high - first, weight)
        return taps

    def _taps_on(self, axis: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return an axis' taps on a device. They are copied only once, since each copy waits for the GPU."""
        key = axis, device
        if key not in self._copies:
            low, high, weight = self.targets[axis].taps
            self._copies[key] = low.to(device), high.to(device), weight.to(device)
        return self._copies[key]


def _last(array: Tensor, axis: int) -> Tensor:
    return array.narrow(axis, array.shape[axis] - 1, 1)
