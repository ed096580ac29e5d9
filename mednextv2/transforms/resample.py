"""Resampling to another voxel spacing and back, as nnU-Net does it, with matrix products instead of spline calls."""

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.meta_obj import MetaObj, get_track_meta
from monai.transforms import InvertibleTransform, MapTransform
from monai.transforms.utils import scale_affine
from monai.utils import TraceKeys, convert_to_tensor, ensure_tuple
from scipy import ndimage
from torch import Tensor

from mednextv2.errors import InputError

_ANISOTROPIC = 3.0  # coarsest over finest side of a voxel, from which the coarsest axis is resampled for itself
_MOST_VOXELS = 2**31
_ROWS = 32  # of a banded matrix in one product; fewer are too thin for a GEMM, more multiply more zeros
_NEGLIGIBLE = 1e-8  # weights below it are lost in float32's rounding; a cubic spline's decay by 0.27 a voxel
_TIE = 1e-5  # votes closer than this are equal: the weights' rounding must not choose a label
_CHUNK = 2**18  # voxels whose votes are counted together


def separate_axis(spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
    """Find the axis that is too coarse to be interpolated together with the others.

    The current spacing decides if its coarsest side is more than three times its finest; else the new spacing does.

    Args:
        spacing: Of the voxels as they are, in mm.
        new_spacing: Of the voxels as they shall be, in mm.

    Returns:
        The coarsest axis of the spacing that decides; None when both are nearly isotropic, when several axes are the
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
        shape: Spatial shape as it is.
        spacing: Its voxels' sides in mm.
        new_spacing: The new voxels' sides in mm.

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
    """Interpolate images onto another number of voxels; the corners of the field of view stay where they are.

    Equals `skimage.transform.resize(mode="edge", anti_aliasing=False)` for each channel, or for each slice across a
    separate axis, in float32: the interpolation is separable and linear, so each axis is one banded matrix.
    As there, values are clipped to the range of the channel or slice, which a cubic spline would leave.

    Args:
        array: Channels of 2D or 3D images, `(C, ...)`.
        shape: The new spatial shape.
        order: Of the spline: 0 (nearest), 1 (linear) or 3 (cubic).
        separate: An axis that is not interpolated together with the others.
        separate_order: The order along that axis.

    Returns:
        The images `(C, *shape)`; `array` itself when the shape stays the same. The dtype stays the same for order 0
        and for float16, bfloat16 and float32; others become float32.

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
    with torch.autocast(array.device.type, enabled=False):  # else the products would be made in half precision
        first = _resize_volume(array[0].float(), shape, order, separate, separate_order).to(dtype)
        if len(array) == 1:
            return first[None]
        resized = first.new_empty((len(array), *shape))
        resized[0] = first
        for channel in range(1, len(array)):  # one after the other: the temporaries of one are enough memory
            resized[channel] = _resize_volume(array[channel].float(), shape, order, separate, separate_order)
    return resized


def _resize_volume(volume: Tensor, shape: tuple[int, ...], order: int, separate: int | None, across: int) -> Tensor:
    if separate is not None and across == 0 and shape[separate] < volume.shape[separate]:
        volume = _along(volume, separate, shape[separate], 0)  # drops slices that nobody needs
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
        return volume.index_select(axis, _nearest(volume.shape[axis], n).to(volume.device))
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
    # The columns of the matrix are what scipy makes of the unit vectors. Each vector by itself: together they would
    # be filtered across, too.
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
def _nearest(n_in: int, n_out: int) -> Tensor:
    return torch.from_numpy(_zoom(np.arange(n_in), n_out, 0))


def _zoom(values: np.ndarray, n: int, order: int) -> np.ndarray:
    return ndimage.zoom(values, n / len(values), order=order, mode="nearest", grid_mode=True)


def resize_label(label: Tensor, shape: Sequence[int], separate: int | None = None) -> Tensor:
    """Resample a label map: each voxel takes the label that is largest after linear interpolation.

    What is interpolated are the indicators of the labels. Where several are equally large, the nearest voxel's label
    wins if it is among them, else the smallest. Only voxels between different labels are computed, from their four
    or eight neighbours, so time and memory do not grow with the number of labels.

    Args:
        label: One value a voxel, `(1, ...)`, 2D or 3D; of any number type, negative values included.
        shape: The new spatial shape.
        separate: An axis along which labels are taken from the nearest slice.

    Returns:
        The label map `(1, *shape)`, of the same dtype; `label` itself when the shape stays the same.

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
    taps = {axis: _taps(volume.shape[axis], n) for axis, n in sizes.items()}
    taps = {axis: tuple(t.to(volume.device) for t in found) for axis, found in taps.items()}
    result = volume
    mixed = torch.zeros_like(volume, dtype=torch.bool)  # cells whose corners do not all have the same label
    for axis in sizes:
        mixed = mixed | _following(mixed, axis) | (volume != _following(volume, axis))
    for axis, (low, _, _) in taps.items():
        nearest = _nearest(volume.shape[axis], sizes[axis]).to(volume.device)
        result, mixed = result.index_select(axis, nearest), mixed.index_select(axis, low)
    values, winners = volume.reshape(-1), result.view(-1)
    for voxels in mixed.view(-1).nonzero()[:, 0].split(_CHUNK):
        corners, weights = _corners(voxels, volume.shape, result.shape, taps)
        winners[voxels] = _winners(values[corners], weights, winners[voxels])
    return result


def _taps(n_in: int, n_out: int) -> tuple[Tensor, Tensor, Tensor]:
    # the two voxels that linear interpolation reads, and the weight of the second
    centre = (torch.arange(n_out, dtype=torch.float64) + 0.5) * (n_in / n_out) - 0.5
    centre = centre.clamp_(min=0)  # at the other end both voxels are the last one
    low = centre.long()
    return low, (low + 1).clamp_(max=n_in - 1), (centre - low).float()


def _following(volume: Tensor, axis: int) -> Tensor:
    n = volume.shape[axis]
    return torch.cat([volume.narrow(axis, 1, n - 1), volume.narrow(axis, n - 1, 1)], dim=axis)


def _corners(voxels: Tensor, old: torch.Size, new: torch.Size, taps: dict) -> tuple[Tensor, Tensor]:
    # flat indices (corners, N) into the old volume, and their weights
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


class Resampled(MapTransform, InvertibleTransform):
    """Resample images and label maps to a voxel spacing; `monai.transforms.Invertd` brings predictions back.

    Images are interpolated with cubic splines, label maps by :func:`resize_label`. Along an axis that is much coarser
    than the others (:func:`separate_axis`) the nearest slice is taken. The inverse is linear for predictions of a
    floating dtype, with the roles of the spacings exchanged, and nearest for integers, for keys in `label_keys`, and
    with `Invertd(nearest_interp=True)`; it ends at exactly the former shape.

    MONAI's `Spacingd` has no rule for anisotropic images, resamples label maps by their nearest voxels or by their
    numbers, and keeps voxel centres rather than the corners of the field of view in place by default.

    Args:
        keys: Of the MetaTensors, `(C, X, Y, Z)` or `(C, X, Y)`; their affines say the spacing in mm. Where several
            have the same shape, the spacing of the first counts for all, so that they keep the same shape although
            headers differ in their last digits.
        pixdim: The new voxels' sides in mm, one an axis. The result's sides differ from them by less than half a
            voxel over the whole axis.
        label_keys: Those of `keys` that are label maps.
        allow_missing_keys: Leave out keys that an item lacks.

    Raises:
        InputError: For sides that are not positive numbers; for an item without affine, or whose result would have no
            voxel on an axis, or more than 2³¹ in all.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods: resampling).
    """

    def __init__(
        self,
        keys: KeysCollection,
        pixdim: Sequence[float],
        label_keys: KeysCollection = (),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        sides = ensure_tuple(pixdim)
        if not all(isinstance(side, (int, float)) and 0 < side < math.inf for side in sides):
            raise InputError(f"pixdim {list(sides)}: should be the voxel's sides in mm, each above 0")
        self.pixdim = tuple(float(side) for side in sides)
        self.label_keys = ensure_tuple(label_keys)

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Resample one item.

        Args:
            data: The item.

        Returns:
            The item with resampled images, their affines and a trace for the inverse.
        """
        d = dict(data)
        spacings: dict[torch.Size, tuple[float, ...]] = {}
        for key in self.key_iterator(d):
            if not isinstance(d[key], MetaTensor):
                raise InputError(f"{key}: is a {type(d[key]).__name__} without affine; read it with LoadImaged")
            size = d[key].shape[1:]
            if size not in spacings:
                spacings[size] = self._spacing(d[key], key)
            d[key] = self._resample(d[key], key, spacings[size])
        return d

    def _spacing(self, image: MetaTensor, key: Hashable) -> tuple[float, ...]:
        axes = image.ndim - 1
        if len(self.pixdim) != axes:
            raise InputError(f"pixdim {list(self.pixdim)}: has {len(self.pixdim)} sides, but {key} is {axes}D")
        sides = torch.linalg.vector_norm(image.affine[:-1, :axes].double(), dim=0).tolist()
        if not all(0 < side < math.inf for side in sides):
            raise InputError(f"{_name(image, key)}: has voxels of {sides} mm; set the voxel spacing in its header")
        return tuple(float(f"{side:.6g}") for side in sides)  # headers are float32: the rest of the digits is noise

    def _resample(self, image: MetaTensor, key: Hashable, spacing: tuple[float, ...]) -> Tensor:
        old = tuple(image.shape[1:])
        new = new_shape(old, spacing, self.pixdim)
        lost = any(n > 1 and side * n / goal < 0.5 for n, side, goal in zip(old, spacing, self.pixdim, strict=True))
        if lost or math.prod(new) > _MOST_VOXELS:
            raise InputError(
                f"{_name(image, key)}: {_times(old)} voxels of {_times(spacing)} mm cannot be resampled to "
                f"{_times(self.pixdim)} mm ("
                + ("an axis would vanish" if lost else f"that is {_times(new)} voxels")
                + "); correct the spacing in its header, or pixdim"
            )
        separate = separate_axis(spacing, self.pixdim)
        if key in self.label_keys:
            resampled = resize_label(image, new, separate)
        else:
            resampled = resize(image, new, order=3, separate=separate)
        back = separate_axis(self.pixdim, spacing)
        meta = self.track_transform_meta(
            image,
            affine=scale_affine(old, new),
            orig_size=old,
            # "mode" is what Invertd(nearest_interp=True) changes to "nearest"
            extra_info={"mode": "bilinear", "separate": -1 if back is None else back},
            transform_info=self.get_transform_info(),
        )
        return _with_meta(resampled, meta)

    def inverse(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Bring images or predictions back to the shape and the affine before.

        Args:
            data: An item whose MetaTensors carry the trace; `monai.transforms.Invertd` gives it to predictions.

        Returns:
            The item with `(K, ...)` tensors of their former spatial shape.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            trace = self.pop_transform(d[key])
            old, info = tuple(trace[TraceKeys.ORIG_SIZE]), trace[TraceKeys.EXTRA_INFO]
            smooth = info["mode"] == "bilinear" and d[key].is_floating_point() and key not in self.label_keys
            if smooth:
                resized = resize(d[key], old, order=1, separate=None if info["separate"] < 0 else info["separate"])
            else:
                resized = resize(d[key], old, order=0)
            meta = self.track_transform_meta(d[key], affine=scale_affine(tuple(d[key].shape[1:]), old))
            d[key] = _with_meta(resized, meta)
        return d


def _with_meta(array: Tensor, meta: MetaObj) -> Tensor:
    out = convert_to_tensor(array, track_meta=get_track_meta())
    return out.copy_meta_from(meta) if isinstance(out, MetaTensor) else out


def _name(image: MetaTensor, key: Hashable) -> str:
    return str(image.meta.get("filename_or_obj", key))


def _times(values: Sequence[float]) -> str:
    return "×".join(f"{value:g}" for value in values)
