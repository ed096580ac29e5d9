"""DICOM series for tests, written with pydicom."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from mednextv2.data import choose_series, read_series
from mednextv2.errors import InputError

CT = "1.2.840.10008.5.1.4.1.1.2"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_series(folder, voxels, affine=None, order=None, change=None, slope=1.0, intercept=-1024.0, **tags):
    """Write `(columns, rows, slices)` whole numbers as one file a slice; returns the files, first slice first.

    `order` are the slices' places in the alphabet of the files; `change(dataset, k)` may alter a slice or return False
    to leave it out.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    affine = LPS @ (np.diag([0.8, 0.9, 2.0, 1.0]) if affine is None else affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    common = {
        "Modality": "CT", "PatientID": "P1", "PatientName": "A^B", "PatientBirthDate": "", "PatientSex": "",
        "StudyInstanceUID": "1.2.3", "StudyID": "", "StudyDate": "20200101", "StudyTime": "", "AccessionNumber": "",
        "ReferringPhysicianName": "", "SeriesInstanceUID": generate_uid(), "SeriesNumber": 3,
        "SeriesDescription": "Abdomen 2.0", "FrameOfReferenceUID": "1.2.3.4", "ImageType": ["ORIGINAL", "PRIMARY"],
        **tags,
    }  # fmt: skip
    files = []
    for k in range(voxels.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        name = folder / f"IM{k if order is None else order[k]:04d}"
        ds = FileDataset(str(name), {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CT, meta.MediaStorageSOPInstanceUID
        for tag, value in common.items():
            setattr(ds, tag, value)
        ds.InstanceNumber = k + 1
        ds.ImageOrientationPatient = [*(affine[:3, 0] / spacing[0]), *(affine[:3, 1] / spacing[1])]
        ds.ImagePositionPatient = [float(f"{v:.8g}") for v in (affine @ [0, 0, k, 1])[:3]]
        ds.ImageOrientationPatient = [float(f"{v:.10g}") for v in ds.ImageOrientationPatient]
        ds.PixelSpacing = [float(f"{spacing[1]:.8g}"), float(f"{spacing[0]:.8g}")]
        ds.Columns, ds.Rows = voxels.shape[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        ds.PixelData = np.ascontiguousarray(voxels[:, :, k].T.astype("<i2")).tobytes()
        if change is not None and change(ds, k) is False:
            continue
        ds.save_as(name, enforce_file_format=True)
        files.append(name)
    return files


def numbers(shape=(9, 7, 6), seed=0):
    """Return random stored values."""
    return np.random.default_rng(seed).integers(0, 2000, shape, dtype=np.int16)


def refused(folder, series=None):
    """Return the message of the one InputError with which the series of a folder are refused."""
    with pytest.raises(InputError) as caught:
        [read_series(found) for found in choose_series(folder, series)]
    assert str(folder) in str(caught.value)
    return str(caught.value)


def change_files(files, change):
    """Read each file, alter it by `change(dataset, k)`, and write it again."""
    for k, file in enumerate(files):
        ds = dcmread(file)
        change(ds, k)
        ds.save_as(file)


def item(**tags):
    """Return a sequence of one item."""
    ds = Dataset()
    for tag, value in tags.items():
        setattr(ds, tag, value)
    return Sequence([ds])


def write_enhanced(file, frames, positions, groups=lambda k: {}, **tags):
    """Write stored pixels `(rows, columns)` as one enhanced file; returns it.

    `positions` are ImagePositionPatient of each frame, `groups(k)` its further functional groups.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    (single,) = write_series(file.parent / "one", np.asarray(frames[0]).T[..., None], **tags)
    ds = dcmread(single)
    single.unlink()
    single.parent.rmdir()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.SharedFunctionalGroupsSequence = item(
        PixelMeasuresSequence=item(PixelSpacing=ds.PixelSpacing),
        PlaneOrientationSequence=item(ImageOrientationPatient=ds.ImageOrientationPatient),
        PixelValueTransformationSequence=item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU"),
    )
    for tag in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(ds, tag)
    ds.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=item(ImagePositionPatient=list(position)), **groups(k))[0]
        for k, position in enumerate(positions)
    ]
    for sequence in ds.PerFrameFunctionalGroupsSequence[0].dir("Sequence"):  # a group is in one of both places
        ds.SharedFunctionalGroupsSequence[0].pop(sequence, None)
    ds.NumberOfFrames = len(frames)
    ds.PixelData = np.stack(frames).astype("<i2").tobytes()
    ds.save_as(file)
    return file
