"""Resizing of arrays as nnU-Net does it, with matrix products instead of spline calls."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor

_ANISOTROPIC = 3.0  # ratio of a voxel's sides above which the coarsest axis is resampled separately
_ROWS = 32  # rows of a banded matrix in one product; fewer are too thin for a GEMM, more multiply more zeros
_NEGLIGIBLE = 1e-8  # smaller weights are lost in float32's rounding; those of a cubic spline decay by 0.27 per voxel
_TIE = 1e-5  # votes that differ by less are equal, so that rounding of the weights does not choose a label
_CHUNK = 2**18  # number of voxels whose votes are counted together


def separate_axis(spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
    """Find the axis that is too coarse to be interpolated together with the others.

    The current spacing decides if its coarsest side is more than three times its finest; else the new spacing does.

    Args:
        spacing: The present spacing in mm.
        new_spacing: The new spacing in mm.

    Returns:
        The coarsest axis of the spacing that decides; None if both are nearly isotropic, if several axes are the
        coarsest, and in 2D.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods: resampling of anisotropic images).
    """
    if len(spacing) < 3:
        return None
    for sides in (spacing, new_spacing):
        if max(sides) / min(sides) > _ANISOTROPIC:
            coarsest = [axis for axis, side in enumerate(sides) if side == max(sides)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def new_shape(shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]) -> tuple[int, ...]:
    """Return the number of voxels on each axis after resampling: the rounded extent in new voxels, at least 1.

    Args:
        shape: The present spatial shape.
        spacing: The sides of the present voxels in mm.
        new_spacing: The sides of the new voxels in mm.

    Returns:
        The new spatial shape. Halves are rounded to the even number.
    """
    return tuple(max(1, round(old / new * n)) for n, old, new in zip(shape, spacing, new_spacing, strict=True))


def resize(
    array: Tensor,
    shape: Sequence[int],
    order: int = 3,
    separate: int | None = None,
    separate_order: int = 0,
) -> Tensor:
    """Interpolate images onto another number of voxels; the corners of the field of view stay in place.

    The result equals `skimage.transform.resize(mode="edge", anti_aliasing=False)` for each channel, or for each slice
    across a separate axis, in float32: the interpolation is separable and linear, so each axis is one banded matrix. As
    in scikit-image, values are clipped to the range of the channel or slice, which a cubic spline would exceed.

    Args:
        array: The channels of a 2D or 3D image, `(C, ...)`.
        shape: The new spatial shape.
        order: The order of the spline: 0 (nearest), 1 (linear) or 3 (cubic).
        separate: An axis that is not interpolated together with the others.
        separate_order: The order along the separate axis.

    Returns:
        The images `(C, *shape)`; `array` itself if the shape stays the same. The dtype stays the same for order 0 and
        for float16, bfloat16 and float32; other types become float32.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods): cubic for images, linear for predictions,
        nearest along a separate axis.
    """
    array, shape = _plain(array), tuple(shape)
    if tuple(array.shape[1:]) == shape:
        return array
    if order == 0 and (separate is None or separate_order == 0):
        for axis in _cheapest_first(range(len(shape)), array.shape[1:], shape):
            array = _along(array, axis + 1, shape[axis], 0)
        return array
    dtype = array.dtype if array.dtype in (torch.float16, torch.bfloat16) else torch.float32
    with torch.autocast(array.device.type, enabled=False):  # otherwise the products would be computed in half precision
        first = _resize_volume(array[0].float(), shape, order, separate, separate_order).to(dtype)
        if len(array) == 1:
            return first[None]
        resized = first.new_empty((len(array), *shape))
        resized[0] = first
        for channel in range(1, len(array)):  # one after the other, since the temporaries of one need enough memory
            resized[channel] = _resize_volume(array[channel].float(), shape, order, separate, separate_order)
    return resized


def _resize_volume(volume: Tensor, shape: tuple[int, ...], order: int, separate: int | None, across: int) -> Tensor:
    if separate is not None and across == 0 and shape[separate] < volume.shape[separate]:
        volume = _along(volume, separate, shape[separate], 0)  # drops slices that are not needed
    axes = [axis for axis in range(volume.ndim) if axis != separate]
    if any(volume.shape[axis] != shape[axis] for axis in axes):
        low, high = volume.amin(axes, keepdim=True), volume.amax(axes, keepdim=True)
        for axis in _cheapest_first(axes, volume.shape, shape):
            volume = _along(volume, axis, shape[axis], order)
        volume = volume.clamp_(low, high)
    return volume if separate is None else _along(volume, separate, shape[separate], across)


def _cheapest_first(axes: Sequence[int], old: Sequence[int], new: Sequence[int]) -> list[int]:
    return sorted(axes, key=lambda axis: new[axis] / old[axis])


def _along(volume: Tensor, axis: int, n: int, order: int) -> Tensor:
    if volume.shape[axis] == n:
        return volume
    if order == 0:
        return volume.index_select(axis, nearest_taps(volume.shape[axis], n).to(volume.device))
    before, after = math.prod(volume.shape[:axis]), math.prod(volume.shape[axis + 1 :])
    lines = volume.reshape(before, -1, after)
    out = volume.new_empty(before, n, after)
    for start, first, block in _blocks(volume.shape[axis], n, order):
        rows, columns = slice(start, start + len(block)), slice(first, first + block.shape[1])
        block = block.to(volume.device)
        if after == 1:
            out[:, rows, 0] = lines[:, columns, 0] @ block.T
        else:
            out[:, rows] = block.expand(before, -1, -1) @ lines[:, columns]
    return out.view(*volume.shape[:axis], n, *volume.shape[axis + 1 :])


@lru_cache(maxsize=128)
def _blocks(n_in: int, n_out: int, order: int) -> list[tuple[int, int, Tensor]]:
    # The columns of the matrix are SciPy's results for the unit vectors, one vector at a time: together, they would
    # also be filtered across.
    columns = [_zoom(unit, n_out, order) for unit in np.eye(n_in)]
    matrix = torch.from_numpy(np.stack(columns, axis=1)).float()
    blocks = []
    for start in range(0, n_out, _ROWS):
        rows = matrix[start : start + _ROWS]
        used = (rows.abs() > _NEGLIGIBLE).any(dim=0).nonzero()
        first, last = int(used[0]), int(used[-1])
        blocks.append((start, first, rows[:, first : last + 1].contiguous()))
    return blocks


@lru_cache(maxsize=1024)
def nearest_taps(n_in: int, n_out: int) -> Tensor:
    """Return the nearest of `n_in` voxels for each of `n_out` voxels, with the corners of both in the same places."""
    return torch.from_numpy(_zoom(np.arange(n_in), n_out, 0))


def _zoom(values: np.ndarray, n: int, order: int) -> np.ndarray:
    return ndimage.zoom(values, n / len(values), order=order, mode="nearest", grid_mode=True)


def resize_label(label: Tensor, shape: Sequence[int], separate: int | None = None) -> Tensor:
    """Resample a label map: each voxel takes the label that is largest after linear interpolation.

    The indicators of the labels are interpolated. If several are equally large, the nearest voxel's label wins if it is
    among them, and otherwise the smallest. Only voxels between different labels are computed, from their four or eight
    neighbours, so time and memory do not grow with the number of labels.

    Args:
        label: The label map, `(1, ...)`, 2D or 3D, of any number type; negative values are allowed.
        shape: The new spatial shape.
        separate: An axis along which labels are taken from the nearest slice.

    Returns:
        The label map `(1, *shape)`, of the same dtype; `label` itself if the shape stays the same.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods): linear interpolation of one-hot labels.
    """
    label, shape = _plain(label), tuple(shape)
    if tuple(label.shape[1:]) == shape:
        return label
    volume = label[0]
    if separate is not None and shape[separate] < volume.shape[separate]:
        volume = _along(volume, separate, shape[separate], 0)
    axes = [axis for axis in range(volume.ndim) if axis != separate and volume.shape[axis] != shape[axis]]
    if axes:
        volume = _vote(volume, {axis: shape[axis] for axis in axes})
    return (volume if separate is None else _along(volume, separate, shape[separate], 0))[None]


def _vote(volume: Tensor, sizes: dict[int, int]) -> Tensor:
    taps = {}
    for axis, n in sizes.items():
        low, high, weight = linear_taps(volume.shape[axis], n)
        taps[axis] = low.to(volume.device), high.to(volume.device), weight.to(volume.device)
    result = volume
    mixed = torch.zeros_like(volume, dtype=torch.bool)  # cells whose corners do not all have the same label
    for axis in sizes:
        mixed = mixed | following(mixed, axis) | (volume != following(volume, axis))
    for axis, (low, _, _) in taps.items():
        nearest = nearest_taps(volume.shape[axis], sizes[axis]).to(volume.device)
        result, mixed = result.index_select(axis, nearest), mixed.index_select(axis, low)
    values, winners = volume.reshape(-1), result.view(-1)
    for voxels in mixed.view(-1).nonzero()[:, 0].split(_CHUNK):
        corners, weights = corners_of(voxels, volume.shape, result.shape, taps)
        winners[voxels] = _winners(values[corners], weights, winners[voxels])
    return result


def linear_taps(n_in: int, n_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each of `n_out` voxels the two of `n_in` between which it lies, and the weight of the second."""
    centre = (torch.arange(n_out, dtype=torch.float64) + 0.5) * (n_in / n_out) - 0.5
    centre = centre.clamp_(min=0)  # at the other end, both voxels are the last one
    low = centre.long()
    return low, (low + 1).clamp_(max=n_in - 1), (centre - low).float()


