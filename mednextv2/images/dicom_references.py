"""What a DICOM object that was made from images refers to: patient, study, where each slice is, and the network."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.data.utils import orientation_ras_lps
from nibabel.affines import voxel_sizes
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, generate_uid
from pydicom.valuerep import DA, TM

from mednextv2.errors import InputError
from mednextv2.images.dicom import DicomSeries, series_affine
from mednextv2.images.dicom_file import Slice, quiet_pydicom
from mednextv2.images.dicom_geometry import in_order, name_files
from mednextv2.version import __version__

logger = logging.getLogger(__name__)

#: Attributes of patient and study that are taken over, and the longest value; the first nine must be there.
_NEEDED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
           "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
_OPTIONAL = ("PatientAge", "PatientSize", "PatientWeight", "StudyDescription", "PatientIdentityRemoved",
             "DeidentificationMethod", "IssuerOfPatientID")  # fmt: skip
_LONGEST = {"SH": 16, "CS": 16, "LO": 64, "PN": 194}
_PATTERNS = {"AS": r"\d{3}[DWMY]", "DA": r"\d{8}", "TM": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"}
_CHOICES = {"PatientSex": ("M", "F", "O"), "PatientIdentityRemoved": ("YES", "NO")}
_UTF_8 = "ISO_IR 192"
#: What makes the objects.
OUR_NAME = "mednextv2"


@dataclass(frozen=True)
class Model:
    """Which network made a segmentation.

    Attributes:
        name: Of the bundle.
        version: Of the bundle.
        digests: SHA-256 of each file of weights, as hexadecimal digits.
    """

    name: str = OUR_NAME
    version: str = __version__
    digests: tuple[str, ...] = ()


def check_references(series: DicomSeries) -> None:
    """Make sure that other objects can refer to a series' images.

    Raises:
        InputError: When an image has no SOP instance UID or no class, or several have the same.
    """
    if missing := [s.file for s in series.slices if not s.instance or not s.sop_class]:
        raise InputError(
            f"{series}: {missing[0]} has no SOPInstanceUID or no SOPClassUID, so that no DICOM object can refer to it; "
            "export the series again, or ask for no DICOM object"
        )
    often = Counter((s.instance, s.frame) for s in series.slices)
    if twice := [s.file for s in series.slices if often[s.instance, s.frame] > 1]:
        raise InputError(
            f"{series}: {name_files(twice)} have the same SOPInstanceUID, so that no DICOM object can tell which of "
            "them it refers to; export the series again, or ask for no DICOM object"
        )


def reference_images(series: DicomSeries) -> list[Dataset]:
    """Return what highdicom must know of a series: its slices in order, or one data set of frames in that order.

    Their classes are ones that highdicom knows: see :func:`refer_to_files`. Texts are re-encoded as UTF-8. Values that
    DICOM does not allow are left empty, with one warning. Identifiers that de-identification took are made anew from
    those that are left, so that several objects of the same images agree.

    Raises:
        InputError: As :func:`check_references`.
    """
    check_references(series)
    slices = in_order(series.slices)
    common, texts = _identity(slices, series), _patient(slices[0].file, series)
    affine = orientation_ras_lps(series_affine(series))
    sizes = voxel_sizes(affine)
    normal = np.cross(affine[:3, 0], affine[:3, 1]) / (sizes[0] * sizes[1])
    step = abs(float(affine[:3, 2] @ normal))  # of neighbouring planes, also where a gantry was tilted
    measures = {
        "PixelSpacing": [_decimal(sizes[1]), _decimal(sizes[0])],
        "SliceThickness": _decimal(_thickness(slices[0].file) or step),
        "SpacingBetweenSlices": _decimal(step),
    }
    directions = {"ImageOrientationPatient": [_decimal(v) for v in (affine[:3, :2] / sizes[:2]).T.ravel()]}
    positions = [{"ImagePositionPatient": [_decimal(v) for v in s.place.position]} for s in slices if s.place]
    if slices[0].frame is None:
        common |= texts | measures | directions | {"SOPClassUID": CTImageStorage}
        return [
            _dataset(**common, **position, SOPInstanceUID=s.instance)
            for s, position in zip(slices, positions, strict=True)
        ]
    shared = _dataset(
        PixelMeasuresSequence=Items([_dataset(**measures)]), PlaneOrientationSequence=Items([_dataset(**directions)])
    )
    return [
        _dataset(
            **texts, **common, SOPInstanceUID=slices[0].instance, NumberOfFrames=len(slices),
            SOPClassUID=EnhancedMRImageStorage,
            SharedFunctionalGroupsSequence=Items([shared]),
            PerFrameFunctionalGroupsSequence=Items(
                [_dataset(PlanePositionSequence=Items([_dataset(**position)])) for position in positions]
            ),
        )
    ]  # fmt: skip


def refer_to_files(seg: Dataset, series: DicomSeries) -> None:
    """Let a segmentation refer to the files, frames and classes that there are, not :func:`reference_images`'s."""
    slices = in_order(series.slices)
    by_uid = {s.instance: s for s in slices}
    for group in seg.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", []):
            for item in derivation.SourceImageSequence:
                if "ReferencedFrameNumber" in item:
                    s = slices[int(item.ReferencedFrameNumber) - 1]
                    item.ReferencedFrameNumber = (s.frame or 0) + 1
                else:
                    s = by_uid[item.ReferencedSOPInstanceUID]
                item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID = s.instance, s.sop_class
    for reference in seg.get("ReferencedSeriesSequence", []):
        reference.ReferencedInstanceSequence = Items(
            _dataset(ReferencedSOPClassUID=s.sop_class, ReferencedSOPInstanceUID=s.instance) for s in by_uid.values()
        )


