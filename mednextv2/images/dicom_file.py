"""One DICOM file: what it is, what its header says, its pixels. ITK reads them, with all of GDCM's compressions."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mednextv2.errors import InputError
from mednextv2.images.itk_loading import ITK_TURN, load_itk

_FILE_META = b"\x02\x00\x02\x00UI"  # Media Storage SOP Class UID, always in explicit little endian
_STORAGE = "1.2.840.10008.5.1.4.1.1."
#: Storage classes whose objects hold no slices of a patient: presentation states, waveforms, registrations,
#: segmentations, reports, encapsulated documents, radiotherapy.
_NO_SLICES = tuple(_STORAGE + group for group in ("9.", "11.", "66", "67", "78.", "88.", "104.", "481."))
#: DICOM's names of character sets, PS3.3 C.12.1.1.2.
_CHARSETS = {
    "": "utf-8", "ISO_IR 6": "ascii", "ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk",
    "ISO_IR 13": "shift_jis", "ISO 2022 IR 87": "iso2022_jp", "ISO 2022 IR 149": "euc_kr", "ISO_IR 166": "tis_620",
    **{f"ISO_IR {number}": f"iso8859_{part}" for number, part in
       ((100, 1), (101, 2), (109, 3), (110, 4), (144, 5), (127, 6), (126, 7), (138, 8), (148, 9))},
}  # fmt: skip
_DICOMDIR = "1.2.840.10008.1.3.10"


@dataclass(frozen=True)
class Slice:
    """What the header of one file says. Lengths are in mm, in DICOM's directions (left, posterior, superior)."""

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
    orientation: tuple[float, ...] | None  # along a row, along a column
    position: tuple[float, ...] | None

    @property
    def is_localizer(self) -> bool:
        """Whether it is an overview for planning."""
        return "LOCALIZER" in self.image_type


def is_dicom(path: str | os.PathLike) -> bool:
    """Return whether a file begins as DICOM files do, or ends in `.dcm` or `.ima`."""
    path = Path(path)
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        with path.open("rb") as f:
            return f.read(132)[128:] == b"DICM"
    except OSError:
        return False


def holds_slices(file: str) -> bool:
    """Return whether a DICOM file is of a kind that holds slices of a patient."""
    with open(file, "rb") as f:
        head = f.read(2048)
    at = head.find(_FILE_META)
    if at < 0:
        return True  # old files have no such header
    start = at + len(_FILE_META) + 2
    length = int.from_bytes(head[start - 2 : start], "little")
    uid = head[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
    return uid != _DICOMDIR and not uid.startswith(_NO_SLICES)


def read_header(file: str) -> Slice:
    """Read one file's header.

    Raises:
        RuntimeError: When it cannot be read; or ValueError, or OSError.
    """
    itk = load_itk()
    with ITK_TURN:
        reader = itk.GDCMImageIO.New()
        reader.SetFileName(file)
        reader.ReadImageInformation()
        tags = reader.GetMetaDataDictionary()

    charset = str(tags["0008|0005"]).split("\\")[-1].strip("\0 ") if tags.HasKey("0008|0005") else ""

    def text(tag: str) -> str:
        # ITK takes bytes for UTF-8
        raw = str(tags[tag]).encode("utf-8", "surrogateescape") if tags.HasKey(tag) else b""
        return raw.decode(_CHARSETS.get(charset, "latin-1"), "replace").strip("\0 ")

    def numbers(tag: str, count: int) -> tuple[float, ...] | None:
        try:
            values = tuple(float(v) for v in text(tag).split("\\"))
        except ValueError:
            return None
        return values if len(values) == count and all(map(math.isfinite, values)) else None

    number = re.fullmatch(r"[+-]?\d+", text("0020|0011"))
    rows_then_columns = numbers("0028|0030", 2)
    return Slice(
        file=file,
        uid=text("0020|000e"),
        study=text("0020|000d"),
        number=int(number[0]) if number else None,
        description=" ".join(text("0008|103e").split()),
        modality=text("0008|0060"),
        image_type=tuple(part.strip().upper() for part in text("0008|0008").split("\\")),
        shape=(reader.GetDimensions(0), reader.GetDimensions(1)),
        frames=int(text("0028|0008") or 1),
        samples=int(text("0028|0002") or 1),
        photometric=text("0028|0004").upper(),
        spacing=rows_then_columns and rows_then_columns[::-1],
        orientation=numbers("0020|0037", 6),
        position=numbers("0020|0032", 3),
    )


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
