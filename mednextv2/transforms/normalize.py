"""Normalisation of intensities channel by channel, and the mask of the voxels outside the body."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from scipy import ndimage
from torch import Tensor

from mednextv2.errors import InputError
from mednextv2.wording import brief, count

_SETTINGS = {
    "zscore": ("inside_mask",),
    "ct": ("lower", "upper", "mean", "std"),
    "rescale_to_0_1": (),
    "rgb_to_0_1": (),
    "none": (),
}
_FLOOR = 1e-8  # smallest divisor
_HUGE = 1e30  # larger values are not intensities, and near the end of float32's range
_CHUNK = 2**20  # number of voxels that are float64 at a time


def is_content(image: Tensor) -> Tensor:
    """Return where an image is not 0, which is the part that MONAI's `CropForegroundd` keeps."""
    return image != 0


def nonzero_mask(image: Tensor) -> Tensor:
    """Return where an image has content: voxels that are not 0 in some channel, and the holes between them.

    Args:
        image: The image, `(C, ...)`, 2D or 3D.

    Returns:
        A boolean mask, `(1, ...)`. A hole is a region of zeros that is not connected to the border through faces of
        voxels.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods: cropping to the non-zero region).
    """
    image = _plain(image)
    mask = (image != 0).any(dim=0)
    if not mask.all():
        mask = torch.from_numpy(ndimage.binary_fill_holes(mask.cpu().numpy())).to(image.device)
    return mask[None]