def following(volume: Tensor, axis: int) -> Tensor:
    """Return for each voxel the next one along an axis; for the last voxel, itself."""
    n = volume.shape[axis]
    return torch.cat([volume.narrow(axis, 1, n - 1), volume.narrow(axis, n - 1, 1)], dim=axis)


def corners_of(
    voxels: Tensor, old: torch.Size, new: torch.Size, taps: Mapping[int, tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return the voxels from which voxels of another grid are interpolated.

    Args:
        voxels: Flat indices of the voxels in the new volume, `(N,)`.
        old: The shape of the volume that is read.
        new: The shape of the new volume.
        taps: The result of :func:`linear_taps` for each interpolated axis; the other axes are the same in both.

    Returns:
        Flat indices into the old volume, `(corners, N)`, and their weights.
    """
    corners = torch.zeros_like(voxels)[None]
    weights = torch.ones_like(corners, dtype=torch.float32)
    for axis, place in enumerate(torch.unravel_index(voxels, new)):
        stride = math.prod(old[axis + 1 :])
        if axis not in taps:
            corners = corners + place * stride
            continue
        low, high, weight = (tap[place] for tap in taps[axis])
        corners = torch.cat([corners + low * stride, corners + high * stride])
        weights = torch.cat([weights * (1 - weight), weights * weight])
    return corners, weights


def _winners(labels: Tensor, weights: Tensor, nearest: Tensor) -> Tensor:
    votes = torch.zeros_like(weights)
    for label, weight in zip(labels, weights, strict=True):
        votes += torch.where(labels == label, weight, 0)
    leads = votes >= votes.amax(dim=0) - _TIE
    smallest = torch.where(leads, labels, labels.amax(dim=0)).amin(dim=0)
    return torch.where((leads & (labels == nearest)).any(dim=0), nearest, smallest)


def _plain(array: Tensor) -> Tensor:
    return array.as_tensor() if isinstance(array, MetaTensor) else array
