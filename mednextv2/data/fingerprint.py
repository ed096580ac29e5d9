"""What a data set looks like: voxel sizes, image sizes and intensities, from which a training is planned."""

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms.utils import generate_spatial_bounding_box
from nibabel.affines import voxel_sizes

from mednextv2 import wording
from mednextv2.errors import InputError
from mednextv2.images.planes import plane_axes

_SAMPLE = 20_000  # the number of foreground values of a case that are kept for the percentiles
_CHUNK = 2**20  # the number of values that are converted to float64 at a time
_EXPANDED = 10**6  # a case's largest number of values in the expanded pool


@dataclass(frozen=True)
class CaseChannel:
    """Foreground intensities of one channel of one case; NaN where the case has no foreground.

    Attributes:
        count: Number of foreground voxels.
        mean: Mean of all foreground intensities.
        variance: Population variance of all foreground intensities.
        minimum: Smallest foreground intensity.
        maximum: Largest foreground intensity.
        sample: Up to 20 000 of the intensities, drawn without replacement, ascending, float32.
    """

    count: int
    mean: float
    variance: float
    minimum: float
    maximum: float
    sample: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True)
class CaseFacts:
    """What one case contributes to the fingerprint.

    Attributes:
        name: The name of the case.
        spacing: Voxel size in millimetres along right, anterior, superior; of a plane, along the two that it follows.
        shape: Voxels along the same axes, after cropping to the box of non-zero voxels.
        kept: Number of voxels after the crop divided by the number before it.
        channels: Foreground intensities of each channel.
        values: Number of voxels of each label value, after the crop.
    """

    name: str
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    kept: float
    channels: tuple[CaseChannel, ...]
    values: dict[int, int]


@dataclass(frozen=True)
class ChannelFacts:
    """Foreground intensities of one channel over the data set, in which every case has the same weight."""

    mean: float
    median: float
    std: float
    minimum: float
    maximum: float
    percentile_0_5: float
    percentile_99_5: float


