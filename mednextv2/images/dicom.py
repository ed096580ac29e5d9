"""DICOM series: which ones a folder holds, and one of them as an array with its position in space."""

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from monai.data.utils import orientation_ras_lps
from tqdm import tqdm

from mednextv2.errors import InputError
from mednextv2.images.dicom_file import Slice, holds_slices, is_dicom, read_header, read_pixels

_COLOURS = ("PALETTE COLOR", "RGB")  # of one sample; those of several are known by their number
_FEW = 5  # names of files in a message
_SAME_POSITION = 0.01  # of a slice's distance: two slices nearer than that are at one position
_IRREGULAR = 0.05  # of a slice's distance, that a slice may lie off the regular grid
_TILT_DEGREES = 0.5
_SAME_DIRECTION = 1e-3  # of direction cosines, which scanners write with some six digits


@dataclass(frozen=True)
class DicomSeries(os.PathLike):
    """The slices of one series; for `os.fspath` its folder.

    Attributes:
        folder: Where its first file is.
        slices: In no order; without localizers, unless there is nothing else.
        problem: Why it cannot be a volume, as far as the headers tell; empty if it can.
    """

    folder: str
    slices: tuple[Slice, ...] = field(repr=False)
    problem: str = ""

    @property
    def uid(self) -> str:
        """SeriesInstanceUID; empty where it was removed."""
        return self.slices[0].uid

    @property
    def files(self) -> list[str]:
        """The files, from the first slice to the last."""
        return [s.file for s in _in_order(self.slices)]

    def __fspath__(self) -> str:
        return self.folder

    def __str__(self) -> str:
        return f"{self.folder} (series {self.label})"

    @property
    def label(self) -> str:
        """Number and description, for people."""
        first = self.slices[0]
        words = ["" if first.number is None else str(first.number), first.description and f'"{first.description}"']
        return " ".join(w for w in words if w) or first.uid or "without a name"

    def row(self) -> str:
        """Return what tells it from the others of a study, in one line."""
        first = self.slices[0]
        size = f"{first.shape[0]}×{first.shape[1]}×{len(self.slices)}"
        note = f"; not a volume: it {self.problem}" if self.problem else ""
        return f"{self.label}: {first.modality or 'no modality'}, {size}, UID {first.uid or 'removed'}{note}"


def has_dicom(folder: str | os.PathLike) -> bool:
    """Return whether there is a DICOM file in a folder or below."""
    return any(_dicom_files(folder))


def _dicom_files(folder: str | os.PathLike) -> Iterator[str]:
    found = (str(p) for p in sorted(Path(folder).rglob("*")) if p.is_file() and not p.name.startswith("."))
    return (file for file in found if is_dicom(file))


def find_series(folder: str | os.PathLike) -> list[DicomSeries]:
    """Read the headers of all DICOM files below a folder.

    Args:
        folder: Of a series, a study, or a patient.

    Returns:
        The series, sorted by their numbers; none where there is no DICOM file. Reports, segmentations, radiotherapy
        and other objects without slices are left out.

    Raises:
        InputError: For files that are truncated or damaged.
    """
    files = [f for f in _dicom_files(folder) if holds_slices(f)]
    bar = tqdm(files, desc="reading headers", unit="file", delay=2, leave=False)
    found = [_try_header(file) for file in bar]
    damaged = [f for f, header in zip(files, found, strict=True) if header is None]
    if damaged:
        raise InputError(
            f"{folder}: {len(damaged)} of {len(files)} DICOM files cannot be read ({_names(damaged)}): they are "
            "truncated, damaged or no DICOM; copy the series again, or remove them"
        )
    groups: dict[tuple, list[Slice]] = {}
    for s in filter(None, found):
        # series whose UIDs were removed are told apart by the rest
        groups.setdefault((s.uid,) if s.uid else (os.path.dirname(s.file), s.number, s.description), []).append(s)
    series = [_series(slices) for slices in groups.values()]
    return sorted(series, key=lambda s: (s.slices[0].study, s.slices[0].number or 0, s.uid))


