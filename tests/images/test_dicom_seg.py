"""DICOM SEG: read back by highdicom, it lies where the NIfTI mask lies."""

import os
import sys
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_helpers import LPS, numbers, write_series

from mednextv2.data import LabelScheme, choose_series, read_series
from mednextv2.errors import InputError
from mednextv2.images.dicom_seg import write_dicom_seg
from mednextv2.predictor import Segmentation

DATA = os.environ.get("MEDNEXTV2_DATA")
SCHEME = LabelScheme(["background", "liver", "kidney_left", "spotted thing"])
ROTATION = nib.eulerangles.euler2mat(0.3, -0.2, 0.5)
AFFINES = {
    "axial": np.diag([0.8, 0.9, 2.0, 1.0]),
    "feet first": nib.affines.from_matvec(np.diag([-0.98, -0.98, -3.0]), [250.0, 437.0, 804.5]),
    "oblique": nib.affines.from_matvec(ROTATION @ np.diag([0.8, 1.1, 2.5]), [-20.0, 13.0, 40.0]),
}


def label_map(shape, count=4):
    """Return labels in blocks, and a voxel alone in a corner."""
    labels = np.random.default_rng(1).integers(0, count, [-(-n // 3) for n in shape]).astype(np.uint8)
    labels = labels.repeat(3, 0).repeat(3, 1).repeat(3, 2)[tuple(map(slice, shape))].copy()
    labels[0, 0, 0] = 1
    return labels


def segments_at(file, places):
    """Return for each segment number whether highdicom finds it at places `(n, 3)` in mm, RAS."""
    found = hd.seg.segread(file)
    inside = {}
    for number in found.segment_numbers:
        volume = found.get_volume(segment_numbers=[number])
        where = np.rint(volume.map_reference_to_indices((LPS[:3, :3] @ places.T).T)).astype(int)
        inside[number] = volume.array[..., 0][tuple(where.T)] > 0
    return inside


def check(file, labels, affine, members=((1,), (2,), (3,))):
    where = np.indices(labels.shape).reshape(3, -1)
    places = (affine[:3, :3] @ where).T + affine[:3, 3]
    inside = segments_at(file, places)
    assert list(inside) == list(range(1, len(members) + 1))
    for (_, found), values in zip(inside.items(), members, strict=True):
        assert np.array_equal(found, np.isin(labels.reshape(-1), values))


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_segments_lie_where_the_nifti_mask_lies(tmp_path, affine):
    write_series(tmp_path / "in", numbers(), affine, order=[3, 0, 5, 1, 4, 2])
    (series,) = choose_series(tmp_path / "in")
    array, found = read_series(series)
    labels = label_map(array.shape)
    segmentation = Segmentation(labels, found, SCHEME, series)
    segmentation.save_dicom_seg(tmp_path / "seg.dcm")
    nifti = nib.load(segmentation.save(tmp_path / "seg.nii.gz"))
    check(tmp_path / "seg.dcm", np.asarray(nifti.dataobj), nifti.affine)


def test_regions_may_overlap(tmp_path):
    regions = [{"name": "whole", "values": [1, 2, 3], "paint": 1}, {"name": "core", "values": [2, 3], "paint": 2}]
    scheme = LabelScheme(["background", "a", "b", "c"], regions)
    write_series(tmp_path / "in", numbers())
    (series,) = choose_series(tmp_path / "in")
    labels, affine = label_map((9, 7, 6)), read_series(series)[1]
    write_dicom_seg(tmp_path / "seg.dcm", labels, scheme, series)
    check(tmp_path / "seg.dcm", labels, affine, [(1, 2, 3), (2, 3)])


def test_labels_of_two_bytes_are_written(tmp_path):
    scheme = LabelScheme(["background", *(f"part {i}" for i in range(1, 300))])
    write_series(tmp_path / "in", numbers())
    (series,) = choose_series(tmp_path / "in")
    labels = np.zeros((9, 7, 6), np.int16)
    labels[2:4, 3, 1:3] = 299
    write_dicom_seg(tmp_path / "seg.dcm", labels, scheme, series)
    found = hd.seg.segread(tmp_path / "seg.dcm").get_volume(segment_numbers=[299])
    assert int((found.array > 0).sum()) == 4


def test_it_refers_to_its_images_and_names_its_segments(tmp_path):
    files = write_series(tmp_path / "in", numbers(), PatientName="Doe^Jane", SeriesNumber=7)
    (series,) = choose_series(tmp_path / "in")
    write_dicom_seg(tmp_path / "seg.dcm", label_map((9, 7, 6)), SCHEME, series)
    seg, source = hd.seg.segread(tmp_path / "seg.dcm"), [pydicom.dcmread(f) for f in files]
    assert (seg.PatientName, seg.StudyInstanceUID) == ("Doe^Jane", source[0].StudyInstanceUID)
    assert seg.FrameOfReferenceUID == source[0].FrameOfReferenceUID
    (referenced,) = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == source[0].SeriesInstanceUID
    used = {i.ReferencedSOPInstanceUID for i in referenced.ReferencedInstanceSequence}
    assert used == {ds.SOPInstanceUID for ds in source}
    liver, kidney, thing = (seg.get_segment_description(n) for n in (1, 2, 3))
    assert [s.segment_label for s in (liver, kidney, thing)] == ["liver", "kidney_left", "spotted thing"]
    assert liver.segmented_property_type == hd.sr.CodedConcept("10200004", "SCT", "Liver")
    assert kidney.segmented_property_type == hd.sr.CodedConcept("64033007", "SCT", "Kidney")
    modifier = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (modifier.CodeValue, modifier.CodingSchemeDesignator) == ("7771000", "SCT")
    assert thing.segmented_property_type.scheme_designator == "99MEDNEXTV2"
    assert thing.segmented_property_type.meaning == "spotted thing"


def test_codes_may_be_given(tmp_path):
    write_series(tmp_path / "in", numbers())
    (series,) = choose_series(tmp_path / "in")
    codes = {"spotted thing": ("1234", "SCT", "Thing")}
    write_dicom_seg(tmp_path / "seg.dcm", label_map((9, 7, 6)), SCHEME, series, codes)
    found = hd.seg.segread(tmp_path / "seg.dcm").get_segment_description(3)
    assert found.segmented_property_type == hd.sr.CodedConcept("1234", "SCT", "Thing")


@pytest.mark.skipif(not DATA, reason="MEDNEXTV2_DATA is not set")
def test_the_series_of_a_scanner_without_uids(tmp_path, caplog):
    (series,) = choose_series(Path(DATA) / "ct_example" / "dicom")
    array, affine = read_series(series)
    labels = np.zeros(array.shape, np.uint8)
    labels[array > 100] = 1
    labels[100:110, 200:210, 3:5] = 2
    labels[300:302, 100, 19] = 3
    write_dicom_seg(tmp_path / "seg.dcm", labels, SCHEME, series)
    assert "no StudyInstanceUID, SeriesInstanceUID" in caplog.text
    check(tmp_path / "seg.dcm", labels, affine)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID.startswith("1.3.12.2")
    write_dicom_seg(tmp_path / "again.dcm", labels, SCHEME, series)
    assert pydicom.dcmread(tmp_path / "again.dcm").StudyInstanceUID == seg.StudyInstanceUID


def test_what_cannot_be_written_is_told(tmp_path, monkeypatch):
    write_series(tmp_path / "in", numbers())
    (series,) = choose_series(tmp_path / "in")
    empty = np.zeros((9, 7, 6), np.uint8)
    with pytest.raises(InputError, match="nothing was segmented"):
        write_dicom_seg(tmp_path / "seg.dcm", empty, SCHEME, series)
    with pytest.raises(InputError, match="the image is in memory"):
        Segmentation(empty + 1, np.eye(4), SCHEME).save_dicom_seg(tmp_path / "seg.dcm")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_dicom_seg(tmp_path / "file" / "seg.dcm", empty + 1, SCHEME, series)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match="pip install highdicom"):
        write_dicom_seg(tmp_path / "seg.dcm", empty + 1, SCHEME, series)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_series_without_patient_is_taken(tmp_path):
    def bare(ds, k):
        for tag in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
                    "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "SeriesNumber"):  # fmt: skip
            delattr(ds, tag)

    write_series(tmp_path / "in", numbers(), change=bare)
    (series,) = choose_series(tmp_path / "in")
    write_dicom_seg(tmp_path / "seg.dcm", label_map((9, 7, 6)), SCHEME, series)
    check(tmp_path / "seg.dcm", label_map((9, 7, 6)), read_series(series)[1])
