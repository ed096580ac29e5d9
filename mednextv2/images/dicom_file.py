"""One DICOM file: what it is, and what its header says of each slice, read by pydicom."""

import math
import os
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.filereader import read_partial
from pydicom.misc import is_dicom as begins_as_dicom
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pydicom.valuerep import VR

from mednextv2.images.dicom_deflated import check_deflated
from mednextv2.warning_filters import without_warnings

_ENDINGS = (".dcm", ".ima")
_STANDARD = "1.2.840.10008."
_RADIOTHERAPY = "1.2.840.10008.5.1.4.1.1.481."  # its images are projections
_UP_TO_CLASS = range(0x00080000, 0x00080017)  # tags of a data set's first group, up to SOP Class UID
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "ImageType", "PatientID", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "SeriesNumber", "SeriesDescription", "Modality", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "BitsAllocated", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation",
    "RescaleSlope", "RescaleIntercept", "EchoTime", "InversionTime", "TemporalPositionIdentifier", "AcquisitionNumber",
    "TriggerTime", "DiffusionBValue", "DiffusionGradientOrientation", "AcquisitionTime",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelData",
]  # fmt: skip
#: What tells the volumes of one series apart, stacks and then the most telling first: a keyword, and the functional
#: group and keyword of enhanced files.
PARTS = {
    "StackID": (("FrameContentSequence", "StackID"),),
    "ImageType": (("MRImageFrameTypeSequence", "FrameType"), ("CTImageFrameTypeSequence", "FrameType")),
    "EchoTime": (("MREchoSequence", "EffectiveEchoTime"),),
    "InversionTime": (("MRModifierSequence", "InversionTimes"),),
    "TemporalPositionIdentifier": (("FrameContentSequence", "TemporalPositionIndex"),),
    "AcquisitionNumber": (("FrameContentSequence", "FrameAcquisitionNumber"),),
    "DiffusionBValue": (("MRDiffusionSequence", "DiffusionBValue"),),
    "DiffusionGradientOrientation": (),  # in enhanced files a level deeper, where it is not looked for
    "TriggerTime": (("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),),
    "AcquisitionTime": (("FrameContentSequence", "FrameAcquisitionDateTime"),),
}
_LONG = 4096  # bytes of a value that are passed over: those of pixels
_START, _ELEMENTS = 4096, 4  # bytes and elements that are looked at in a file without preamble
_VRS = {vr.value for vr in VR if len(vr.value) == 2}
_LONG_VRS = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}  # lengths of four bytes
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
    """What the header of one file, or of one frame in a file, says. Lengths are in mm."""

    file: str
    frame: int | None  # from 0; None in a file of a single image
    instance: str  # SOPInstanceUID
    sop_class: str
    uid: str  # of the series
    patient: str = field(repr=False)
    study: str
    reference: str  # FrameOfReferenceUID
    number: int | None
    description: str
    modality: str
    image_type: tuple[str, ...]
    shape: tuple[int, int]  # columns, rows
    samples: int
    photometric: str
    rescale: tuple[float, float]  # slope and intercept; NaN where they are there, but no numbers
    spacing: tuple[float, float] | None  # along a row, along a column
    place: Place | None  # None where position or orientation are not there
    parts: tuple[str, ...]  # values of `PARTS`

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
    """Return whether a file begins as DICOM files do, with their preamble or without, or ends in `.dcm` or `.ima`."""
    path = Path(path)
    if path.suffix.lower() in _ENDINGS:
        return True
    try:
        return begins_as_dicom(path) or _begins_with_tags(path)
    except OSError:
        return False


def _begins_with_tags(path: Path) -> bool:
    """Return whether a file begins with elements of group 0002 or 0008 in rising order: DICOM without a preamble."""
    with open(path, "rb") as f:
        start = f.read(_START)
    place, last = 0, (0, 0)
    for number in range(_ELEMENTS):
        if len(start) < place + 8:
            return number > 1
        group, element, vr, short = struct.unpack_from("<HH2sH", start, place)
        if (number == 0 and group not in (0x0002, 0x0008)) or group > 0x0010 or ((group, element) <= last and number):
            return False
        last = (group, element)
        if vr.decode("latin-1") not in _VRS:  # implicit: four bytes of length
            length, head = struct.unpack_from("<I", start, place + 4)[0], 8
        elif vr.decode() in _LONG_VRS:
            length, head = struct.unpack_from("<I", start.ljust(place + 12, b"\0"), place + 8)[0], 12
        else:
            length, head = short, 8
        if length == _UNDEFINED or length % 2:  # a sequence, or no DICOM
            return number > 1 and not length % 2
        place += head + length
    return True


def holds_slices(file: str) -> bool:
    """Return whether a DICOM file is of a kind that holds slices of a patient; true where that cannot be read."""
    try:
        with open(file, "rb") as f, quiet_pydicom():
            check_deflated(file)
            start = read_partial(f, stop_when=lambda tag, vr, length: tag not in _UP_TO_CLASS, force=True)
            uid = str(start.file_meta.get("MediaStorageSOPClassUID") or start.get("SOPClassUID") or "")
    except Exception:  # pydicom raises many kinds for what is no DICOM, and reading the header will say so
        return True
    name = UID(uid).name  # by the standard's dictionary; of others the UID
    return name == uid or ("Image Storage" in name and not uid.startswith(_RADIOTHERAPY))


def read_slices(file: str) -> list[Slice]:
    """Read one file's header, and none of its pixels: of an enhanced file a slice for each frame.

    What is no image, of a class that a maker of scanners invented, has none.

    Raises:
        ValueError: When it is damaged or truncated; pydicom and the system raise others.
    """
    with quiet_pydicom():
        check_deflated(file)
        with open(file, "rb") as f:
            header = dcmread(f, defer_size=_LONG, force=True, specific_tags=_TAGS)
            end, size = f.tell(), os.fstat(f.fileno()).st_size
        if end <= size and _is_no_image(header):
            return []
        if end > size or _lacks_pixels(header):
            raise ValueError(f"{file} is truncated, or has no pixels")
        if not header.get("SpecificCharacterSet"):
            implicit_vr, little_endian = header.original_encoding
            header.set_original_encoding(implicit_vr, little_endian, ["utf8"])  # more than the standard's ASCII
        frames = int(header.get("NumberOfFrames") or 1)
        own, shared = (_value(header, f"{kind}FunctionalGroupsSequence") for kind in ("PerFrame", "Shared"))
        if frames < 1 or (own and len(own) != frames) or not _fits(header, frames):
            raise ValueError(f"{file} has other pixels or frames than its header says")
        if not own:  # of many frames without positions one is enough to say so
            return [_read_slice(file, header, None if frames == 1 else 0, [])]
        return [_read_slice(file, header, k, [group, *(shared or [])[:1]]) for k, group in enumerate(own)]


def _read_slice(file: str, header: Dataset, frame: int | None, groups: Sequence[Dataset]) -> Slice:
    """Return one slice: what its functional groups say goes before what the header says."""

    def source(sequence: str, keyword: str) -> Dataset:
        found = (items[0] for group in groups if (items := _value(group, sequence)))
        return next((item for item in found if keyword in item), header)

    def numbers(sequence: str, keyword: str, count: int) -> tuple[float, ...] | None:
        return _numbers(source(sequence, keyword), keyword, count)

    def rescale(keyword: str, default: float) -> float:
        item = source("PixelValueTransformationSequence", keyword)
        value = _value(item, keyword)
        if isinstance(value, (int, float)):
            return float(value)
        return math.nan if _is_filled(item, keyword) else default

    def part(keyword: str) -> str:
        for sequence, other in PARTS[keyword]:
            for group in groups:
                if (items := _value(group, sequence)) and other in items[0]:
                    return _part(items[0], other)
        return _part(header, keyword)

    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    position = numbers("PlanePositionSequence", "ImagePositionPatient", 3)
    if frame is not None and not any(_value(group, "PlanePositionSequence") for group in groups):
        position = None  # one position for many frames is none
    orientation = numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    number = _value(header, "SeriesNumber")
    meta = getattr(header, "file_meta", Dataset())
    return Slice(
        file=file,
        frame=frame,
        instance=_text(header, "SOPInstanceUID") or _text(meta, "MediaStorageSOPInstanceUID"),
        sop_class=_text(header, "SOPClassUID") or _text(meta, "MediaStorageSOPClassUID"),
        uid=_text(header, "SeriesInstanceUID"),
        patient=_text(header, "PatientID"),
        study=_text(header, "StudyInstanceUID"),
        reference=_text(header, "FrameOfReferenceUID"),
        number=int(number) if isinstance(number, int) else None,
        description=" ".join(_text(header, "SeriesDescription").split()),
        modality=_text(header, "Modality"),
        image_type=tuple(word.strip().upper() for word in _text(header, "ImageType").split("\\")),
        shape=(int(header.Columns), int(header.Rows)),
        samples=int(header.get("SamplesPerPixel") or 1),
        photometric=_text(header, "PhotometricInterpretation").upper(),
        rescale=(rescale("RescaleSlope", 1.0) or 1.0, rescale("RescaleIntercept", 0.0)),
        spacing=(spacing[1], spacing[0]) if spacing else None,
        place=Place(position, orientation) if position and orientation else None,
        parts=tuple(part(keyword) for keyword in PARTS),
    )


def _fits(header: Dataset, frames: int) -> bool:
    """Return whether grey pixels without compression are as many as the header says, save padding."""
    pixels: Any = header.get_item("PixelData", keep_deferred=True)
    rows, columns, bits = (int(header[keyword].value) for keyword in ("Rows", "Columns", "BitsAllocated"))
    if pixels.length == _UNDEFINED or int(header.get("SamplesPerPixel") or 1) > 1:
        return True
    # a row or a column fewer than there are would put every pixel in a wrong place
    return 0 <= pixels.length * 8 - rows * columns * bits * frames < max(min(rows, columns) * bits, 9)


def _is_filled(header: Dataset, keyword: str) -> bool:
    if keyword not in header:
        return False
    value: Any = header.get_item(keyword).value
    return bool(value.strip() if isinstance(value, bytes) else value)


def _part(header: Dataset, keyword: str) -> str:
    """Return a value to compare: numbers that are written in several ways are the same."""
    value = _value(header, keyword)
    return f"{value:.7g}" if isinstance(value, float) else _text(header, keyword)


def _is_no_image(header: Dataset) -> bool:
    """Return whether a file is of a maker's own class and describes no image; those of the standard are known."""
    uid = _text(getattr(header, "file_meta", Dataset()), "MediaStorageSOPClassUID") or _text(header, "SOPClassUID")
    standard = uid.startswith(_STANDARD) or _STANDARD.startswith(uid)  # or cut off
    return not standard and "Rows" not in header and "PixelData" not in header


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