def choose_series(folder: str | os.PathLike, series: str | int | None = None) -> list[DicomSeries]:
    """Find the series of a folder that are to be segmented.

    Args:
        folder: Of a series, a study, or a patient.
        series: A series' number, UID or description (or a part of it); `all` for all that are volumes. Needed where
            the folder holds several.

    Returns:
        One series, or with `all` at least one.

    Raises:
        InputError: When there is no such series, or several; the message lists them.
    """
    found = find_series(folder)
    if not found:
        raise InputError(f"{folder}: holds no DICOM images")
    volumes = [s for s in found if not s.problem]
    listed = "\n".join(f"- {s.row()}" for s in found)
    if series is not None and (isinstance(series, bool) or not str(series).strip()):
        raise InputError(f"--series: needs a series' number, UID or description, or all; those of {folder}:\n{listed}")
    if series is None or str(series) == "all":
        if not volumes:
            raise InputError(f"{folder}: holds no series that is a volume:\n{listed}")
        if len(volumes) > 1 and series is None:
            raise InputError(
                f"{folder}: holds {len(found)} series; choose one with --series and its number, UID or description, "
                f"or all:\n{listed}"
            )
        return volumes
    word = str(series).strip()
    for same in (
        lambda s: s.uid == word or str(s.slices[0].number) == word,
        lambda s: s.slices[0].description.lower() == word.lower(),
        # 3 is not the series "Abdomen 3.0"
        lambda s: not re.fullmatch(r"[\d.]+", word) and word.lower() in s.slices[0].description.lower(),
    ):
        matching = [s for s in found if same(s)]
        if len(matching) == 1:
            if matching[0].problem:
                raise InputError(f"{matching[0]}: {matching[0].problem}")
            return matching
        if matching:
            break
    what = "fits several series" if matching else "fits none of the series"
    raise InputError(f"--series {series}: {what} of {folder}:\n{listed}")


def read_series(series: DicomSeries) -> tuple[np.ndarray, np.ndarray]:
    """Read the voxels of a series, slices sorted by their positions, rescaled (CT: HU).

    Args:
        series: See :func:`find_series`.

    Returns:
        The voxels `(columns, rows, slices)`, float32, and the affine, `(4, 4)`, from voxel indices to millimetres
        (right, anterior, superior).

    Raises:
        InputError: For colour images, several images at one position, missing slices, irregular distances, a tilted
            gantry, files that cannot be decoded.
    """
    if series.problem:
        raise InputError(f"{series}: {series.problem}")
    affine = series_affine(series)
    files, (columns, rows) = series.files, series.slices[0].shape
    try:
        voxels = np.empty((len(files), rows, columns), dtype=np.float32)
    except MemoryError as e:
        raise InputError(
            f"{series}: {columns}×{rows}×{len(files)} voxels do not fit into memory; are its headers right?"
        ) from e
    for plane, file in zip(voxels, files, strict=True):
        plane[:] = read_pixels(file)
    return voxels.transpose(2, 1, 0), affine