class NormalizeChannelsd(MapTransform):
    """Normalise each channel of an image in its own way.

    ==================  =============================  ==========================================================
    scheme              settings                       result
    ==================  =============================  ==========================================================
    `zscore`            `inside_mask` (default False)  minus the mean, divided by the standard deviation
    `ct`                `lower`, `upper`, `mean`,      clipped to `lower` and `upper`, minus `mean`, divided by
                        `std`                          `std`: numbers of the whole data set
    `rescale_to_0_1`                                   minus the minimum, divided by the maximum of the result
    `rgb_to_0_1`                                       divided by 255
    `none`                                             unchanged
    ==================  =============================  ==========================================================

    With `inside_mask`, the mean and deviation are those of the voxels inside :func:`nonzero_mask`, and the other voxels
    keep their value. MONAI's `NormalizeIntensityd(nonzero=True)` uses the non-zero voxels of each channel separately,
    so zeros inside the body are left out and stay 0, among neighbours whose values have moved.

    Args:
        keys: The keys of the images, `(C, ...)`. The result is float32.
        schemes: One mapping for each channel: `scheme`, and its settings.
        allow_missing_keys: Whether keys may be missing in an item.

    Raises:
        InputError: If a scheme or setting is unknown, an image has another number of channels, or values are outside 0
            to 255 with `rgb_to_0_1`.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods: intensity normalization).
    """

    def __init__(
        self,
        keys: KeysCollection,
        schemes: Sequence[Mapping[str, Any]],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.schemes = [_checked(scheme) for scheme in schemes]

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Normalise one item.

        Args:
            data: The item.

        Returns:
            The item with normalised images; the given tensors are not changed.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[key]
            if len(image) != len(self.schemes):
                raise InputError(
                    f"{_name(image, key)}: has {count(len(image), 'channel')}, but there are "
                    f"{count(len(self.schemes), 'normalization scheme')}; give one a channel"
                )
            d[key] = _like(image, self._normalize(_plain(image), _name(image, key)))
        return d

    def _normalize(self, image: Tensor, name: str) -> Tensor:
        inside = any(scheme.get("inside_mask") for scheme in self.schemes)
        mask = nonzero_mask(image)[0] if inside else None
        out = torch.empty(image.shape, dtype=torch.float32, device=image.device)
        for channel, (values, scheme) in enumerate(zip(image.float(), self.schemes, strict=True)):
            if mask is not None and scheme["scheme"] == "zscore" and scheme["inside_mask"]:
                out[channel] = values
                if mask.any():
                    out[channel, mask] = _zscore(values[mask])
            elif scheme["scheme"] == "zscore":
                out[channel] = _zscore(values)
            elif scheme["scheme"] == "ct":
                torch.clamp(values, scheme["lower"], scheme["upper"], out=out[channel])
                out[channel].sub_(scheme["mean"]).div_(max(scheme["std"], _FLOOR))
            elif scheme["scheme"] == "rescale_to_0_1":
                low, high = (bound.item() for bound in values.aminmax())
                torch.sub(values, low, out=out[channel]).div_(max(high - low, _FLOOR))
            elif scheme["scheme"] == "rgb_to_0_1":
                _check_rgb(values, f"{name}, channel {channel}")
                torch.div(values, 255, out=out[channel])
            else:
                out[channel] = values
        return out


def _checked(scheme: Mapping[str, Any]) -> dict[str, Any]:
    name = scheme.get("scheme") if isinstance(scheme, Mapping) else None
    if not isinstance(name, str) or name not in _SETTINGS:
        raise InputError(f"normalization {brief(scheme)}: should have a scheme, one of {', '.join(_SETTINGS)}")
    given = {"inside_mask": False, **scheme} if name == "zscore" else dict(scheme)
    if set(given) != {"scheme", *_SETTINGS[name]}:
        settings = ", ".join(_SETTINGS[name]) or "no settings"
        raise InputError(f"normalization {brief(dict(scheme))}: the scheme {name} has {settings}")
    if name == "zscore" and not isinstance(given["inside_mask"], bool):
        raise InputError(f"normalization {brief(dict(scheme))}: inside_mask should be true or false")
    if name == "ct":
        numbers = [given[setting] for setting in _SETTINGS["ct"]]
        finite = all(isinstance(n, (int, float)) and not isinstance(n, bool) and abs(n) < _HUGE for n in numbers)
        if not finite or given["lower"] >= given["upper"] or given["std"] < 0:
            raise InputError(
                f"normalization {brief(dict(scheme))}: needs numbers, lower below upper, and std not below 0"
            )
    return given


def _zscore(values: Tensor) -> Tensor:
    # Centred in two steps: the difference from the mean's float32 neighbour is exact where values are close to it, and
    # the rest of the mean is then small. A float32 mean of 1e6 is wrong by up to 0.03.
    mean = _mean(values)
    near = float(np.float32(mean))
    centred = torch.sub(values, near).sub_(mean - near)
    return centred.div_(max(math.sqrt(_mean(centred, squared=True)), _FLOOR))


def _mean(values: Tensor, squared: bool = False) -> float:
    total = 0.0
    for part in values.reshape(-1).split(_CHUNK):
        part = part.double()
        total += (part.dot(part) if squared else part.sum()).item()
    return total / values.numel()


def _check_rgb(values: Tensor, name: str) -> None:
    low, high = (bound.item() for bound in values.aminmax())
    if not 0 <= low <= high <= 255:
        raise InputError(f"{name}: has values from {low:g} to {high:g}; rgb_to_0_1 is for 0 to 255, use another scheme")


class MarkOutsided(MapTransform):
    """Give background voxels outside the image's :func:`nonzero_mask` the label -1.

    They stay recognisable through resampling and augmentation, after which :class:`MaskOutsided` removes the mark.
    MONAI's `CropForegroundd` only crops to the box and does not record which voxels in it are outside.

    Args:
        keys: The keys of the label maps, `(1, ...)`. Unsigned integers become int16.
        image_key: The key of the image, `(C, ...)`, before its intensities are normalised.
        allow_missing_keys: Whether keys may be missing in an item.

    Raises:
        InputError: If the label map and the image differ in shape.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods): voxels outside the mask of normalisation.
    """

    def __init__(self, keys: KeysCollection, image_key: Hashable = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Mark the voxels outside in one item.

        Args:
            data: The item.

        Returns:
            The item with marked label maps; the given tensors are not changed.
        """
        d = dict(data)
        mask = None
        for key in self.key_iterator(d):
            if mask is None:
                mask = nonzero_mask(d[self.image_key])
            _check_shapes(d, key, self.image_key)
            label = _plain(d[key])
            if not (label.is_floating_point() or label.dtype.is_signed):
                label = label.to(torch.int16)
            d[key] = _like(d[key], label.masked_fill(~mask & (label == 0), -1))
        return d


class MaskOutsided(MapTransform):
    """Set channels to 0 where the label is negative, then those labels to 0.

    After augmentation, channels that were normalised inside the mask are 0 outside again, as the network sees them in
    inference.

    Args:
        image_key: The key of the image, `(C, ...)`.
        label_key: The key of the label map, `(1, ...)`, marked by :class:`MarkOutsided`.
        channels: Indices of the channels that were normalised inside the mask.

    Raises:
        InputError: If the image lacks one of the channels, or the label map and the image differ in shape.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods): the mask is applied again after augmentation.
    """

    def __init__(self, image_key: Hashable, label_key: Hashable, channels: Sequence[int]) -> None:
        super().__init__([image_key, label_key])
        self.image_key, self.label_key = image_key, label_key
        self.channels = list(channels)

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Mask one item.

        Args:
            data: The item.

        Returns:
            The item with a masked image and a label map without negative values; the given tensors are not changed.
        """
        d = dict(data)
        image, label = _plain(d[self.image_key]), _plain(d[self.label_key])
        _check_shapes(d, self.label_key, self.image_key)
        wrong = [c for c in self.channels if not 0 <= c < len(image)]
        if wrong:
            raise InputError(f"channels {wrong}: {self.image_key} has channels 0 to {len(image) - 1}")
        outside = label < 0
        if self.channels and outside.any():
            image = image.clone()
            for channel in self.channels:
                image[channel].masked_fill_(outside[0], 0)
            d[self.image_key] = _like(d[self.image_key], image)
        d[self.label_key] = _like(d[self.label_key], label.clamp(min=0))
        return d


def _check_shapes(data: Mapping[Hashable, Tensor], label_key: Hashable, image_key: Hashable) -> None:
    label, image = data[label_key], data[image_key]
    if len(label) != 1 or label.shape[1:] != image.shape[1:]:
        raise InputError(
            f"{_name(label, label_key)}: has shape {tuple(label.shape)}, but {_name(image, image_key)} has "
            f"{tuple(image.shape)}; a label map has one channel on the image's grid"
        )


def _plain(array: Tensor) -> Tensor:
    return array.as_tensor() if isinstance(array, MetaTensor) else array


def _like(source: Tensor, result: Tensor) -> Tensor:
    return convert_to_dst_type(result, source, dtype=result.dtype)[0]


def _name(image: Tensor, key: Hashable) -> str:
    return str(image.meta.get("filename_or_obj", key)) if isinstance(image, MetaTensor) else str(key)
