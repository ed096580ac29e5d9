"""Whether slices of a DICOM series are a volume, and where it is: judged from their headers."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from monai.data.utils import orientation_ras_lps

from mednextv2.errors import InputError
from mednextv2.images.dicom_file import Place, Slice
from mednextv2.images.dicom_tilt import tilt_degrees

_COLOURS = ("PALETTE COLOR", "RGB")  # of one sample; those of several are known by their number
_FEW = 5  # names of files in a message
_SAME_POSITION = 0.01  # of a slice's distance: two slices nearer than that are at one position
_IRREGULAR = 0.05  # of a slice's distance, that a slice may lie off the regular grid
_ROUNDED = 0.0505  # mm that a position lies off at most where it was written with one decimal
_ROUNDED_PART = 0.3  # of a slice's distance: above it a missing slice could not be told from rounding
_TILT_DEGREES = 0.5  # up to which slices are put at right angles as they are
_MOST_DEGREES = 45.0
_LEAST_SPACING, _MOST_SPACING = 1e-5, 1e3  # mm, from microscopes to more than a patient in few pixels
_SAME_DIRECTION = 1e-3  # of direction cosines, which scanners write with some six digits


def in_order(slices: Iterable[Slice]) -> list[Slice]:
    """Return slices from the first to the last, as far as they have positions."""
    slices = list(slices)
    placed = [(s.place, s) for s in slices if s.place]
    if len(placed) < len(slices):
        return slices
    row, column = _directions(placed[0][0])
    normal = np.cross(row, column)
    placed.sort(key=lambda pair: (float(np.dot(pair[0].position, normal)), pair[1].file))
    return [s for _, s in placed]


def _directions(place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors along a row and along a column."""
    return np.array(place.orientation[:3]), np.array(place.orientation[3:])


#: The defect of a series that is no volume since it has only one slice.
ONE_SLICE = "has one slice"


def find_defect(slices: Sequence[Slice]) -> str:
    """Say what keeps slices from being a volume, as far as each header tells; nothing where nothing does."""
    first = slices[0]
    if coloured := [s for s in slices if s.samples > 1 or s.photometric in _COLOURS]:
        kind, samples = coloured[0].photometric, coloured[0].samples
        return f"is in colour ({kind}, {samples} samples a pixel): a screenshot or a rendering"
    if "MOSAIC" in first.image_type:
        return "is a mosaic of slices (a functional MR); convert it to NIfTI first, for example with dcm2niix"
    places, spacings = [s.place for s in slices if s.place], [s.spacing for s in slices if s.spacing]
    if len(places) < len(slices):
        return f"has no position and orientation in {name_files([s.file for s in slices if not s.place])}"
    if len(spacings) < len(slices):
        return f"has no pixel spacing in {name_files([s.file for s in slices if not s.spacing])}"
    if odd := [s.file for s in slices if not all(map(math.isfinite, s.rescale))]:
        return f"has a rescale slope or intercept that is no number in {name_files(odd)}"
    if len(slices) < 2:
        return ONE_SLICE
    for name, same in (
        ("sizes", [s.shape == first.shape for s in slices]),
        ("pixel spacings", [np.allclose(spacing, spacings[0], rtol=1e-3, atol=0) for spacing in spacings]),
        ("patients", [s.patient == first.patient for s in slices]),
        ("studies", [s.study == first.study for s in slices]),
        ("frames of reference", [s.reference == first.reference for s in slices]),
        ("orientations", [np.allclose(p.orientation, places[0].orientation, atol=_SAME_DIRECTION) for p in places]),
    ):
        if other := [s.file for s, fits in zip(slices, same, strict=True) if not fits]:
            return (
                f"mixes images of different {name} ({Path(first.file).name} and {name_files(other)}); "
                "keep those of one volume in a folder of their own"
            )
    directions = np.array(_directions(places[0]))
    lengths = all(_LEAST_SPACING < length < _MOST_SPACING for length in spacings[0])
    with np.errstate(over="ignore"):  # of absurd numbers, which are no right angles either
        products = directions @ directions.T
    if not np.allclose(products, np.eye(2), atol=0.01) or not lengths:
        return "has an orientation or a pixel spacing that is not valid"
    return ""


