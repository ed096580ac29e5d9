"""DICOM series: which ones a folder holds, and one of them as an array with its position in space."""

import logging
import os
import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pydicom
from tqdm import tqdm

from mednextv2.errors import InputError
from mednextv2.images.dicom_file import Slice, holds_slices, is_dicom, read_slices
from mednextv2.images.dicom_geometry import ONE_SLICE, describe_tilt, find_defect, in_order, name_files, slices_affine
from mednextv2.images.dicom_volumes import split_volumes, without_copies

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DicomSeries(os.PathLike):
    """The slices of one series, or of one of its volumes; for `os.fspath` its folder.

    Attributes:
        folder: Where its first file is.
        slices: In no order; without localizers, unless there is nothing else.
        problem: Why it cannot be a volume, as far as the headers tell; empty if it can.
        volume: Which of the series' volumes it is, from 1; None where there is one.
        part: What tells it from the other volumes, such as `EchoTime 9`.
        copies: How many copies of its images were left out.
    """

    folder: str
    slices: tuple[Slice, ...] = field(repr=False)
    problem: str = ""
    volume: int | None = None
    part: str = ""
    copies: int = 0

    @property
    def uid(self) -> str:
        """SeriesInstanceUID; empty where it was removed."""
        return self.slices[0].uid

    @property
    def files(self) -> list[str]:
        """The files, from the first slice to the last, each once."""
        return list(dict.fromkeys(s.file for s in in_order(self.slices)))

    @property
    def names(self) -> list[str]:
        """By what it can be chosen exactly: number and UID, with the volume's number where there are several."""
        first = self.slices[0]
        found = [str(name) for name in (first.number, first.uid) if name not in (None, "")]
        return found if self.volume is None else [f"{name}:{self.volume}" for name in found or [""]]

    def notes(self) -> list[str]:
        """Return what a user should know of how it was read.

        Raises:
            InputError: As :func:`series_affine`.
        """
        copies = f"{self.copies} of its images are copies of others and were left out" if self.copies else ""
        tilt = describe_tilt(in_order(self.slices), series_affine(self))
        return [f"{self}: {note}" for note in (copies, tilt) if note]

    def __fspath__(self) -> str:
        return self.folder

    def __str__(self) -> str:
        return f"{self.folder} (series {self.label})"

    @property
    def label(self) -> str:
        """Number and description, for people."""
        first = self.slices[0]
        number = "" if first.number is None else str(first.number)
        words = [
            number if self.volume is None else f"{number}:{self.volume}",
            first.description and f'"{first.description}"',
            self.part and f"({self.part})",
        ]
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


def _stop(error: OSError) -> None:
    raise error  # a folder that cannot be entered may hold slices of a series, which would lack them unnoticed


def _dicom_files(folder: str | os.PathLike) -> Iterator[str]:
    """Give the DICOM files in a folder and below; linked folders are entered, each folder once."""
    entered: set[tuple[int, int]] = set()
    for where, folders, files in os.walk(str(folder), onerror=_stop, followlinks=True):
        found = os.stat(where)
        if (found.st_dev, found.st_ino) in entered:  # a loop of links, or a second link to the same folder
            folders.clear()
            continue
        entered.add((found.st_dev, found.st_ino))
        folders.sort()
        for name in sorted(files):
            file = os.path.join(where, name)
            if not name.startswith(".") and os.path.isfile(file) and is_dicom(file):
                yield file


def find_series(folder: str | os.PathLike) -> list[DicomSeries]:
    """Read the headers of all DICOM files below a folder.

    Args:
        folder: Of a series, a study, or a patient.

    Returns:
        The series, sorted by their numbers; none where there is no DICOM file. Reports, segmentations, radiotherapy
        and other objects without slices are left out.

    Raises:
        InputError: When all files are truncated or damaged. Where some are, the series of their folders get a problem,
            since a slice may be missing; a warning names those of other folders.
    """
    files = [f for f in _dicom_files(folder) if holds_slices(f)]
    bar = tqdm(files, desc="reading headers", unit="file", delay=2, leave=False)
    found = [_try_slices(file) for file in bar]
    damaged = [f for f, slices in zip(files, found, strict=True) if slices is None]
    if damaged and len(damaged) == len(files):
        raise InputError(f"{folder}: {_describe_damage(damaged, files)}")
    groups: dict[tuple, list[Slice]] = {}
    readable = {os.path.dirname(s.file) for slices in found for s in slices or []}
    if lost := [file for file in damaged if os.path.dirname(file) not in readable]:
        folders = {os.path.dirname(file) for file in lost}
        damage = _describe_damage(lost, _in_folders(files, folders))
        logger.warning("%s: %s; what they hold is left out", folder, damage)
    for s in (s for slices in found for s in slices or []):
        # series whose UIDs were removed are told apart by the rest
        groups.setdefault((s.uid,) if s.uid else (os.path.dirname(s.file), s.number, s.description), []).append(s)
    series = [_beside(damaged, files, volume) for slices in groups.values() for volume in _volumes(slices)]
    return sorted(series, key=lambda s: (s.slices[0].study, s.slices[0].number or 0, s.uid, s.volume or 0))


