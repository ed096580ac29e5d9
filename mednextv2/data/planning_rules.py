"""From a data set's fingerprint to the settings of a training: voxel size, normalisation, patch, batch, Dice."""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from mednextv2.data.fingerprint import ChannelFacts, Fingerprint
from mednextv2.errors import InputError
from mednextv2.nets.legal_sizes import DIVISOR, round_up
from mednextv2.wording import count

_ANISOTROPIC = 3  # above this ratio in both spacing and size, the coarse axis is planned separately
_COARSE_PERCENTILE = 10  # percentile of the spacings along the coarse axis of anisotropic images
_START = {2: 2048**2, 3: 256**3}  # number of voxels of the patch before it is clipped to the image, by its axes
_DATASET_PART = 0.05  # a batch has at most this fraction of the data set's voxels
_LOW_RESOLUTION = 0.25  # a patch smaller than this fraction of the image sees too little of it
_LOW_RESOLUTION_GAIN = 2  # an image that is not reduced more than this needs no low resolution
_COARSER = 1.03  # factor between the spacings that are tried for the low resolution
LARGEST_PATCH = 192**3  # voxels of a patch; MedNeXt-v2 was not trained with larger ones
_MASKED = 0.75  # the mask is used if cropping to the non-zero voxels keeps less than this fraction

T = TypeVar("T")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Decision(Generic[T]):
    """A planned value, and in plain words the reason for it.

    Attributes:
        value: The value.
        reason: The reason, for a table that people read.
    """

    value: T
    reason: str


def target_spacing(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> Decision[tuple[float, ...]]:
    """Choose the voxel size to which all images are resampled.

    It is the median along each axis. If one axis is more than three times as coarse as the others and has less than a
    third of their voxels, the 10th percentile is taken along it, so that images with thin slices keep more of their
    slices; but it is never finer than the other axes. 2D images have no axis across slices: the median is taken.

    Args:
        spacings: Voxel size of each case, in millimetres along right, anterior, superior, or along two axes.
        shapes: Number of voxels of each case along the same axes, after cropping and before resampling.

    Returns:
        The voxel size in millimetres along the same axes. Unlike in nnU-Net, the axes keep their order.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods): target spacing of 3d_fullres.
    """
    target, size = np.median(spacings, axis=0), np.median(shapes, axis=0)
    coarse = int(target.argmax())
    if len(target) == 2:
        return Decision(_floats(target), "median spacing of the cases")
    others = [axis for axis in range(3) if axis != coarse]
    finer = target[others].max()
    if not (target[coarse] > _ANISOTROPIC * finer and size[coarse] * _ANISOTROPIC < size[others].min()):
        return Decision(_floats(target), "median spacing of the cases")
    axis = ("right", "anterior", "superior")[coarse]
    reason = f"median spacing of the cases; anisotropic: {_COARSE_PERCENTILE}th percentile of the coarse axis ({axis})"
    target[coarse] = np.percentile(np.asarray(spacings)[:, coarse], _COARSE_PERCENTILE)
    if target[coarse] < finer:
        target[coarse] = finer + 1e-5
        reason += ", raised to the spacing of the other axes"
    return Decision(_floats(target), reason)


def resampled_shapes(
    spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]], target: Sequence[float]
) -> list[Shape]:
    """Return each case's shape after resampling.

    Args:
        spacings: Voxel size of each case, in millimetres along each axis.
        shapes: Number of voxels of each case along the same axes.
        target: The common spacing in millimetres.

    Returns:
        Number of voxels along each axis, at least one; halves are rounded to even numbers.
    """
    # the order of the operations decides how halves are rounded
    exact = np.asarray(spacings, dtype=np.float64) / np.asarray(target) * np.asarray(shapes)
    return [tuple(shape) for shape in np.maximum(np.rint(exact), 1).astype(int).tolist()]


