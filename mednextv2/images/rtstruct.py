"""Label maps as DICOM RT Structure Sets: outlines that radiotherapy planning systems import."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from mednextv2.errors import InputError
from mednextv2.images.dicom import DicomSeries
from mednextv2.images.dicom_codes import display_rgb, plain_name
from mednextv2.images.dicom_file import quiet_pydicom
from mednextv2.images.dicom_geometry import in_order
from mednextv2.images.dicom_references import OUR_NAME, Model, reference_images
from mednextv2.label_scheme import LabelScheme
from mednextv2.paths import prepare_folder, writing
from mednextv2.version import __version__

_STUDY = "1.2.840.10008.3.1.2.3.1"  # the class that DICOM requires for a referenced study, although it is retired


def write_rtstruct(
    path: str | os.PathLike, labels: np.ndarray, scheme: LabelScheme, series: DicomSeries, model: Model | None = None
) -> Path:
    """Write a label map as an RT Structure Set: one region of interest per structure, closed outlines on each slice.

    Outlines run half-way between voxels of a structure and their neighbours, so that a program that fills them finds
    exactly the voxels of the label map, whose centres they enclose. A hole is an outline within another one.

    Args:
        path: The file.
        labels: The label map, `(columns, rows, slices)`, on the grid of :func:`mednextv2.data.read_series`.
        scheme: The meaning of the values.
        series: The source images, one file for each slice.
        model: The network that made the label map.

    Returns:
        The path of the file.

    Raises:
        InputError: If contourpy is not installed, no voxel is labelled, the series is an enhanced multi-frame image,
            or the file cannot be written.

    Source:
        DICOM PS3.3 A.19 and C.8.8.5 to C.8.8.8.
    """
    check_rtstruct()
    path = Path(path)
    if not labels.any():
        raise InputError(f"{path}: nothing was segmented, and an RTSTRUCT without any outline cannot be written")
    if series.slices[0].frame is not None:
        raise InputError(
            f"{path}: RTSTRUCT refers to one file a slice, but {series} is an enhanced multi-frame image; write "
            "a DICOM SEG with --dicom_seg"
        )
    with quiet_pydicom():
        structures = _structure_set(series, model or Model())
        for number, (name, values) in enumerate(zip(scheme.foreground, scheme.members, strict=True), start=1):
            _add_structure(structures, number, name, np.isin(labels, values), series)
    prepare_folder(path.parent, "output")
    with writing(path) as temporary:
        structures.save_as(temporary, enforce_file_format=True)
    return path


def check_rtstruct() -> None:
    """Raise an InputError when RTSTRUCT cannot be written because contourpy is missing."""
    try:
        import contourpy  # noqa: F401
    except ImportError as e:
        raise InputError('RTSTRUCT needs contourpy: pip install "mednextv2[dicom]", or pip install contourpy') from e


def _structure_set(series: DicomSeries, model: Model) -> Dataset:
    """Return the DICOM object without structures."""
    first, *_ = images = reference_images(series)
    now, slices = datetime.now(), in_order(series.slices)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for element in first:  # copies the patient and the study; the rest describes a slice
        if element.tag.group in (0x0008, 0x0010, 0x0012, 0x0020) and element.keyword.startswith(_TAKEN):
            made.add(element)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.SeriesInstanceUID, made.Modality = generate_uid(), "RTSTRUCT"
    made.SeriesNumber, made.InstanceNumber = max(series.slices[0].number or 0, 0) + 2000, 1
    made.SeriesDescription = plain_name(f"Outlines {model.name} {model.version}")
    made.Manufacturer, made.ManufacturerModelName = OUR_NAME, plain_name(model.name)
    made.SoftwareVersions, made.OperatorsName = f"{OUR_NAME} {__version__}", ""
    made.StructureSetLabel = plain_name(model.name)[:16]
    made.StructureSetDescription = f"made by {OUR_NAME}, not a medical device"
    made.StructureSetDate = made.InstanceCreationDate = now.strftime("%Y%m%d")
    made.StructureSetTime = made.InstanceCreationTime = now.strftime("%H%M%S")
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = first.FrameOfReferenceUID, ""
    made.ApprovalStatus = "UNAPPROVED"
    files = Items([_refer(s.sop_class, s.instance) for s in slices])
    source = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=files)
    study = _refer(_STUDY, first.StudyInstanceUID)
    study.RTReferencedSeriesSequence = Items([source])
    frame = _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=Items([study]))
    made.ReferencedFrameOfReferenceSequence = Items([frame])
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = Items(), Items(), Items()
    assert len(images) == len(slices)  # one file for each slice
    return made


_TAKEN = ("Patient", "Study", "Accession", "Referring", "SpecificCharacterSet", "Deidentification", "Issuer")


def _add_structure(made: Dataset, number: int, name: str, mask: np.ndarray, series: DicomSeries) -> None:
    contours = Items(
        _item(
            ContourImageSequence=Items([_refer(s.sop_class, s.instance)]),
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(points),
            ContourData=[f"{value:.10g}"[:16] for value in points.ravel()],
        )
        for k, s in enumerate(in_order(series.slices))
        for points in _outlines(mask[:, :, k], s)
    )
    frame = made.FrameOfReferenceUID
    made.StructureSetROISequence.append(
        _item(ROINumber=number, ReferencedFrameOfReferenceUID=frame, ROIName=plain_name(name),
              ROIGenerationAlgorithm="AUTOMATIC")
    )  # fmt: skip
    outlines = _item(ReferencedROINumber=number, ROIDisplayColor=list(display_rgb(number)))
    if contours:
        outlines.ContourSequence = contours
    made.ROIContourSequence.append(outlines)
    made.RTROIObservationsSequence.append(
        _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
    )


def _outlines(mask: np.ndarray, s: Any) -> Iterator[np.ndarray]:
    """Yield the outlines of one slice `(columns, rows)` in millimetres, `(points, 3)`, without repeating the first."""
    from contourpy import contour_generator

    if not mask.any():
        return
    around = np.pad(mask.T.astype(np.float32), 1)
    for line in contour_generator(z=around, name="serial").lines(0.5):
        corners = np.asarray(line)[:-1] - 1  # column, row
        row, column = np.array(s.place.orientation[:3]), np.array(s.place.orientation[3:])
        yield (
            np.array(s.place.position) + corners[:, :1] * s.spacing[0] * row + corners[:, 1:] * s.spacing[1] * column
        )


def _refer(sop_class: str, instance: str) -> Dataset:
    return _item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=instance)


def _item(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made