def choose_series(folder: str | os.PathLike, series: str | int | None = None) -> list[DicomSeries]:
    """Find the series of a folder that are to be segmented.

    Args:
        folder: Of a series, a study, or a patient.
        series: A series' number, UID or description (or a part of it), with `:2` behind number or UID for the second
            of its volumes; `all` for all that are volumes. Needed where the folder holds several.

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
        if not volumes and len(found) == 1:
            raise InputError(f"{found[0]}: {found[0].problem}{_advice(found[0])}")
        if not volumes:
            raise InputError(f"{folder}: holds no series that is a volume:\n{listed}")
        if len(volumes) > 1 and series is None:
            raise InputError(
                f"{folder}: holds {len(found)} series; choose one with --series and its number, UID or description, "
                f"or all:\n{listed}"
            )
        for s in found:
            if s.problem:
                logger.warning("%s: is left out, since it %s", s, s.problem)
        return volumes
    word = str(series).strip()
    for same in (
        lambda s: word in s.names or word in (s.uid, "" if s.slices[0].number is None else str(s.slices[0].number)),
        lambda s: s.slices[0].description.lower() == word.lower(),
        # 3 is not the series "Abdomen 3.0"
        lambda s: not re.fullmatch(r"[\d.]+", word) and word.lower() in s.slices[0].description.lower(),
    ):
        matching = [s for s in found if same(s)]
        if len(matching) == 1:
            if matching[0].problem:
                raise InputError(f"{matching[0]}: {matching[0].problem}{_advice(matching[0])}")
            return matching
        if matching:
            break
    what = "fits several series" if matching else "fits none of the series"
    raise InputError(f"--series {series}: {what} of {folder}:\n{listed}")


def _advice(series: DicomSeries) -> str:
    if series.problem != ONE_SLICE:
        return ""
    return "; export the whole series, or, for a bundle for 2D images, convert the slice to NIfTI, as dcm2niix does"


def read_series(series: DicomSeries) -> tuple[np.ndarray, np.ndarray]:
    """Read the voxels of a series, slices sorted by their positions, rescaled (CT: HU).

    Args:
        series: See :func:`find_series`.

    Returns:
        The voxels `(columns, rows, slices)`, float32, and the affine, `(4, 4)`, from voxel indices to millimetres
        (right, anterior, superior), whose third column is sheared where the gantry was tilted.

    Raises:
        InputError: For colour images, several images at one position, missing slices, irregular distances, files that
            cannot be decoded, and if pydicom is older than version 3.
    """
    affine = series_affine(series)
    slices, (columns, rows) = in_order(series.slices), series.slices[0].shape
    voxels = np.empty(0, dtype=np.float32)
    by_file = sorted(range(len(slices)), key=lambda k: slices[k].file)  # frames lie in one file in any order
    for k, pixels in zip(by_file, _read_pixels([slices[k] for k in by_file]), strict=True):
        if pixels.shape != (rows, columns):
            raise InputError(
                f"{slices[k].file}: holds {pixels.shape[1]}×{pixels.shape[0]} pixels, but its header says "
                f"{columns}×{rows}; export the series again"
            )
        if not voxels.size:  # not before: a header may say more than there is
            voxels = _empty(series, (len(slices), rows, columns))
        voxels[k] = pixels
    return voxels.transpose(2, 1, 0), affine


def _empty(series: DicomSeries, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        return np.empty(shape, dtype=np.float32)
    except MemoryError as e:
        raise InputError(f"{series}: {'×'.join(map(str, reversed(shape)))} voxels do not fit into memory") from e


def series_affine(series: DicomSeries) -> np.ndarray:
    """Return the affine of a series' voxels, as :func:`read_series` does, from its headers alone.

    Raises:
        InputError: As :func:`read_series`, but for files that cannot be decoded.
    """
    if series.problem:
        raise InputError(f"{series}: {series.problem}")
    return slices_affine(series.slices, str(series))


def _volumes(slices: Sequence[Slice]) -> list[DicomSeries]:
    images = [s for s in slices if not s.is_localizer]
    kept = without_copies(images or slices)
    used = {(s.file, s.frame) for s in kept}
    copies = Counter(s.parts for s in images or slices if (s.file, s.frame) not in used)
    parts = split_volumes(kept)
    return [
        DicomSeries(
            os.path.dirname(part[0].file),
            tuple(part),
            "is a localizer" if not images else find_defect(part),
            number if len(parts) > 1 else None,
            name,
            sum(copies[values] for values in {s.parts for s in part}),
        )
        for number, (name, part) in enumerate(parts, start=1)
    ]


def _beside(damaged: Sequence[str], files: Sequence[str], series: DicomSeries) -> DicomSeries:
    """Return a series, as one that cannot be a volume where it lies beside files that may be slices of it."""
    folders = {os.path.dirname(s.file) for s in series.slices}
    near = [file for file in damaged if os.path.dirname(file) in folders]
    if not near or series.problem:
        return series
    return replace(series, problem=f"may lack slices: {_describe_damage(near, _in_folders(files, folders))}")


def _in_folders(files: Sequence[str], folders: Container[str]) -> list[str]:
    return [file for file in files if os.path.dirname(file) in folders]


def _describe_damage(damaged: Sequence[str], files: Sequence[str]) -> str:
    return (
        f"{len(damaged)} of {len(files)} DICOM files cannot be read ({name_files(damaged)}): they are truncated, "
        "damaged or no DICOM; copy the series again, or remove them"
    )


def _try_slices(file: str) -> list[Slice] | None:
    try:
        return read_slices(file)
    except Exception:  # pydicom raises many kinds for what is damaged or no DICOM
        return None


def _read_pixels(slices: Sequence[Slice]) -> Iterator[np.ndarray]:
    """Give the pixels of slices. They need pydicom 3, which MONAI Label cannot run with; images of others do not."""
    if int(pydicom.__version__.split(".")[0]) < 3:
        raise InputError(
            f"{slices[0].file}: DICOM series are read with pydicom 3 or newer, and pydicom {pydicom.__version__} is "
            'installed; pip install "pydicom>=3,<4", or convert the series to NIfTI first'
        )
    from mednextv2.images.dicom_pixels import read_pixels

    return read_pixels(slices)
