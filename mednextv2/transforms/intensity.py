"""The parts of nnU-Net's intensity augmentation in which MONAI's transforms differ from it.

These transforms take images of shape `(C, X, Y, Z)` or `(C, X, Y)` that are already normalised, and run on the device
of the images. All decisions come from `self.R`. An image that is not changed is passed on as it is; a changed image is
a new tensor of the same type (MetaTensor or not) and floating-point type.

Brightness, contrast and mirroring are MONAI's: `RandScaleIntensityd(prob=0.15, factors=0.25, channel_wise=True)`,
`RandScaleIntensityFixedMeand(prob=0.15, factors=0.25, channel_wise=True, preserve_range=True)`, and
`RandFlipd(prob=0.5, spatial_axis=axis)` for each axis.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type
from torch import Tensor

from mednextv2.errors import InputError

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class _RandIntensityd(RandomizableTransform, MapTransform):
    """What the transforms share: a decision for each sample, then one for each channel, and the tensor types.

    With several keys, the decision for the sample is the same for all; the rest is drawn for each key.
    """

    def __init__(self, keys: KeysCollection, prob: float, channel_prob: float, allow_missing_keys: bool) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.channel_prob = channel_prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.randomize(None)
        for key in self.key_iterator(d):  # also when nothing is done: a missing key is always an error
            if self._do_transform:
                d[key] = self._on_any_tensor(d[key])
        return d

    def _on_any_tensor(self, image: Tensor) -> Tensor:
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        if plain.dtype not in (torch.float32, torch.float64):  # half precision is too coarse for means and kernels
            plain = plain.float()
        result = self._augment(plain)
        if result is plain:
            return image
        return convert_to_dst_type(result, image, dtype=image.dtype if image.is_floating_point() else result.dtype)[0]

    def _augment(self, image: Tensor) -> Tensor:
        """Return a new image, or the same object if no channel is drawn."""
        drawn = self.R.rand(len(image)) < self.channel_prob
        if not drawn.any():
            return image
        return torch.stack([self._change(image[c]) if drawn[c] else image[c] for c in range(len(image))])

    def _change(self, channel: Tensor) -> Tensor:
        """Return a new channel, of shape `(X, Y, Z)` or `(X, Y)`."""
        raise NotImplementedError


class RandNoised(_RandIntensityd):
    """Add Gaussian noise; the standard deviation is drawn for the sample, the noise for each voxel and channel.

    The distribution is that of MONAI's `RandGaussianNoised`, which draws in float64 with NumPy. It therefore takes four
    times as long on a CPU, and copies the noise to the GPU for images there.

    Args:
        keys: The keys of the images.
        prob: The probability that a sample is changed.
        std: The lowest and highest standard deviation; it is drawn uniformly.
        allow_missing_keys: Whether keys may be missing in a sample.

    Raises:
        InputError: If the range is not valid.

    Source:
        nnU-Net v2's training augmentation, where the range is called a variance and used as a standard deviation.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        std: Sequence[float] = (0.0, 0.1),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, 1.0, allow_missing_keys)
        self.std = _check_range("std", std)

    def _augment(self, image: Tensor) -> Tensor:
        std = self.R.uniform(*self.std)
        generator = torch.Generator(image.device).manual_seed(int(self.R.randint(2**31, dtype=np.int64)))
        noise = torch.empty(image.shape, dtype=image.dtype, device=image.device)
        return noise.normal_(0, std, generator=generator).add_(image)


class RandBlurChannelsd(_RandIntensityd):
    """Blur channels with Gaussians whose standard deviation is drawn for each channel and axis.

    MONAI's `RandGaussianSmoothd` blurs all channels alike, assumes zeros outside the image, which darkens its border,
    and takes more than ten times as long on a CPU.

    Args:
        keys: The keys of the images.
        prob: The probability that a sample is changed.
        sigma: The lowest and highest standard deviation in voxels; it is drawn uniformly.
        channel_prob: The probability that a channel of such a sample is changed.
        allow_missing_keys: Whether keys may be missing in a sample.

    Raises:
        InputError: If the range is not valid.

    Source:
        nnU-Net v2's training augmentation.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.2,
        sigma: Sequence[float] = (0.5, 1.0),
        channel_prob: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, channel_prob, allow_missing_keys)
        self.sigma = _check_range("sigma", sigma)

    def _change(self, channel: Tensor) -> Tensor:
        for axis in range(channel.ndim):
            channel = blur_axis(channel, self.R.uniform(*self.sigma), axis)
        return channel


class RandLowResolutiond(_RandIntensityd):
    """Resample channels to a coarser grid with nearest neighbours, and back with linear interpolation.

    MONAI's `RandSimulateLowResolutiond` treats all channels alike, and cannot leave an axis alone.

    Args:
        keys: The keys of the images.
        prob: The probability that a sample is changed.
        factor: The smallest and largest size of the coarse grid relative to the image's; drawn uniformly for each
            channel, and the same for all axes.
        channel_prob: The probability that a channel of such a sample is changed.
        keep_axis: The spatial axis that keeps its resolution: that of the thick slices of an anisotropic image.
        allow_missing_keys: Whether keys may be missing in a sample.

    Raises:
        InputError: If the range is not valid or not within 0 to 1, or the axis does not exist.

    Source:
        nnU-Net v2's training augmentation.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.25,
        factor: Sequence[float] = (0.5, 1.0),
        channel_prob: float = 0.5,
        keep_axis: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, channel_prob, allow_missing_keys)
        self.factor = _check_range("factor", factor, highest=1.0)
        if keep_axis not in (None, 0, 1, 2):
            raise InputError(f"keep_axis {keep_axis!r}: should be 0, 1, 2, or null for none")
        self.keep_axis = keep_axis

    def _change(self, channel: Tensor) -> Tensor:
        factor = self.R.uniform(*self.factor)
        size = [max(1, round(n * factor)) for n in channel.shape]
        if self.keep_axis is not None:
            size[self.keep_axis] = channel.shape[self.keep_axis]
        coarse = F.interpolate(channel[None, None], size, mode="nearest-exact")
        return F.interpolate(coarse, channel.shape, mode=_LINEAR[channel.ndim])[0, 0]


