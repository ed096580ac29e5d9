"""DICOM series: which ones a folder holds, and one of them as an array with its position in space."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mednextv2.errors import InputError
from mednextv2.images.dicom_file import Slice, holds_slices, is_dicom, read_header, read_pixels
from mednextv2.images.dicom_geometry import find_defect, in_order, name_files, slices_affine


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
        return [s.file for s in in_order(self.slices)]

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
            f"{folder}: {len(damaged)} of {len(files)} DICOM files cannot be read ({name_files(damaged)}): they are "
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
    affine = series_affine(series)
    files, (columns, rows) = series.files, series.slices[0].shape
    try:
        voxels = np.empty((len(files), rows, columns), dtype=np.float32)
    except MemoryError as e:
        raise InputError(
            f"{series}: {columns}×{rows}×{len(files)} voxels do not fit into memory; are its headers right?"
        ) from e
    for plane, file in zip(voxels, files, strict=True):
        pixels = read_pixels(file)
        if pixels.shape != plane.shape:
            raise InputError(
                f"{file}: holds {pixels.shape[1]}×{pixels.shape[0]} pixels, but its header says {columns}×{rows}; "
                "export the series again"
            )
        plane[:] = pixels
    return voxels.transpose(2, 1, 0), affine


def series_affine(series: DicomSeries) -> np.ndarray:
    """Return the affine of a series' voxels, as :func:`read_series` does, from its headers alone.

    Raises:
        InputError: As :func:`read_series`, but for files that cannot be decoded.
    """
    if series.problem:
        raise InputError(f"{series}: {series.problem}")
    return slices_affine(series.slices, str(series))


def _series(slices: Sequence[Slice]) -> DicomSeries:
    images = [s for s in slices if not s.is_localizer]
    kept = tuple(images or slices)
    return DicomSeries(os.path.dirname(kept[0].file), kept, "is a localizer" if not images else find_defect(kept))


def _try_header(file: str) -> Slice | None:
    try:
        return read_header(file)
    except Exception:  # pydicom raises many kinds for what is damaged or no DICOM
        return None
