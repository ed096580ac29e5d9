"""One DICOM file: what it is and what its header says, read by pydicom; its pixels, decoded by ITK's GDCM."""

import math
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.filereader import read_partial
from pydicom.misc import is_dicom as begins_as_dicom
from pydicom.multival import MultiValue
from pydicom.uid import MediaStorageDirectoryStorage

from mednextv2.errors import InputError
from mednextv2.images.itk_loading import ITK_TURN, load_itk
from mednextv2.warning_filters import without_warnings

_ENDINGS = (".dcm", ".ima")
_STORAGE = "1.2.840.10008.5.1.4.1.1."
#: Storage classes whose objects hold no slices of a patient: presentation states, waveforms, registrations,
#: segmentations, reports, encapsulated documents, radiotherapy.
_NO_SLICES = tuple(_STORAGE + group for group in ("9.", "11.", "66", "67", "78.", "88.", "104.", "481."))
_UP_TO_CLASS = range(0x00080000, 0x00080017)  # tags of a data set's first group, up to SOP Class UID
_TAGS = [
    "ImageType", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "PixelData",
]  # fmt: skip
_LONG = 4096  # bytes of a value that are passed over: those of pixels
_UNDEFINED = 0xFFFFFFFF  # length of compressed pixels, which have an end mark; without it they are not in a data set


@dataclass(frozen=True)
class Place:
    """Where a slice is, in mm in DICOM's directions (left, posterior, superior).

    Attributes:
        position: Centre of the first pixel, 3 numbers.
        orientation: Unit vectors along a row and along a column, 6 numbers.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]


@dataclass(frozen=True)
class Slice:
    """What the header of one file says. Lengths are in mm."""

    file: str
    uid: str  # of the series
    study: str
    number: int | None
    description: str
    modality: str
    image_type: tuple[str, ...]
    shape: tuple[int, int]  # columns, rows
    frames: int
    samples: int
    photometric: str
    spacing: tuple[float, float] | None  # along a row, along a column
    place: Place | None  # None where position or orientation are not there

    @property
    def is_localizer(self) -> bool:
        """Whether it is an overview for planning."""
        return "LOCALIZER" in self.image_type


def quiet_pydicom() -> AbstractContextManager[None]:
    """Keep what pydicom warns of odd values from the user, who may have thousands of files with the same one.

    A value that is needed and cannot be read is reported in our own words, with the files that lack it.
    """
    return without_warnings(logger="pydicom")


def is_dicom(path: str | os.PathLike) -> bool:
    """Return whether a file begins as DICOM files do, or ends in `.dcm` or `.ima`."""
    path = Path(path)
    if path.suffix.lower() in _ENDINGS:
        return True
    try:
        return begins_as_dicom(path)
    except OSError:
        return False


def holds_slices(file: str) -> bool:
    """Return whether a DICOM file is of a kind that holds slices of a patient; true where that cannot be read."""
    try:
        with open(file, "rb") as f, quiet_pydicom():
            start = read_partial(f, stop_when=lambda tag, vr, length: tag not in _UP_TO_CLASS, force=True)
            uid = str(start.file_meta.get("MediaStorageSOPClassUID") or start.get("SOPClassUID") or "")
    except Exception:  # pydicom raises many kinds for what is no DICOM, and reading the header will say so
        return True
    return uid != MediaStorageDirectoryStorage and not uid.startswith(_NO_SLICES)


def read_header(file: str) -> Slice:
    """Read one file's header, and none of its pixels.

    Raises:
        ValueError: When it is damaged or truncated; pydicom and the system raise others.
    """
    with quiet_pydicom():
        with open(file, "rb") as f:
            header = dcmread(f, defer_size=_LONG, force=True, specific_tags=_TAGS)
            end, size = f.tell(), os.fstat(f.fileno()).st_size
        if end > size or _lacks_pixels(header):
            raise ValueError(f"{file} is truncated, or has no pixels")
        if not header.get("SpecificCharacterSet"):
            implicit_vr, little_endian = header.original_encoding
            header.set_original_encoding(implicit_vr, little_endian, ["utf8"])  # more than the standard's ASCII
        spacing = _numbers(header, "PixelSpacing", 2)
        position = _numbers(header, "ImagePositionPatient", 3)
        orientation = _numbers(header, "ImageOrientationPatient", 6)
        number = _value(header, "SeriesNumber")
        return Slice(
            file=file,
            uid=_text(header, "SeriesInstanceUID"),
            study=_text(header, "StudyInstanceUID"),
            number=int(number) if isinstance(number, int) else None,
            description=" ".join(_text(header, "SeriesDescription").split()),
            modality=_text(header, "Modality"),
            image_type=tuple(part.strip().upper() for part in _text(header, "ImageType").split("\\")),
            shape=(int(header.Columns), int(header.Rows)),
            frames=int(header.get("NumberOfFrames") or 1),
            samples=int(header.get("SamplesPerPixel") or 1),
            photometric=_text(header, "PhotometricInterpretation").upper(),
            spacing=(spacing[1], spacing[0]) if spacing else None,
            place=Place(position, orientation) if position and orientation else None,
        )


def _lacks_pixels(header: Dataset) -> bool:
    if "PixelData" not in header:
        return True
    pixels: Any = header.get_item("PixelData", keep_deferred=True)  # pydicom's stubs say that it has been decoded
    # few enough to have been read; more were passed over, beyond the file's end where they are cut off
    return pixels.value is not None and pixels.length != _UNDEFINED and len(pixels.value) < pixels.length


def _value(header: Dataset, keyword: str) -> Any:
    """Return a value, None where there is none or it is none of its kind."""
    try:
        value = header.get(keyword)
    except (ValueError, TypeError, OverflowError):
        return None
    return None if value == "" else value


def _text(header: Dataset, keyword: str) -> str:
    value = _value(header, keyword)
    parts = value if isinstance(value, MultiValue) else [value]
    return "\\".join("" if part is None else str(part) for part in parts).strip("\0 ")


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    values = _value(header, keyword)
    if not isinstance(values, MultiValue) or len(values) != count or not all(isinstance(v, float) for v in values):
        return None
    return tuple(map(float, values)) if all(map(math.isfinite, values)) else None


def read_pixels(file: str) -> np.ndarray:
    """Return a file's rescaled pixels, `(rows, columns)`, float32.

    Raises:
        InputError: When they cannot be decoded.
    """
    itk = load_itk()
    try:
        with ITK_TURN:
            array: Any = itk.array_from_image(itk.imread(file, itk.F))
    except (RuntimeError, OSError) as e:
        raise InputError(f"{file}: its pixels cannot be decoded; copy or export the series again") from e
    return array.reshape(array.shape[-2:])
