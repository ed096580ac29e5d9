"""RTSTRUCT files for tests, written with pydicom: contours as any planning system would draw them."""

from pathlib import Path

import numpy as np
from dicom_helpers import item
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid


def circle(centre, radius, z, corners=720):
    """Return a circle in the plane of an axial slice, `(corners, 3)`, in mm."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius + np.asarray(centre, float)
    return np.column_stack([around, np.full(corners, float(z))])


def rectangle(low, high, z):
    (x0, y0), (x1, y1) = low, high
    return np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], float)


def write_structures(file, files, rois, date="20200102", time="101500", kind="CLOSED_PLANAR", change=None):
    """Write contours that refer to the images `files`.

    `rois` has a list of contours `(N, 3)` for each name; one of another kind is a pair of contour and kind.
    `change(dataset)` may alter the object.
    """
    images = [dcmread(f, stop_before_pixels=True) for f in files]
    first = images[0]
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.Modality, made.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    made.PatientID, made.StudyInstanceUID = first.PatientID, first.StudyInstanceUID
    made.StructureSetDate, made.StructureSetTime = date, time
    series = item(SeriesInstanceUID=first.SeriesInstanceUID)
    study = item(ReferencedSOPInstanceUID=first.StudyInstanceUID, RTReferencedSeriesSequence=series)
    made.ReferencedFrameOfReferenceSequence = item(
        FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=study
    )
    made.StructureSetROISequence, made.ROIContourSequence = Sequence(), Sequence()
    for number, (name, contours) in enumerate(rois.items(), start=1):
        frame = first.FrameOfReferenceUID
        made.StructureSetROISequence += item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame)
        drawn = [_contour(*(c if isinstance(c, tuple) else (c, kind)), images) for c in contours]
        made.ROIContourSequence += item(ReferencedROINumber=number, **({"ContourSequence": drawn} if drawn else {}))
    if change is not None:
        change(made)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    made.save_as(file, enforce_file_format=True)
    return Path(file)


def _contour(points, kind, images):
    middle = points.mean(axis=0)
    normal = np.cross(images[0].ImageOrientationPatient[:3], images[0].ImageOrientationPatient[3:])
    distance = [abs(float(np.dot(middle - np.array(image.ImagePositionPatient, float), normal))) for image in images]
    nearest = images[int(np.argmin(distance))]
    image = item(ReferencedSOPClassUID=nearest.SOPClassUID, ReferencedSOPInstanceUID=nearest.SOPInstanceUID)
    return item(
        ContourImageSequence=image, ContourGeometricType=kind, NumberOfContourPoints=len(points),
        ContourData=[f"{value:.8g}" for value in np.ravel(points)],
    )[0]  # fmt: skip
