"""RTSTRUCT: outlines that, filled by another program, are the label map again."""

import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_helpers import LPS, numbers, write_series
from matplotlib.path import Path as Polygon

from mednextv2.data import LabelScheme, choose_series, read_series
from mednextv2.errors import InputError
from mednextv2.images.dicom_references import Model
from mednextv2.images.rtstruct import write_rtstruct

SCHEME = LabelScheme(["background", "liver", "Läsion", "absent"])
SHAPE = (13, 11, 6)
AFFINES = {
    "axial": np.diag([0.8, 0.9, 2.0, 1.0]),
    "oblique": nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([0.8, 1.1, 2.5]), [-20.0, 13.0, 40.0]
    ),
    "tilted": np.array([[0.8, 0, 0, 5], [0, 0.9, 0.7, -3], [0, 0, 2.0, 8], [0, 0, 0, 1.0]]),
}


def label_map():
    """A body with a hole that has an island, pixels that touch by a corner, the border, and single pixels."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:9, 1:9, 1:4] = 1
    labels[3:7, 3:7, 2] = 0
    labels[5, 5, 2] = 1
    labels[10, 9, 2] = labels[11, 10, 2] = 2
    labels[12, :, 3] = 2
    labels[0, 0, 0] = labels[12, 10, 5] = 2
    return labels


def write(tmp_path, affine=AFFINES["axial"], labels=None, **tags):
    files = write_series(tmp_path / "in", numbers(SHAPE), affine, order=[3, 0, 5, 1, 4, 2], **tags)
    (series,) = choose_series(tmp_path / "in")
    labels = label_map() if labels is None else labels
    write_rtstruct(tmp_path / "rt.dcm", labels, SCHEME, series, Model("mednextv2_liver", "1.2.3"))
    return files, series, pydicom.dcmread(tmp_path / "rt.dcm")


def filled(structures, number, affine):
    """Fill the outlines of one structure, even and odd, on the grid of an affine (RAS)."""
    mask = np.zeros(SHAPE, int)
    columns, rows = np.indices(SHAPE[:2])
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    (contours,) = [c for c in structures.ROIContourSequence if c.ReferencedROINumber == number]
    for contour in contours.get("ContourSequence", []):
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        assert len(points) == contour.NumberOfContourPoints
        voxels = (np.linalg.inv(LPS @ affine) @ np.concatenate([points, np.ones((len(points), 1))], axis=1).T).T
        (place,) = np.unique(np.rint(voxels[:, 2]))
        np.testing.assert_allclose(voxels[:, 2], place, atol=1e-5)
        inside = Polygon(voxels[:, :2]).contains_points(centres)
        mask[..., int(place)] += inside.reshape(SHAPE[:2])
    return mask % 2 == 1


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_filled_outlines_are_the_label_map(tmp_path, affine):
    _, series, structures = write(tmp_path, affine)
    own = read_series(series)[1]
    for number in (1, 2):
        np.testing.assert_array_equal(filled(structures, number, own), label_map() == number)
    assert not filled(structures, 3, own).any()


def test_it_refers_to_its_images_and_names_its_structures(tmp_path):
    files, _, structures = write(tmp_path, PatientName="Doe^Jané", SpecificCharacterSet="ISO_IR 100", SeriesNumber=4)
    source = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, files)}
    first = next(iter(source.values()))
    assert structures.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.481.3"
    assert (structures.Modality, structures.SeriesNumber) == ("RTSTRUCT", 2004)
    assert (str(structures.PatientName), structures.StudyInstanceUID) == ("Doe^Jané", first.StudyInstanceUID)
    assert structures.SeriesInstanceUID != first.SeriesInstanceUID
    assert "mednextv2_liver 1.2.3" in structures.SeriesDescription
    names = [r.ROIName for r in structures.StructureSetROISequence]
    assert names == ["liver", "Läsion", "absent"]
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == first.FrameOfReferenceUID
    (referenced,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == first.SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in referenced.ContourImageSequence} == set(source)
    colours = [tuple(c.ROIDisplayColor) for c in structures.ROIContourSequence]
    assert len(set(colours)) == 3
    for contours in structures.ROIContourSequence:
        for contour in contours.get("ContourSequence", []):
            (image,) = contour.ContourImageSequence
            slice_ = source[image.ReferencedSOPInstanceUID]  # which is the one that the outline lies on
            assert image.ReferencedSOPClassUID == slice_.SOPClassUID
            assert contour.ContourData[2] == pytest.approx(slice_.ImagePositionPatient[2], abs=1e-6)
            assert all(len(str(value)) <= 16 for value in contour.ContourData)


def test_nothing_of_the_slices_is_said_of_the_structures(tmp_path):
    _, _, structures = write(tmp_path)
    for keyword in ("ImagePositionPatient", "Rows", "PixelSpacing", "SliceThickness", "ImageType", "InstitutionName"):
        assert keyword not in structures


def test_what_cannot_be_written_is_told(tmp_path, monkeypatch):
    write_series(tmp_path / "in", numbers(SHAPE))
    (series,) = choose_series(tmp_path / "in")
    with pytest.raises(InputError, match="nothing was segmented"):
        write_rtstruct(tmp_path / "rt.dcm", np.zeros(SHAPE, np.uint8), SCHEME, series)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_rtstruct(tmp_path / "file" / "rt.dcm", label_map(), SCHEME, series)
    monkeypatch.setitem(sys.modules, "contourpy", None)
    with pytest.raises(InputError, match="pip install contourpy"):
        write_rtstruct(tmp_path / "rt.dcm", label_map(), SCHEME, series)
    assert not (tmp_path / "rt.dcm").exists()


def test_regions_are_outlined_each(tmp_path):
    regions = [{"name": "whole", "values": [1, 2], "paint": 1}, {"name": "core", "values": [2], "paint": 2}]
    scheme = LabelScheme(["background", "a", "b"], regions)
    write_series(tmp_path / "in", numbers(SHAPE))
    (series,) = choose_series(tmp_path / "in")
    write_rtstruct(tmp_path / "rt.dcm", label_map(), scheme, series)
    structures, affine = pydicom.dcmread(tmp_path / "rt.dcm"), read_series(series)[1]
    np.testing.assert_array_equal(filled(structures, 1, affine), label_map() > 0)
    np.testing.assert_array_equal(filled(structures, 2, affine), label_map() == 2)
