"""Loading of images from files, DICOM series and memory."""

import os
import zlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImaged, MapTransform
from monai.utils import ensure_tuple

from mednextv2.errors import find_input_error
from mednextv2.images.dicom import DicomSeries
from mednextv2.images.dicom_tilt import straighten
from mednextv2.images.planes import to_plane
from mednextv2.images.volume import SUFFIXES, VirtualVolume, read_volume, screen_file, unreadable
from mednextv2.warning_filters import without_warnings

# MONAI creates all its readers each time, and warns twice that NVIDIA's decoders for pydicom are not installed
_NOT_INSTALLED: dict[str, Any] = {"message": ".*NvImgCodec", "logger": "monai.data.nvimgcodec_pydicom_plugin"}


class LoadVolumed(LoadImaged):
    """MONAI's `LoadImaged` that also takes DICOM series, folders with one series, and images already in memory.

    MONAI's readers accept any series, even with missing slices, a tilted gantry, or a localizer.

    Args:
        keys: The keys of the images.
        spatial_dims: 3, or 2 for images of one plane, from which an axis of length one is dropped: see
            :func:`mednextv2.images.planes.to_plane`. They need `ensure_channel_first=True`.
        **kwargs: The arguments of `LoadImaged`. With `image_only=False`, which MONAI Label sets, an image's metadata
            are also put under a key of their own.
    """

    def __init__(self, keys: KeysCollection, spatial_dims: int = 3, **kwargs: Any) -> None:
        with without_warnings(**_NOT_INSTALLED):
            super().__init__(keys, **kwargs)
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        """Load one item.

        Args:
            data: The item. Under each key is a file, a list of files (one for each channel), a
                :class:`mednextv2.data.DicomSeries` or a list of them (one for each channel), the folder of one series,
                a :class:`mednextv2.images.volume.VirtualVolume`, or a MetaTensor: see :func:`channels_first`.
            reader: The same as for `LoadImaged`.

        Returns:
            The item with MetaTensors, `(C, X, Y, Z)`, or `(C, X, Y)` for planes, if channels come first.

        Raises:
            KeyError: If metadata would replace what the item has under their key, and `overwriting` is false.
            InputError: If a file cannot be read or its header declares data that are missing: see
                :func:`mednextv2.images.volume.screen_file`; or if a series is not a volume: see
                :func:`mednextv2.data.read_series`.
        """
        d = dict(data)
        for key, meta_key, postfix in self.key_iterator(d, self.meta_keys, self.meta_key_postfix):
            image = self._load(d[key], reader)
            d[key] = to_plane(image) if self.spatial_dims == 2 else image
            if self._loader.image_only:
                continue
            meta_key = meta_key or f"{key}_{postfix}"
            if meta_key in d and not self.overwriting:
                raise KeyError(f"{meta_key}: is already in the item; give LoadVolumed overwriting=True to replace it")
            d[meta_key] = d[key].meta
        return d

    def _load(self, value: Any, reader: Any) -> Any:
        if isinstance(value, MetaTensor):
            return channels_first(value).to(torch.float32)
        if isinstance(value, VirtualVolume):
            voxels, affine = value.read()
            return _as_tensor([voxels], affine, value).to(torch.float32)
        if _is_dicom(value):
            return _from_dicom(ensure_tuple(value))
        loaded = self._from_files(value, reader)
        return loaded if self._loader.image_only else loaded[0]

    def _from_files(self, files: Any, reader: Any) -> Any:
        several = ensure_tuple(files)
        for file in several:
            screen_file(file)
        try:
            return self._loader(files, reader)
        except (OSError, ValueError, RuntimeError, EOFError, zlib.error) as e:
            if find_input_error(e) or not all(str(file).lower().endswith(SUFFIXES) for file in several):
                raise
            for file in several:  # MONAI's error does not name the file in one sentence
                read_volume(file)
            raise unreadable(several[0], e) from e


class PickChanneld(MapTransform):
    """Keep one channel of an image, if the item names one under `channel`.

    Args:
        keys: The keys of the images, `(C, ...)`.
        allow_missing_keys: Whether keys may be missing in an item.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item; images of items that name no channel are left as they are.

        Args:
            data: The item, whose `channel` is an index.
        """
        d = dict(data)
        if "channel" in d:
            for key in self.key_iterator(d):
                d[key] = d[key][d["channel"] : d["channel"] + 1]
        return d


def channels_first(image: MetaTensor) -> MetaTensor:
    """Return an image in memory with its channels as the first axis, as transforms expect.

    Args:
        image: `(C, X, Y, Z)`; or, as MONAI's readers and MONAI Deploy give images before the axis is moved,
            `(X, Y, Z)` or `(X, Y, Z, C)` with the `original_channel_dim` `no_channel` or -1 in its metadata.
    """
    moved: Any = image  # PyTorch's types do not say that operations keep the class
    axis, shape = image.meta.get("original_channel_dim"), image.meta.get("spatial_shape")
    axes = image.affine.shape[-1] - 1 if shape is None else len(shape)
    if axis == "no_channel" and image.ndim == axes:
        return moved[None]
    if axis == -1 and shape is None and image.ndim == axes + 1:  # a reader's metadata keep -1 after the axis was moved
        return moved.movedim(-1, 0)
    return image


def _is_dicom(value: Any) -> bool:
    parts = value if isinstance(value, (list, tuple)) else [value]
    return bool(parts) and all(
        isinstance(part, DicomSeries) or (isinstance(part, (str, os.PathLike)) and os.path.isdir(part))
        for part in parts
    )


def _from_dicom(channels: Sequence[str | os.PathLike]) -> MetaTensor:
    """Read a series for each channel; slices of a tilted gantry are resampled to right angles, as networks expect."""
    voxels, affine = zip(*(straighten(*read_volume(series)) for series in channels), strict=True)
    return _as_tensor(voxels, affine[0], channels[0])


def _as_tensor(channels: Sequence[np.ndarray], affine: np.ndarray, source: str | os.PathLike) -> MetaTensor:
    """Return channels in memory as MONAI's readers return those of a file, with the channels as the first axis."""
    position = torch.from_numpy(affine)
    meta = {
        "filename_or_obj": os.fspath(source),
        "original_affine": position.clone(),
        "spatial_shape": np.array(channels[0].shape),
        "original_channel_dim": 0,
    }
    stacked = np.stack(channels) if len(channels) > 1 else np.ascontiguousarray(channels[0])[None]
    return MetaTensor(torch.from_numpy(stacked), affine=position, meta=meta)