def series_affine(series: DicomSeries) -> np.ndarray:
    """Return the affine of a series' voxels `(columns, rows, slices)`, `(4, 4)`, to mm (right, anterior, superior).

    Raises:
        InputError: When slices are missing, irregular, or sheared by a tilted gantry.

    Source:
        DICOM PS3.3, C.7.6.2.1.1 (image position and orientation).
    """
    slices = _in_order(series.slices)
    positions = np.array([s.position for s in slices])
    row, column = np.array(slices[0].orientation[:3]), np.array(slices[0].orientation[3:])
    normal = np.cross(row, column)
    heights = positions @ normal
    gaps = np.diff(heights)
    step = float(np.median(gaps))
    if problem := _irregular(slices, gaps, step):
        raise InputError(f"{series}: {problem}")
    drift = (positions[-1] - positions[0]) / (len(slices) - 1)
    tilt = math.degrees(math.atan2(np.linalg.norm(drift - normal * (drift @ normal)), abs(drift @ normal)))
    if tilt > _TILT_DEGREES:
        raise InputError(
            f"{series}: its slices are sheared by {tilt:.1f}° (a tilted gantry); correct that first, for example with "
            "dcm2niix, which writes a corrected image (its name ends in _Tilt)"
        )
    aside = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(slices)), drift), axis=1)
    if aside.max() > _IRREGULAR * max(step, *slices[0].spacing):
        raise InputError(
            f"{series}: its slices are displaced sideways ({Path(slices[int(aside.argmax())].file).name} by "
            f"{aside.max():.1f} mm); several series were mixed, or positions in the headers are wrong"
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * slices[0].spacing[0], column * slices[0].spacing[1]
    affine[:3, 2], affine[:3, 3] = drift, positions[0]
    return orientation_ras_lps(affine)


def _irregular(slices: Sequence[Slice], gaps: np.ndarray, step: float) -> str:
    if step <= 0 or (gaps < _SAME_POSITION * step).any():
        first = int(np.argmin(gaps))
        return (
            f"has several images at one position (among them {_names([s.file for s in slices[first : first + 2]])}): "
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


def _in_order(slices: Iterable[Slice]) -> list[Slice]:
    slices = list(slices)
    if any(s.position is None or s.orientation is None for s in slices):
        return slices
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    return sorted(slices, key=lambda s: (float(np.dot(s.position, normal)), s.file))


def _series(slices: Sequence[Slice]) -> DicomSeries:
    images = [s for s in slices if not s.is_localizer]
    kept = tuple(images or slices)
    return DicomSeries(os.path.dirname(kept[0].file), kept, "is a localizer" if not images else _defect(kept))


def _defect(slices: Sequence[Slice]) -> str:
    """Say what keeps slices from being a volume, as far as each header tells."""
    first = slices[0]
    if coloured := [s for s in slices if s.samples > 1 or s.photometric in _COLOURS]:
        kind, samples = coloured[0].photometric, coloured[0].samples
        return f"is in colour ({kind}, {samples} samples a pixel): a screenshot or a rendering"
    if any(s.frames > 1 for s in slices):
        return "is of enhanced multi-frame files; convert it to NIfTI first, for example with dcm2niix"
    if "MOSAIC" in first.image_type:
        return "is a mosaic of slices (a functional MR); convert it to NIfTI first, for example with dcm2niix"
    for name, values in (("position and orientation", [s.position and s.orientation for s in slices]),
                         ("pixel spacing", [s.spacing for s in slices])):  # fmt: skip
        if lacking := [s.file for s, value in zip(slices, values, strict=True) if not value]:
            return f"has no {name} in {_names(lacking)}"
    if len(slices) < 2:
        return "has one slice"
    for name, same in (
        ("sizes", lambda s: s.shape == first.shape),
        ("pixel spacings", lambda s: np.allclose(s.spacing, first.spacing, rtol=1e-3, atol=0)),
        ("orientations", lambda s: np.allclose(s.orientation, first.orientation, atol=_SAME_DIRECTION)),
    ):
        if other := [s.file for s in slices if not same(s)]:
            return (
                f"mixes images of different {name} ({Path(first.file).name} and {_names(other)}); "
                "keep those of one volume in a folder of their own"
            )
    directions = np.reshape(first.orientation, (2, 3))
    if not np.allclose(directions @ directions.T, np.eye(2), atol=0.01) or min(first.spacing) <= 0:
        return "has an orientation or a pixel spacing that is none"
    return ""


def _try_header(file: str) -> Slice | None:
    try:
        return read_header(file)
    except (RuntimeError, ValueError, OSError):  # of ITK; of numbers that are none
        return None


def _names(files: Sequence[str]) -> str:
    more = f" and {len(files) - _FEW} more" if len(files) > _FEW else ""
    return ", ".join(Path(f).name for f in files[:_FEW]) + more
