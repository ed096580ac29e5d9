"""Whether slices of a DICOM series are a volume, and where it is: judged from their headers."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from monai.data.utils import orientation_ras_lps

from mednextv2.errors import InputError
from mednextv2.images.dicom_file import Place, Slice

_COLOURS = ("PALETTE COLOR", "RGB")  # of one sample; those of several are known by their number
_FEW = 5  # names of files in a message
_SAME_POSITION = 0.01  # of a slice's distance: two slices nearer than that are at one position
_IRREGULAR = 0.05  # of a slice's distance, that a slice may lie off the regular grid
_TILT_DEGREES = 0.5
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


def find_defect(slices: Sequence[Slice]) -> str:
    """Say what keeps slices from being a volume, as far as each header tells; nothing where nothing does."""
    first = slices[0]
    if coloured := [s for s in slices if s.samples > 1 or s.photometric in _COLOURS]:
        kind, samples = coloured[0].photometric, coloured[0].samples
        return f"is in colour ({kind}, {samples} samples a pixel): a screenshot or a rendering"
    if any(s.frames > 1 for s in slices):
        return "is of enhanced multi-frame files; convert it to NIfTI first, for example with dcm2niix"
    if "MOSAIC" in first.image_type:
        return "is a mosaic of slices (a functional MR); convert it to NIfTI first, for example with dcm2niix"
    places, spacings = [s.place for s in slices if s.place], [s.spacing for s in slices if s.spacing]
    if len(places) < len(slices):
        return f"has no position and orientation in {name_files([s.file for s in slices if not s.place])}"
    if len(spacings) < len(slices):
        return f"has no pixel spacing in {name_files([s.file for s in slices if not s.spacing])}"
    if len(slices) < 2:
        return "has one slice"
    for name, same in (
        ("sizes", [s.shape == first.shape for s in slices]),
        ("pixel spacings", [np.allclose(spacing, spacings[0], rtol=1e-3, atol=0) for spacing in spacings]),
        ("orientations", [np.allclose(p.orientation, places[0].orientation, atol=_SAME_DIRECTION) for p in places]),
    ):
        if other := [s.file for s, fits in zip(slices, same, strict=True) if not fits]:
            return (
                f"mixes images of different {name} ({Path(first.file).name} and {name_files(other)}); "
                "keep those of one volume in a folder of their own"
            )
    directions = np.array(_directions(places[0]))
    if not np.allclose(directions @ directions.T, np.eye(2), atol=0.01) or min(spacings[0]) <= 0:
        return "has an orientation or a pixel spacing that is none"
    return ""


def slices_affine(slices: Iterable[Slice], name: str) -> np.ndarray:
    """Return the affine of the voxels `(columns, rows, slices)`, `(4, 4)`, to mm (right, anterior, superior).

    Args:
        slices: Of a series without a defect: see :func:`find_defect`.
        name: Of the series, for messages.

    Raises:
        InputError: When slices are missing, irregular, or sheared by a tilted gantry.
        ValueError: For slices without position, orientation or pixel spacing, which are a defect.

    Source:
        DICOM PS3.3, C.7.6.2.1.1 (image position and orientation).
    """
    slices = in_order(slices)
    places, spacing = [s.place for s in slices if s.place], slices[0].spacing
    if len(places) < len(slices) or spacing is None:
        raise ValueError(f"{name}: slices without position, orientation or pixel spacing have no affine")
    positions = np.array([place.position for place in places])
    row, column = _directions(places[0])
    normal = np.cross(row, column)
    heights = positions @ normal
    gaps = np.diff(heights)
    step = float(np.median(gaps))
    if problem := _irregular(slices, gaps, step):
        raise InputError(f"{name}: {problem}")
    drift = (positions[-1] - positions[0]) / (len(slices) - 1)
    tilt = math.degrees(math.atan2(np.linalg.norm(drift - normal * (drift @ normal)), abs(drift @ normal)))
    if tilt > _TILT_DEGREES:
        raise InputError(
            f"{name}: its slices are sheared by {tilt:.1f}° (a tilted gantry); correct that first, for example with "
            "dcm2niix, which writes a corrected image (its name ends in _Tilt)"
        )
    aside = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(slices)), drift), axis=1)
    if aside.max() > _IRREGULAR * max(step, *spacing):
        raise InputError(
            f"{name}: its slices are displaced sideways ({Path(slices[int(aside.argmax())].file).name} by "
            f"{aside.max():.1f} mm); several series were mixed, or positions in the headers are wrong"
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * spacing[0], column * spacing[1]
    affine[:3, 2], affine[:3, 3] = drift, positions[0]
    return orientation_ras_lps(affine)


def _irregular(slices: Sequence[Slice], gaps: np.ndarray, step: float) -> str:
    if step <= 0 or (gaps < _SAME_POSITION * step).any():
        first = int(np.argmin(gaps))
        same = name_files([s.file for s in slices[first : first + 2]])
        return (
            f"has several images at one position (among them {same}): "
            "echoes, time points or copies; keep one of them in a folder of its own"
        )
    whole = np.round(gaps / step)
    missing = np.flatnonzero((whole > 1) & (np.abs(gaps - whole * step) < _IRREGULAR * step * whole))
    if len(missing) and len(missing) + (np.abs(gaps - step) <= _IRREGULAR * step).sum() == len(gaps):
        where = "; ".join(
            f"{int(whole[i]) - 1} between {Path(slices[i].file).name} and {Path(slices[i + 1].file).name}"
            for i in missing[:_FEW]
        )
        return f"lacks slices ({where}); copy the whole series"
    if (np.abs(gaps - step) > _IRREGULAR * step).any():
        return (
            f"has slices at irregular distances, {gaps.min():.2f} to {gaps.max():.2f} mm; several series were mixed, "
            "or slices are missing. Export the series again, or resample it to one distance"
        )
    return ""


def name_files(files: Sequence[str]) -> str:
    """Return the names of a few files, for a message."""
    more = f" and {len(files) - _FEW} more" if len(files) > _FEW else ""
    return ", ".join(Path(f).name for f in files[:_FEW]) + more