def _dataset(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def _decimal(value: float) -> str:
    return f"{value:.9g}"  # 16 characters at most


def _thickness(file: str) -> float:
    """Return the slices' thickness, 0 where it is not said."""
    try:
        value = float(dcmread(file, force=True, specific_tags=["SliceThickness"]).get("SliceThickness") or 0)
    except (ValueError, TypeError):
        return 0.0
    return value if 0 < value < 1e4 else 0.0


def _identity(slices: Sequence[Slice], series: DicomSeries) -> dict[str, Any]:
    first = slices[0]
    given = {"StudyInstanceUID": first.study, "SeriesInstanceUID": first.uid, "FrameOfReferenceUID": first.reference}
    made = [name for name, uid in given.items() if not uid]
    for name in made:
        given[name] = generate_uid(entropy_srcs=[name, *(s.instance for s in slices)])
    if made:
        logger.warning("%s: its images have no %s; the DICOM SEG gets a new one, and viewers may not show it on the "
                       "images", series, ", ".join(made))  # fmt: skip
    return {**given, "Rows": first.shape[1], "Columns": first.shape[0], "Modality": first.modality or "OT"}


def _patient(file: str, series: DicomSeries) -> dict[str, Any]:
    """Return patient and study as one file says, in UTF-8, without values that DICOM does not allow."""
    with quiet_pydicom():
        source = dcmread(file, stop_before_pixels=True, force=True, specific_tags=[*_NEEDED, *_OPTIONAL])
        if not source.get("SpecificCharacterSet"):
            implicit_vr, little_endian = source.original_encoding
            source.set_original_encoding(implicit_vr, little_endian, ["utf8"])
        found: dict[str, Any] = {"SpecificCharacterSet": _UTF_8}
        odd = []
        for keyword in (*_NEEDED, *_OPTIONAL):
            value, fits = _allowed(source, keyword)
            if not fits:
                odd.append(keyword)
            if value or keyword in _NEEDED:
                found[keyword] = value
    if odd:
        logger.warning(
            "%s: %s in its headers is not what DICOM allows, and is empty in the DICOM SEG", series, ", ".join(odd)
        )
    return found


def _allowed(source: Dataset, keyword: str) -> tuple[str, bool]:
    """Return a value, empty if DICOM does not allow it, and whether it does."""
    try:
        element = source[keyword] if keyword in source else None  # noqa: SIM401  # `get` returns the value alone
        value = "" if element is None or element.value is None else str(element.value).strip("\0 ")
        vr = dictionary_VR(keyword)  # not that of the file, which may be wrong
    except Exception:  # pydicom raises many kinds for values that it cannot convert
        return "", False
    if not value:
        return "", True
    try:
        fits = (
            len(value) <= _LONGEST.get(vr, 64)
            and "\\" not in value
            and not re.search(r"[\x00-\x1a\x1c-\x1f\ufffd]", value)
            and re.fullmatch(_PATTERNS.get(vr, r"(?s).*"), value) is not None
            and value in _CHOICES.get(keyword, (value,))
            and (vr != "DS" or 0 < float(value) < 1e6)
            and (vr != "PN" or (value.count("=") <= 2 and all(p.count("^") <= 4 for p in value.split("="))))
        )
        if fits and vr in ("DA", "TM"):
            (DA if vr == "DA" else TM)(value)
    except (ValueError, OverflowError):
        fits = False
    return (value, True) if fits else ("", False)
