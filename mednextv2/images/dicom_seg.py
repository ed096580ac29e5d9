"""Label maps as DICOM segmentation objects (DICOM SEG)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from mednextv2.errors import InputError
from mednextv2.images.dicom import DicomSeries
from mednextv2.images.dicom_codes import StructureCodes, display_rgb, find_code, of_anatomy, plain_name
from mednextv2.images.dicom_file import quiet_pydicom
from mednextv2.images.dicom_references import OUR_NAME, Model, refer_to_files, reference_images
from mednextv2.label_scheme import LabelScheme
from mednextv2.paths import prepare_folder, writing
from mednextv2.version import __version__

#: How segments are stored: one bit a voxel, the same deflated, or one label map (of Supplement 243, which is new).
STORAGES = ("binary", "deflated", "labelmap")
_MANY = 20  # segments, above which they are deflated by default


def write_dicom_seg(
    path: str | os.PathLike,
    labels: np.ndarray,
    scheme: LabelScheme,
    series: DicomSeries,
    codes: Mapping[str, Sequence[str]] | None = None,
    model: Model | None = None,
    storage: str | None = None,
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
        model: Which network made it.
        storage: `binary`; `deflated`, the same compressed without loss; or `labelmap`, with RLE, which many viewers do
            not read yet and which regions, that may overlap, cannot have. By default deflated for more than 20
            segments, else binary.

    Returns:
        The file.

    Raises:
        InputError: When highdicom is not installed, no voxel is labelled, the storage does not exist or does not fit,
            or the file cannot be written.

    Source:
        DICOM PS3.3 A.51 (segmentation), PS3.16 (context groups).
    """
    hd = _highdicom()
    path = Path(path)
    if not labels.any():
        raise InputError(f"{path}: nothing was segmented, and a DICOM SEG without any segment cannot be written")
    if storage is None:
        storage = "deflated" if len(scheme.foreground) > _MANY else "binary"
    if storage not in STORAGES or (storage == "labelmap" and scheme.regions):
        raise InputError(
            f"storage {storage}: should be one of {', '.join(STORAGES)}"
            + ("; regions may overlap, which a label map cannot hold" if storage == "labelmap" else "")
        )
    with quiet_pydicom():
        segmentation = _segmentation(hd, labels, scheme, series, codes or {}, model or Model(), storage)
        refer_to_files(segmentation, series)
    if storage == "deflated":
        segmentation.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    prepare_folder(path.parent, "output")
    with writing(path) as temporary:
        segmentation.save_as(temporary)
    return path


def _segmentation(
    hd: Any, labels: np.ndarray, scheme: LabelScheme, series: DicomSeries, codes: Mapping[str, Sequence[str]],
    model: Model, storage: str,
) -> Dataset:  # fmt: skip
    images = reference_images(series)
    # highdicom takes unsigned integers alone
    volume = np.ascontiguousarray(labels.transpose(2, 1, 0), dtype=f"u{labels.dtype.itemsize}")
    if scheme.regions:  # they may overlap: one channel each
        volume = np.stack([np.isin(volume, values) for values in scheme.members], axis=-1).astype(np.uint8)
    segments = [
        _segment(hd, number, name, _codes(codes.get(name), name, scheme), model)
        for number, name in enumerate(scheme.foreground, start=1)
    ]
    kinds = hd.seg.SegmentationTypeValues
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=volume,
        segmentation_type=kinds.LABELMAP if storage == "labelmap" else kinds.BINARY,
        segment_descriptions=segments,
        transfer_syntax_uid=RLELossless if storage == "labelmap" else ExplicitVRLittleEndian,
        series_instance_uid=hd.UID(),
        series_number=max(series.slices[0].number or 0, 0) + 1000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=OUR_NAME,
        manufacturer_model_name=plain_name(model.name),
        software_versions=f"{OUR_NAME} {__version__}",
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description=f"made by {OUR_NAME}, not a medical device",
        series_description=plain_name(f"Segmentation {model.name} {model.version}"),
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


def _codes(given: Sequence[str] | None, name: str, scheme: LabelScheme) -> StructureCodes:
    return of_anatomy(Code(*given)) if given else find_code(name, scheme.foreground)


def _segment(hd: Any, number: int, name: str, found: StructureCodes, model: Model) -> Any:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=plain_name(model.name),
        version=plain_name(model.version),
        family=hd.sr.CodedConcept("123109", "DCM", "Artificial Intelligence"),
        parameters={f"weights {n}": f"SHA-256 {digest}" for n, digest in enumerate(model.digests, start=1)} or None,
    )
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=plain_name(name),
        segmented_property_category=found.category,
        segmented_property_type=found.kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        anatomic_regions=[found.region] if found.region else None,
        display_color=_colour(hd, number),
    )
    concepts = hd.sr.CodedConcept.from_code
    if found.modifiers:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [concepts(code) for code in found.modifiers]
    if found.region_modifiers:
        region = segment.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [concepts(code) for code in found.region_modifiers]
    return segment


def _colour(hd: Any, number: int) -> Any:
    return hd.color.CIELabColor.from_rgb(*display_rgb(number))
