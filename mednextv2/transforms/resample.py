"""Resampling to another voxel spacing and back, as nnU-Net does it, with matrix products instead of spline calls."""

import math
from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.meta_obj import MetaObj, get_track_meta
from monai.data.utils import affine_to_spacing
from monai.transforms import InvertibleTransform, MapTransform
from monai.transforms.utils import scale_affine
from monai.utils import TraceKeys, convert_to_tensor, ensure_tuple
from torch import Tensor

from mednextv2.errors import InputError
from mednextv2.transforms.spline_resize import new_shape, resize, resize_label, separate_axis
from mednextv2.wording import times

_MOST_VOXELS = 2**31


class Resampled(MapTransform, InvertibleTransform):
    """Resample images and label maps to a voxel spacing; `monai.transforms.Invertd` resamples predictions back.

    Images are interpolated with cubic splines, and label maps by :func:`resize_label`. Along an axis that is much
    coarser than the others (:func:`separate_axis`), the nearest slice is taken. The inverse is linear for predictions
    with a floating dtype, with the roles of the spacings exchanged, and nearest for integers, for keys in `label_keys`,
    and with `Invertd(nearest_interp=True)`; its result has exactly the former shape. An array that already has that
    shape, such as the labels of :class:`mednextv2.inference.StreamingInferer`, is not resampled.

    MONAI's `Spacingd` has no rule for anisotropic images, resamples label maps by their nearest voxels or by
    interpolating their numbers, and by default keeps voxel centres rather than the corners of the field of view in
    place.

    Args:
        keys: The keys of the MetaTensors, `(C, X, Y, Z)` or `(C, X, Y)`, whose affines give the spacing in mm. If
            several have the same shape, the spacing of the first is used for all, so that they keep the same shape even
            if the last digits of their headers differ.
        pixdim: The sides of the new voxels in mm, one for each axis. The sides of the result differ from them by less
            than half a voxel over the whole axis.
        label_keys: Those among `keys` that are label maps.
        allow_missing_keys: Whether keys may be missing in an item.

    Raises:
        InputError: If sides are not positive numbers, an item has no affine, or the result would have no voxel on an
            axis or more than 2³¹ voxels in all.

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
            image = d[key]
            if not isinstance(image, MetaTensor):
                raise InputError(f"{key}: is a {type(image).__name__} without affine; read it with LoadImaged")
            size = image.shape[1:]
            if size not in spacings:
                spacings[size] = self._spacing(image, key)
            d[key] = self._resample(image, key, spacings[size])
        return d

    def _spacing(self, image: MetaTensor, key: Hashable) -> tuple[float, ...]:
        axes = image.ndim - 1
        if len(self.pixdim) != axes:
            raise InputError(f"pixdim {list(self.pixdim)}: has {len(self.pixdim)} sides, but {key} is {axes}D")
        rank = len(image.affine) - 1
        sides = affine_to_spacing(image.affine, rank, torch.float64, suppress_zeros=False)[:axes].tolist()
        if not all(0 < side < math.inf for side in sides):
            raise InputError(f"{_name(image, key)}: has voxels of {sides} mm; set the voxel spacing in its header")
        return tuple(float(f"{side:.6g}") for side in sides)  # headers are float32, so further digits are noise

    def _resample(self, image: MetaTensor, key: Hashable, spacing: tuple[float, ...]) -> Tensor:
        old = tuple(image.shape[1:])
        new = new_shape(old, spacing, self.pixdim)
        lost = any(n > 1 and side * n / goal < 0.5 for n, side, goal in zip(old, spacing, self.pixdim, strict=True))
        if lost or math.prod(new) > _MOST_VOXELS:
            raise InputError(
                f"{_name(image, key)}: {times(old)} voxels of {times(spacing)} mm cannot be resampled to "
                f"{times(self.pixdim)} mm ("
                + ("an axis would vanish" if lost else f"that is {times(new)} voxels")
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
            extra_info={"mode": "bilinear", "separate": -1 if back is None else back, "size": new},
            transform_info=self.get_transform_info(),
        )
        return _with_meta(resampled, meta)

    def inverse(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Resample images or predictions to their former shape and affine.

        Args:
            data: An item whose MetaTensors have the trace; `monai.transforms.Invertd` adds it to predictions.

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
            # not from its own shape: a label map on the former grid is left unchanged
            meta = self.track_transform_meta(d[key], affine=scale_affine(tuple(info["size"]), old))
            d[key] = _with_meta(resized, meta)
        return d


def _with_meta(array: Tensor, meta: MetaObj) -> Tensor:
    out = convert_to_tensor(array, track_meta=get_track_meta())
    return out.copy_meta_from(meta) if isinstance(out, MetaTensor) else out


def _name(image: MetaTensor, key: Hashable) -> str:
    return str(image.meta.get("filename_or_obj", key))