def slices_affine(slices: Iterable[Slice], name: str) -> np.ndarray:
    """Return the affine of the voxels `(columns, rows, slices)`, `(4, 4)`, to mm (right, anterior, superior).

    Its directions are at right angles, except that the third one is sheared where a gantry was tilted by more than
    0.5°. The distance of slices is that of the first and the last, divided by the number of steps.

    Args:
        slices: Of a series without a defect: see :func:`find_defect`.
        name: Of the series, for messages.

    Raises:
        InputError: When slices are missing, irregular, displaced sideways, or sheared by more than 45°.
        ValueError: For slices without position, orientation or pixel spacing, which are a defect.

    Source:
        DICOM PS3.3, C.7.6.2.1.1 (image position and orientation).
    """
    slices = in_order(slices)
    places, spacing = [s.place for s in slices if s.place], slices[0].spacing
    if len(places) < len(slices) or spacing is None:
        raise ValueError(f"{name}: slices without position, orientation or pixel spacing have no affine")
    positions = np.array([place.position for place in places])
    turn = _right_angles(places[0])
    row, column, normal = turn.T
    heights = positions @ normal
    rounded = _ROUNDED * np.abs(normal).sum()
    if problem := _irregular(slices, heights, rounded):
        raise InputError(f"{name}: {problem}")
    drift = (positions[-1] - positions[0]) / (len(slices) - 1)
    step = float(drift @ normal)
    steps = np.arange(len(slices)) - (len(slices) - 1) / 2
    start = positions - np.outer(steps, drift)  # all the same on a regular grid
    aside = np.linalg.norm(start - np.median(start, axis=0), axis=1)
    if aside.max() > max(_IRREGULAR * max(step, *spacing), 2 * _ROUNDED):
        raise InputError(
            f"{name}: its slices are displaced sideways ({Path(slices[int(aside.argmax())].file).name} by "
            f"{aside.max():.1f} mm); several series were mixed, or positions in the headers are wrong"
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * spacing[0], column * spacing[1]
    affine[:3, 2], affine[:3, 3] = drift, positions[0]
    tilt = tilt_degrees(affine)
    if tilt > _MOST_DEGREES:
        raise InputError(f"{name}: its slices are sheared by {tilt:.1f}°, more than any gantry is tilted")
    if tilt <= _TILT_DEGREES:  # at right angles about the middle, since programs refuse files of another kind
        affine[:3, 2] = normal * step
        affine[:3, 3] += (drift - normal * step) * (len(slices) - 1) / 2
    return orientation_ras_lps(affine)


def describe_tilt(slices: Sequence[Slice], affine: np.ndarray) -> str:
    """Say how slices are sheared, and what was done about it; nothing where they are not."""
    if (tilt := tilt_degrees(affine)) > _TILT_DEGREES:
        return (
            f"its slices are sheared by {tilt:.1f}° (a tilted gantry); the network sees it resampled to right angles, "
            "and the mask is on the original slices. Some programs, those built on ITK among them, cannot open a NIfTI "
            "file that is sheared; in a DICOM SEG each slice has its place"
        )
    ends = [np.array(s.place.position) for s in (slices[0], slices[-1]) if s.place]
    normal = orientation_ras_lps(affine)[:3, 2] / np.linalg.norm(affine[:3, 2])
    moved = float(np.linalg.norm(ends[1] - ends[0] - normal * ((ends[1] - ends[0]) @ normal))) / 2
    if moved <= 2 * _ROUNDED:
        return ""
    return (
        "its slices are sheared a little; they were put at right angles, and the first and the last lie "
        f"{moved:.2f} mm aside in a NIfTI mask"
    )


def _right_angles(place: Place) -> np.ndarray:
    """Return the rotation nearest to the directions along a row, along a column and of the normal, as columns."""
    row, column = _directions(place)
    u, _, v = np.linalg.svd(np.column_stack([row, column, np.cross(row, column)]))
    return u @ v


def _irregular(slices: Sequence[Slice], heights: np.ndarray, rounded: float) -> str:
    gaps = np.diff(heights)
    step = float(np.median(gaps))
    if step <= 0 or (gaps < _SAME_POSITION * step).any():
        first = int(np.argmin(gaps))
        same = name_files([s.file for s in slices[first : first + 2]])
        return (
            f"has several images at one position (among them {same}), and nothing in the headers tells them apart; "
            "keep one of them in a folder of its own"
        )
    places = np.arange(len(heights))
    off = heights - np.polyval(np.polyfit(places, heights, 1), places)
    if np.abs(off).max() <= max(_IRREGULAR * step, min(rounded, _ROUNDED_PART * step)):
        return ""
    whole = np.round(gaps / step)
    missing = np.flatnonzero((whole > 1) & (np.abs(gaps - whole * step) < _IRREGULAR * step * whole))
    if len(missing) and len(missing) + (np.abs(gaps - step) <= _IRREGULAR * step).sum() == len(gaps):
        where = "; ".join(
            f"{int(whole[i]) - 1} between {Path(slices[i].file).name} and {Path(slices[i + 1].file).name}"
            for i in missing[:_FEW]
        )
        return f"lacks slices ({where}); copy the whole series"
    return (
        f"has slices at irregular distances, {gaps.min():.2f} to {gaps.max():.2f} mm; several series were mixed, or "
        "slices are missing. Export the series again, or resample it to one distance"
    )


def name_files(files: Sequence[str]) -> str:
    """Return the names of a few files, for a message."""
    files = list(dict.fromkeys(files))
    more = f" and {len(files) - _FEW} more" if len(files) > _FEW else ""
    return ", ".join(Path(f).name for f in files[:_FEW]) + more