@dataclass(frozen=True)
class Fingerprint:
    """What the planning needs to know about a data set.

    Attributes:
        cases: Number of cases.
        spacings: Voxel size of each case, in millimetres along right, anterior, superior.
        shapes: Number of voxels of each case along the same axes, after cropping to the box of non-zero voxels.
        kept: Median over the cases of the number of voxels after the crop divided by the number before it.
        channels: Foreground intensities of each channel.
        voxels: Number of voxels of each label value, after the crop.
        cases_with: Number of cases in which each label value occurs.
    """

    cases: int
    spacings: tuple[tuple[float, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    kept: float
    channels: tuple[ChannelFacts, ...]
    voxels: dict[int, int]
    cases_with: dict[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the fingerprint as types that JSON has: lists, numbers, and dicts with text as keys."""
        return {
            "cases": self.cases,
            "spacings": [list(spacing) for spacing in self.spacings],
            "shapes": [list(shape) for shape in self.shapes],
            "kept": self.kept,
            "channels": [asdict(channel) for channel in self.channels],
            "voxels": {str(value): count for value, count in self.voxels.items()},
            "cases_with": {str(value): count for value, count in self.cases_with.items()},
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Fingerprint":
        """Return the fingerprint from the result of `to_dict`."""
        return cls(
            cases=content["cases"],
            spacings=tuple(tuple(spacing) for spacing in content["spacings"]),
            shapes=tuple(tuple(shape) for shape in content["shapes"]),
            kept=content["kept"],
            channels=tuple(ChannelFacts(**channel) for channel in content["channels"]),
            voxels={int(value): count for value, count in content["voxels"].items()},
            cases_with={int(value): count for value, count in content["cases_with"].items()},
        )


def case_facts(image: np.ndarray, label: np.ndarray, affine: np.ndarray, name: str = "") -> CaseFacts:
    """Measure one case.

    Args:
        image: Voxels in the file's order, `(C, X, Y, Z)` or `(C, X, Y)`, of any number type.
        label: Label map on the same grid, `(X, Y, Z)` or `(X, Y)`; values above 0 are foreground.
        affine: The matrix `(4, 4)` from voxel indices to millimetres (right, anterior, superior).
        name: The name of the case; it is also the seed of the sample.

    Returns:
        The case's facts. An image that contains only zeros is not cropped.

    Raises:
        InputError: If the shapes or the affine are impossible, the foreground has NaN or infinite intensities, or the
            label map has values other than whole numbers from 0 on.

    Source:
        nnU-Net's dataset fingerprint (Isensee et al. 2021, Nature Methods, online methods).
    """
    if label.ndim not in (2, 3) or image.shape[1:] != label.shape:
        raise InputError(
            f"case {name}: image {image.shape} and label map {label.shape} should be (C, X, Y, Z) and (X, Y, Z); "
            "resample the label map to the image"
        )
    axes = plane_axes(affine) if label.ndim == 2 else nib.orientations.io_orientation(affine)
    order = axes[:, 0]
    if np.isnan(order).any():
        raise InputError(f"case {name}: the affine has an axis of length 0; set the voxel spacing")
    spacing = voxel_sizes(affine)[: label.ndim]

    # NumPy picks voxels by a mask in index order, which is tens of times as slow if the memory has another order
    memory = np.argsort([-abs(stride) for stride in image.strides[1:]], kind="stable")
    image, label = image.transpose(0, *memory + 1), label.transpose(memory)
    start, end = generate_spatial_bounding_box(image, select_fn=lambda voxels: voxels != 0)
    box = tuple(slice(a, b) for a, b in zip(start, end, strict=True)) if any(end) else (slice(None),) * label.ndim
    whole, image, label = label.size, image[(slice(None), *box)], label[box]
    ras = np.argsort(order)  # the file's axis for each of the patient's
    shape = np.array(label.shape)[np.argsort(memory)][ras]

    foreground = label > 0
    return CaseFacts(
        name=name,
        spacing=tuple(spacing[ras].tolist()),
        shape=tuple(shape.tolist()),
        kept=label.size / whole,
        channels=_channels(image, foreground, name),
        values=_count_values(label, foreground, name),
    )


def _channels(image: np.ndarray, foreground: np.ndarray, name: str) -> tuple[CaseChannel, ...]:
    count = int(np.count_nonzero(foreground))
    if not count:
        nothing = CaseChannel(0, math.nan, math.nan, math.nan, math.nan, np.empty(0, np.float32))
        return (nothing,) * len(image)
    random = np.random.default_rng(zlib.crc32(name.encode()))
    chosen = random.choice(count, _SAMPLE, replace=False, shuffle=False) if count > _SAMPLE else slice(None)
    return tuple(_channel(channel[foreground], chosen, name) for channel in image)


def _channel(values: np.ndarray, chosen: np.ndarray | slice, name: str) -> CaseChannel:
    minimum, maximum = float(values.min()), float(values.max())
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        raise InputError(f"case {name}: has NaN or infinite voxels in the foreground; replace or recompute them")
    mean = float(values.mean(dtype=np.float64))
    squares = 0.0
    for i in range(0, len(values), _CHUNK):
        deviation = np.subtract(values[i : i + _CHUNK], mean, dtype=np.float64)
        squares += float(deviation @ deviation)
    sample = np.sort(values[chosen].astype(np.float32))
    return CaseChannel(len(values), mean, squares / len(values), minimum, maximum, sample)


def _count_values(label: np.ndarray, foreground: np.ndarray, name: str) -> dict[int, int]:
    values, counts = np.unique(label[foreground], return_counts=True)
    background = label.size - int(counts.sum())
    negative = np.count_nonzero(label) > label.size - background  # or NaN
    if negative or not all(float(value).is_integer() for value in values):
        raise InputError(f"case {name}: the label map holds other values than whole numbers from 0 on; export it again")
    found = {0: background} if background else {}
    return found | {int(value): count for value, count in zip(values, counts.tolist(), strict=True)}


def combine(cases: Sequence[CaseFacts]) -> Fingerprint:
    """Join the facts of all cases.

    Every case with foreground has the same weight in the intensities, however many voxels it has. nnU-Net draws a
    random sample of the same size from each case (with replacement), whose statistics converge to these. The mean,
    standard deviation and range are exact here, computed from all voxels, and the quantiles are those of the samples.

    Args:
        cases: The cases, of which at least one has foreground; cases without foreground contribute no intensities.

    Returns:
        The data set's fingerprint.

    Raises:
        InputError: When no case has foreground, or the cases have different numbers of channels.

    Source:
        nnU-Net's dataset fingerprint (Isensee et al. 2021, Nature Methods, online methods).
    """
    first, *others = cases
    for other in others:
        if len(other.channels) != len(first.channels):
            raise InputError(
                f"case {other.name}: has {wording.count(len(other.channels), 'image channel')}, but case {first.name} "
                f"has {len(first.channels)}; every case needs the same"
            )
    labelled = [case for case in cases if case.channels[0].count]
    if not labelled:
        raise InputError(
            f"none of the {wording.count(len(cases), 'case')} has a voxel above 0 in its label map; "
            "check the folder of label maps"
        )
    voxels: Counter[int] = Counter()
    cases_with: Counter[int] = Counter()
    for case in cases:
        voxels.update(case.values)
        cases_with.update(case.values.keys())
    return Fingerprint(
        cases=len(cases),
        spacings=tuple(case.spacing for case in cases),
        shapes=tuple(case.shape for case in cases),
        kept=float(np.median([case.kept for case in cases])),
        channels=tuple(_pool(channel) for channel in zip(*(case.channels for case in labelled), strict=True)),
        voxels=dict(sorted(voxels.items())),
        cases_with=dict(sorted(cases_with.items())),
    )


def _pool(cases: Sequence[CaseChannel]) -> ChannelFacts:
    means = np.array([case.mean for case in cases])
    mean = means.mean()
    variance = np.mean([case.variance for case in cases] + (means - mean) ** 2)
    low, median, high = _quantiles([case.sample for case in cases], [0.005, 0.5, 0.995])
    return ChannelFacts(
        mean=float(mean),
        median=median,
        std=math.sqrt(variance),
        minimum=min(case.minimum for case in cases),
        maximum=max(case.maximum for case in cases),
        percentile_0_5=low,
        percentile_99_5=high,
    )


def _quantiles(samples: Sequence[np.ndarray], at: Sequence[float]) -> list[float]:
    """Return quantiles of the pool in which each sample's values are repeated until all samples have the same size.

    The repeated values are never written out: between the first and the last copy of a value, the pool is constant, and
    from there to the first copy of the next value it is interpolated, as `numpy.percentile` does.
    """
    size = min(math.lcm(*map(len, samples)), max(_EXPANDED, *map(len, samples)))
    values = np.concatenate(samples)
    copies = np.concatenate([np.full(len(sample), size / len(sample)) for sample in samples])
    order = np.argsort(values, kind="stable")  # merges the sorted samples
    values, after = values[order], np.cumsum(copies[order])
    first = after - copies[order]
    positions = np.multiply(at, size * len(samples) - 1)
    places = np.stack([first, after - 1], axis=1).ravel()
    return np.interp(positions, places, np.repeat(values, 2)).tolist()
