"""Label maps as DICOM segmentation objects (DICOM SEG)."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from mednextv2.errors import InputError
from mednextv2.images.dicom import DicomSeries, series_affine
from mednextv2.images.dicom_file import quiet_pydicom
from mednextv2.label_scheme import LabelScheme
from mednextv2.paths import prepare_folder, writing
from mednextv2.version import __version__

logger = logging.getLogger(__name__)

#: DICOM context groups with names of organs and tissues; 7159 has lesions.
_ANATOMY = ("cid7192", "cid7153", "cid7154", "cid7155", "cid7156", "cid7160", "cid7140", "cid7166", "cid4031")
_LESIONS = "cid7159"
_ALIASES = {"tumor": ("neoplasm",), "tumour": ("neoplasm",), "urinary": ()}  # other words for the same
_SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
_OWN_CODES = "99MEDNEXTV2"  # DICOM: a private scheme's name begins with 99
_OUR_NAME = "mednextv2"


def write_dicom_seg(
    path: str | os.PathLike,
    labels: np.ndarray,
    scheme: LabelScheme,
    series: DicomSeries,
    codes: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a label map as a DICOM SEG that refers to the images of its series.

    A segment's number is its label value (with regions, its place). Names that DICOM's context groups for
    segmentation know get their SNOMED CT code, with the side as modifier; others a private code with their name.

    Args:
        path: The file.
        labels: `(columns, rows, slices)`, on the grid of :func:`mednextv2.data.read_series`.
        scheme: What the values mean.
        series: The source images.
        codes: For names of structures: value, coding scheme and meaning of a code, such as
            `("10200004", "SCT", "Liver")`.

    Returns:
        The file.

    Raises:
        InputError: When highdicom is not installed, no voxel is labelled, or the file cannot be written.

    Source:
        DICOM PS3.3 A.51 (segmentation), PS3.16 (context groups).
    """
    hd = _highdicom()
    path = Path(path)
    if not labels.any():
        raise InputError(f"{path}: nothing was segmented, and a DICOM SEG without any segment cannot be written")
    with quiet_pydicom():
        segmentation = _segmentation(hd, labels, scheme, series, codes or {})
    prepare_folder(path.parent, "output")
    with writing(path) as temporary:
        segmentation.save_as(temporary)
    return path


def _segmentation(
    hd: Any, labels: np.ndarray, scheme: LabelScheme, series: DicomSeries, codes: Mapping[str, Sequence[str]]
) -> Dataset:
    images = _identified([dcmread(file, stop_before_pixels=True, force=True) for file in series.files], series)
    # highdicom takes unsigned integers alone
    volume = np.ascontiguousarray(labels.transpose(2, 1, 0), dtype=f"u{labels.dtype.itemsize}")
    if scheme.regions:  # they may overlap: one channel each
        volume = np.stack([np.isin(volume, values) for values in scheme.members], axis=-1).astype(np.uint8)
    segments = [_segment(hd, number, name, codes.get(name)) for number, name in enumerate(scheme.foreground, start=1)]
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=volume,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=int(images[0].get("SeriesNumber") or 0) + 1000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=_OUR_NAME,
        manufacturer_model_name=_OUR_NAME,
        software_versions=__version__,
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description=f"made by {_OUR_NAME}, not a medical device",
        series_description="Segmentation",
    )


def check_dicom_seg() -> None:
    """Raise an InputError when DICOM SEG cannot be written because highdicom is missing."""
    _highdicom()


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError as e:
        raise InputError('DICOM SEG needs highdicom: pip install "mednextv2[dicom]", or pip install highdicom') from e
    return highdicom


def _identified(images: list[Dataset], series: DicomSeries) -> list[Dataset]:
    """Give images the identifiers that de-identification took, so that the SEG can refer to them.

    What a file's meta header repeats comes from there. Other UIDs are made from those, so that several objects of the
    same images agree.
    """
    thickness = float(voxel_sizes(series_affine(series))[2])  # the distance of slices, where it is not given
    for image in images:
        for name in ("SOPClassUID", "SOPInstanceUID"):
            if not image.get(name):
                setattr(image, name, image.file_meta.get(f"MediaStorage{name}", ""))
            if not image.get(name):
                raise InputError(f"{series}: a file has no {name}, so that a DICOM SEG cannot refer to it")
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
                     "AccessionNumber", "ReferringPhysicianName"):  # fmt: skip
            if name not in image:
                setattr(image, name, "")
        if not image.get("SliceThickness"):
            image.SliceThickness = f"{thickness:.10g}"
    made = []
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if not images[0].get(name):
            made.append(name)
            uid = generate_uid(entropy_srcs=[name, *(image.SOPInstanceUID for image in images)])
            for image in images:
                setattr(image, name, uid)
    if made:
        logger.warning("%s: its images have no %s; the DICOM SEG gets a new one, and viewers may not show it on the "
                       "images", series, ", ".join(made))  # fmt: skip
    return images


# --- codes -----------------------------------------------------------------------------------------------------------


def _segment(hd: Any, number: int, name: str, given: Sequence[str] | None) -> Any:
    code, lesion, side = (tuple(given), False, None) if given else find_code(name)
    category = ("49755003", "SCT", "Morphologically Abnormal Structure") if lesion else (
        "91723000", "SCT", "Anatomical Structure")  # fmt: skip
    algorithm = hd.AlgorithmIdentificationSequence(
        name=_OUR_NAME,
        version=__version__,
        family=hd.sr.CodedConcept("123109", "DCM", "Artificial Intelligence"),
    )
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=hd.sr.CodedConcept(*category),
        segmented_property_type=hd.sr.CodedConcept(*code),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    if side:
        modifier = hd.sr.CodedConcept(_SIDES[side][0], "SCT", _SIDES[side][1])
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return segment


def find_code(name: str) -> tuple[tuple[str, str, str], bool, str | None]:
    """Find the code of a structure's name.

    Args:
        name: Such as `kidney_left`.

    Returns:
        Value, coding scheme and meaning; whether it is a lesion; and the side, `left` or `right`, or None.
    """
    words = [w for word in re.findall(r"[a-z]+|[0-9]+", name.lower()) for w in _ALIASES.get(word, (word,))]
    for side in (None, *_SIDES):
        rest = tuple(sorted(word for word in words if word != side))
        if side and (side not in words or not rest):
            continue
        for group in (_LESIONS, *_ANATOMY):
            if code := _group(group).get(rest):
                return (code.value, code.scheme_designator, code.meaning), group == _LESIONS, side
    value = hashlib.sha1(name.encode()).hexdigest()[:12]  # a code has 16 characters at most
    return (value, _OWN_CODES, name[:64]), False, None


@lru_cache
def _group(name: str) -> dict[tuple[str, ...], Code]:
    """Return a context group's codes by the sorted words of their meaning."""
    group = getattr(codes, name)
    found = (getattr(group, keyword) for keyword in group.dir())
    return {tuple(sorted(re.findall(r"[a-z]+|[0-9]+", code.meaning.lower()))): code for code in found}