def median_shape(shapes: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Return the median along each axis of the shapes, after resampling; possibly with halves."""
    return _floats(np.median(shapes, axis=0))


def normalization(channel_names: Sequence[str], fingerprint: Fingerprint) -> list[Decision[dict[str, Any]]]:
    """Choose how each channel's intensities are normalised.

    Args:
        channel_names: The names in `dataset.json`. `CT`, `noNorm`, `zscore`, `rescale_to_0_1` and `rgb_to_0_1`, in
            upper or lower case, name their scheme; every other name means z-score.
        fingerprint: The fingerprint of the data set, whose foreground intensities give the range for CT.

    Returns:
        One mapping for each channel: `{scheme: zscore, inside_mask}`, `{scheme: ct, lower, upper, mean, std}`,
        `{scheme: rescale_to_0_1}`, `{scheme: rgb_to_0_1}` or `{scheme: none}`. CT's numbers have 7 digits.

    Raises:
        InputError: When the number of names is not the number of channels.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods): normalisation by modality.
    """
    if len(channel_names) != len(fingerprint.channels):
        raise InputError(
            f"dataset.json: names {count(len(channel_names), 'image channel')} ({', '.join(channel_names)}), but the "
            f"images have {len(fingerprint.channels)}; name each"
        )
    return [
        _scheme(name, channel, fingerprint.kept)
        for name, channel in zip(channel_names, fingerprint.channels, strict=True)
    ]


def patch_and_batch(
    median_shape: Sequence[float],
    spacing: Sequence[float],
    voxels_in_dataset: float,
    memory_of: Callable[[Shape, int], float],
    budget: float,
    min_batch: int = 2,
    largest: int = LARGEST_PATCH,
) -> tuple[Decision[Shape], Decision[int]]:
    """Choose the patch and the number of patches in a training step.

    The patch is chosen first. It starts with 256³ voxels (2D images: 2048² pixels) and the same number of millimetres
    along each axis, is clipped to the median image, and is rounded up to multiples of 16, since MedNeXt halves every
    axis four times. While it is too large, the axis along which it covers the largest part of the image is reduced by
    16. The remaining memory is used for the batch.

    Args:
        median_shape: Number of voxels of the median image at `spacing`, along each axis.
        spacing: Voxel size in millimetres along the same axes.
        voxels_in_dataset: Number of voxels of all resampled images; a batch has at most 5 % of them, but at least
            `min_batch` patches.
        memory_of: Bytes that a training step needs for a patch and a batch; it increases with either.
        budget: Bytes that a training step may need.
        min_batch: The smallest number of patches in a batch.
        largest: The largest number of voxels in a patch.

    Returns:
        The patch size in voxels along the same axes, and the number of patches.

    Raises:
        InputError: When not even the smallest patch fits.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods): patch and batch size. The steps of 16 along every
        axis are MedNeXt's.
    """
    axes = len(spacing)
    extent = (_START[axes] * math.prod(spacing)) ** (1 / axes)  # side length of the patch in millimetres
    clipped = [min(round(extent / mm), size) for mm, size in zip(spacing, median_shape, strict=True)]
    patch: Shape = tuple(map(round_up, clipped))
    if clipped == list(median_shape):
        reason = f"the whole median image, rounded up to multiples of {DIVISOR}"
    else:
        reason = "the same extent in mm along each axis, within the median image"
    while (over := _excess(patch, min_batch, memory_of, budget, largest)) and max(patch) > DIVISOR:
        patch, reason = _shrink(patch, median_shape), over
    if memory_of(patch, min_batch) > budget:
        raise InputError(
            f"--memory {_gib(budget)}: a training step with {min_batch} patches of {DIVISOR}{'²³'[axes - 2]} voxels, "
            f"the smallest, needs {_gib(memory_of(patch, min_batch))}; raise --memory or take a smaller --variant"
        )
    return Decision(patch, reason), _batch(patch, voxels_in_dataset, memory_of, budget, min_batch)


def batch_dice(patch: Sequence[int], median_shape: Sequence[float], spacing: Sequence[float]) -> Decision[bool]:
    """Choose whether the Dice loss is computed over the whole batch or for each patch separately.

    It is computed over the batch for 2D images, and if patches are so small a part of the image that many lack some of
    the classes. nnU-Net decides this by whether a network at low resolution would be worthwhile. Here, only this
    question is asked: there is no network at low resolution and no cascade, and the patch does not change, whereas
    nnU-Net plans a new one for each resolution that it tries.

    Args:
        patch: Patch size in voxels.
        median_shape: Number of voxels of the median image at `spacing`, along each axis.
        spacing: Voxel size in millimetres along the same axes.

    Returns:
        Whether the Dice loss is computed over the whole batch.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods): when 3d_lowres is configured; 2d always has it.
    """
    if len(patch) == 2:
        return Decision(True, "2D images often lack some of the classes")
    covered = math.prod(patch) / math.prod(median_shape)
    reason = f"a patch covers {_percent(min(covered, 1))} of the median image"
    if covered >= _LOW_RESOLUTION:
        return Decision(False, reason)
    fine_spacing = np.asarray(spacing, dtype=np.float64)
    coarser = fine_spacing.copy()
    gain = 1.0
    while covered * gain < _LOW_RESOLUTION:
        fine = coarser.max() / coarser > 2
        coarser[fine if fine.any() else slice(None)] *= _COARSER
        gain = float(np.prod(coarser / fine_spacing))
    if gain < _LOW_RESOLUTION_GAIN:
        return Decision(False, f"{reason}, not much less than the {_percent(_LOW_RESOLUTION)} that suffice")
    return Decision(True, f"{reason}, too little for a Dice of its own")


def _scheme(name: str, channel: ChannelFacts, kept: float) -> Decision[dict[str, Any]]:
    kind = name.strip().lower()
    if kind == "ct":
        limits = {"lower": channel.percentile_0_5, "upper": channel.percentile_99_5}
        numbers = limits | {"mean": channel.mean, "std": channel.std}
        rounded = {key: float(f"{value:.7g}") for key, value in numbers.items()}
        return Decision({"scheme": "ct"} | rounded, f"channel {name}: percentiles 0.5 and 99.5 of the foreground")
    if kind in ("rescale_to_0_1", "rgb_to_0_1"):
        return Decision({"scheme": kind}, f"named by channel {name}")
    if kind == "nonorm":
        return Decision({"scheme": "none"}, f"named by channel {name}")
    inside = kept < _MASKED
    region = "of the part that is not zero" if inside else "of the whole image"
    reason = f"channel {name}: {region}, since {_percent(kept)} of the median image are left without its zero border"
    return Decision({"scheme": "zscore", "inside_mask": inside}, reason)


def _excess(patch: Shape, batch: int, memory_of: Callable[[Shape, int], float], budget: float, largest: int) -> str:
    """Say what the patch is too large for; the text is empty if it is not."""
    if math.prod(patch) > largest:
        return f"limited to {largest:,} voxels"
    return f"limited by --memory {_gib(budget)}" if memory_of(patch, batch) > budget else ""


def _shrink(patch: Shape, median_shape: Sequence[float]) -> Shape:
    axes = [axis for axis, size in enumerate(patch) if size > DIVISOR]
    worst = max(axes, key=lambda axis: (patch[axis] / median_shape[axis], patch[axis]))
    return tuple(size - DIVISOR * (axis == worst) for axis, size in enumerate(patch))


def _batch(
    patch: Shape, voxels: float, memory_of: Callable[[Shape, int], float], budget: float, smallest: int
) -> Decision[int]:
    covered = round(voxels * _DATASET_PART / math.prod(patch))
    if covered <= smallest:
        return Decision(smallest, f"the smallest batch; {_percent(_DATASET_PART)} of the data set are not more")
    larger = range(smallest + 1, covered + 1)
    fits = smallest + bisect.bisect_right(larger, budget, key=lambda batch: memory_of(patch, batch))
    limit = f"--memory {_gib(budget)}" if fits < covered else f"{_percent(_DATASET_PART)} of the data set"
    return Decision(fits, f"limited by {limit}")


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"


def _gib(memory: float) -> str:
    return f"{memory / 2**30:.3g} GiB"