class RandGammad(_RandIntensityd):
    """Scale channels to 0 to 1, raise them to a power, and restore their mean and standard deviation.

    The exponent is below 1 for half of the channels and above 1 for the others. MONAI's `RandAdjustContrastd` draws it
    uniformly from the whole range, so that 62 % of the exponents in nnU-Net's range are above 1, and uses one exponent,
    minimum, maximum, mean and standard deviation for all channels. A constant channel is not changed.

    Args:
        keys: The keys of the images.
        prob: The probability that a sample is changed.
        gamma: The lowest and highest exponent; half are drawn uniformly from the lowest to 1, half from 1 to the
            highest.
        invert: Whether the image is negated before and after.
        channel_prob: The probability that a channel of such a sample is changed.
        allow_missing_keys: Whether keys may be missing in a sample.

    Raises:
        InputError: If the range is not valid or does not contain 1.

    Source:
        nnU-Net v2's training augmentation: inverted with probability 0.1, then plain with 0.3.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.3,
        gamma: Sequence[float] = (0.7, 1.5),
        invert: bool = False,
        channel_prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, channel_prob, allow_missing_keys)
        self.gamma = _check_range("gamma", gamma)
        if not 0 < self.gamma[0] <= 1 <= self.gamma[1]:
            raise InputError(f"gamma {list(self.gamma)}: should be from a number in 0 to 1 to one of 1 or more")
        self.invert = invert

    def _change(self, channel: Tensor) -> Tensor:
        low, high = self.gamma
        gamma = self.R.uniform(low, 1) if self.R.rand() < 0.5 else self.R.uniform(1, high)
        return restoring_gamma(channel, gamma, self.invert)


def blur_axis(image: Tensor, sigma: float, axis: int) -> Tensor:
    """Convolve with a sampled Gaussian along one axis, with the image reflected at its outermost voxels.

    The kernel has the odd number of taps nearest to `6 * sigma + 0.5`, and sums to 1. If an axis has too few voxels to
    reflect, the kernel is truncated.

    Args:
        image: An image of any shape, float32 or float64.
        sigma: The standard deviation in voxels.
        axis: The axis along which to blur.

    Returns:
        A new image; the same object for a kernel with one tap.
    """
    n = image.shape[axis]
    radius = min(math.floor(3 * sigma + 0.25), n - 1)
    if radius < 1:
        return image
    kernel = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(radius + 1)]
    total = 2 * sum(kernel) - kernel[0]
    # Sum shifted images, since PyTorch's convolutions of a single channel are more than ten times slower on CPUs.
    result = image * (kernel[0] / total)
    for i in range(1, radius + 1):
        weight = kernel[i] / total
        result.narrow(axis, i, n - i).add_(image.narrow(axis, 0, n - i), alpha=weight)
        result.narrow(axis, 0, n - i).add_(image.narrow(axis, i, n - i), alpha=weight)
        result.narrow(axis, 0, i).add_(image.narrow(axis, 1, i).flip(axis), alpha=weight)
        result.narrow(axis, n - i, i).add_(image.narrow(axis, n - 1 - i, i).flip(axis), alpha=weight)
    return result


def restoring_gamma(image: Tensor, gamma: float, invert: bool = False) -> Tensor:
    """Scale an image to 0 to 1, raise it to a power, and restore its mean and standard deviation.

    Args:
        image: An image of any shape, float32 or float64.
        gamma: The exponent.
        invert: Whether the image is negated before and after.

    Returns:
        A new image; a constant image is not changed.
    """
    tiny = torch.finfo(image.dtype).tiny
    low, high = image.aminmax()
    varies = high > low
    power = (high - image if invert else image - low).div_((high - low).clamp_min_(tiny)).pow_(gamma)
    # Restoring the old range would not change the result: restoring the mean and deviation undoes it.
    factor = image.std(correction=0) / power.std(correction=0).clamp_min_(tiny)
    # Mean and deviation of equal voxels are rounded. A Python branch would have to wait for the GPU.
    factor = torch.where(varies, -factor if invert else factor, 0)
    shift = torch.where(varies, image.mean(), low) - factor * power.mean()
    return power.mul_(factor).add_(shift)


def _check_range(name: str, given: Sequence[float], highest: float = math.inf) -> tuple[float, float]:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not 0 <= low <= high <= highest:
        limits = "0 or more" if highest == math.inf else f"in 0 to {highest:g}"
        raise InputError(f"{name} {given!r}: should be two numbers, {limits}, the lower one first")
    return low, high
