"""Pediatric-CT-SEG: DICOM and RTSTRUCT by name, overlaps painted in order, and everything that is known of the set."""

import re
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from converter_runs import converted, excluded, passes_check, record, refused, truncate
from dicom_helpers import change_files
from pydicom.uid import generate_uid
from source_builders import CT_SHAPE, PATIENTS, ROIS, boxes, patient
from source_files import image, read

FIRST, SECOND = PATIENTS
NUMBERS = {"Liver": 16, "Bones": 29, "Skin": 28, "Lt Adrenal": 1, "Lung_R": 27}


def painted(rois=ROIS, order=("Skin", "Bones", "Lt Adrenal", "Liver", "Lung_R")):
    """Paint boxes of pixels in an order: skin, bones, then organs by number."""
    label = np.zeros(CT_SHAPE, np.uint8)
    for name in order:
        for c0, c1, r0, r1, k in rois.get(name, []):
            label[c0:c1, r0:r1, k] = NUMBERS[name]
    return label


def root(source):
    return source / "Pediatric-CT-SEG"


def again(patient_folder):
    """Return the files of a patient's CT."""
    return sorted(patient_folder.glob("*/2.*/*.dcm"))


def test_skin_bones_and_organs_are_painted_in_this_order(tmp_path):
    target = converted("pediatric_ct_seg", tmp_path)
    assert passes_check(target) == [FIRST, SECOND]
    np.testing.assert_array_equal(read(target / f"labelsTr/{FIRST}.nii.gz"), painted())
    made = nib.load(target / f"imagesTr/{FIRST}_0000.nii.gz")
    np.testing.assert_array_equal(made.dataobj, image(0, CT_SHAPE) - 1024)  # Hounsfield units
    np.testing.assert_allclose(made.affine, np.diag([0.8, 0.9, 2.0, 1.0]), atol=1e-6)
    notes = record(target)["cases"][FIRST]["notes"]
    assert "Heart has no contours" in notes
    assert "the structure BODY was left out, since Skin is the outline of the body" in notes
    assert "1 voxel of two organs; the one with the higher number is kept" in notes


def test_of_two_structure_sets_the_latest_counts(tmp_path):
    def change(source):
        folder = root(source) / FIRST
        wider = ROIS | {"Skin": boxes(0, 20, 0, 18, range(5))}
        patient(folder, files=again(folder), rois=wider, name="2-1.dcm", date="20200102", time="101500.5")
        patient(folder, files=again(folder), name="3-1.dcm", date="20190102", time="235959")

    target = converted("pediatric_ct_seg", tmp_path, change=change)
    label = read(target / f"labelsTr/{FIRST}.nii.gz")
    np.testing.assert_array_equal(label, painted(ROIS | {"Skin": boxes(0, 20, 0, 18, range(5))}))
    assert "the latest of 3 RTSTRUCTs was used" in record(target)["cases"][FIRST]["notes"]


def test_structure_sets_of_one_time_are_told(tmp_path):
    def change(source):
        patient(root(source) / FIRST, files=again(root(source) / FIRST), name="2-1.dcm")

    assert "have the same date (20200102101500), so none is the latest" in refused(
        "pediatric_ct_seg", tmp_path, change=change
    )


def redraw(change_rois, **more):
    def change(source):
        folder = root(source) / FIRST
        files = again(folder)
        shutil.rmtree(next(folder.glob("*/1.*")))
        patient(folder, files=files, rois=change_rois, **more)

    return change


def other_series(made):
    study = made.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()


def other_images(made):
    for contour in made.ROIContourSequence[0].ContourSequence:
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID = generate_uid()


@pytest.mark.parametrize("reference", [other_series, other_images])
def test_references_that_do_not_match_are_listed_or_matched_by_geometry(reference, tmp_path):
    change = redraw(ROIS, change=reference)
    target = converted("pediatric_ct_seg", tmp_path / "a", change=change)
    assert passes_check(target) == [SECOND]
    assert "does not belong to" in record(target)["excluded"][FIRST]
    target = converted("pediatric_ct_seg", tmp_path / "b", "--match=geometry", change=change)
    np.testing.assert_array_equal(read(target / f"labelsTr/{FIRST}.nii.gz"), painted())
    assert "matched by the positions of its contours" in record(target)["cases"][FIRST]["notes"][0]


def test_a_horseshoe_kidney_is_listed_or_background_on_request(tmp_path):
    change = redraw(ROIS | {"Horseshoe Kidney": boxes(2, 4, 12, 14, (1, 2))})
    target = converted("pediatric_ct_seg", tmp_path / "a", change=change)
    assert passes_check(target) == [SECOND]
    assert re.match(r"\S+\.dcm: has a horseshoe kidney", record(target)["excluded"][FIRST].split("/")[-1])
    target = converted("pediatric_ct_seg", tmp_path / "b", "--horseshoe_kidney=background", change=change)
    np.testing.assert_array_equal(read(target / f"labelsTr/{FIRST}.nii.gz"), painted())
    assert "its horseshoe kidney became background" in record(target)["cases"][FIRST]["notes"]


def test_an_empty_horseshoe_kidney_is_none(tmp_path):
    target = converted("pediatric_ct_seg", tmp_path, change=redraw(ROIS | {"Horseshoe Kidney": []}))
    assert passes_check(target) == [FIRST, SECOND]


@pytest.mark.parametrize("spelling", ["Adrenal Left", "LT ADRENAL", "adrenal_left"])
def test_spellings_that_are_known_are_one_structure(spelling, tmp_path):
    rois = {name: drawn for name, drawn in ROIS.items() if name != "Lt Adrenal"}
    target = converted("pediatric_ct_seg", tmp_path, change=redraw(rois | {spelling: boxes(12, 14, 14, 16, (2,))}))
    label = read(target / f"labelsTr/{FIRST}.nii.gz")
    assert (label == 1).sum() == 4


def test_hearts_that_are_cut_off_are_noted(tmp_path):
    def change(source):
        (root(source) / FIRST).rename(root(source) / "Pediatric-CT-SEG-BEC712BF")

    target = converted("pediatric_ct_seg", tmp_path, change=change)
    assert "its heart is cut off near the edge" in " ".join(
        record(target)["cases"]["Pediatric-CT-SEG-BEC712BF"]["notes"]
    )


def tilt(source):
    def move(ds, k):
        ds.ImagePositionPatient = [0.0, 0.5 * k, 2.0 * k]

    change_files(again(root(source) / FIRST), move)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            redraw(ROIS | {"Appendix": boxes(2, 4, 2, 4, (1,))}),
            "has the structure 'Appendix', which this data set does not",
        ),
        (lambda s: shutil.rmtree(next((root(s) / FIRST).glob("*/1.*"))), "holds no RTSTRUCT; download the rest"),
        (
            lambda s: shutil.rmtree(next((root(s) / FIRST).glob("*/2.*"))),
            "should hold one CT series to which its RTSTRUCT",
        ),
        (lambda s: again(root(s) / FIRST)[2].unlink(), "lacks slices"),
        (lambda s: truncate(again(root(s) / FIRST)[2]), "truncated"),
        (lambda s: truncate(next((root(s) / FIRST).glob("*/1.*/*.dcm"))), "RTSTRUCT"),
        (lambda s: [f.unlink() for f in (root(s) / FIRST).rglob("*.dcm")], "holds no .dcm files; download it again"),
    ],
)
def test_defects_are_told_or_listed(change, words, tmp_path):
    message = refused("pediatric_ct_seg", tmp_path / "a", change=change)
    assert words in message
    assert FIRST in message
    target, reasons = excluded("pediatric_ct_seg", tmp_path / "b", change=change)
    assert [*reasons] == [FIRST]
    assert passes_check(target) == [SECOND]


def test_a_tilted_gantry_is_not_written_as_if_it_were_straight(tmp_path):
    target, reasons = excluded("pediatric_ct_seg", tmp_path, change=tilt)
    assert "has axes that are 14.0° off right angles" in reasons[FIRST]
    assert passes_check(target) == [SECOND]


def test_the_manifest_folder_above_is_accepted(tmp_path):
    def change(source):
        (source / "manifest-1").mkdir()
        root(source).rename(source / "manifest-1" / "Pediatric-CT-SEG")

    assert passes_check(converted("pediatric_ct_seg", tmp_path, change=change)) == [FIRST, SECOND]


def test_each_files_class_decides_not_its_name(tmp_path):
    def change(source):
        file = next((root(source) / FIRST).glob("*/1.*/*.dcm"))
        assert pydicom.dcmread(file).Modality == "RTSTRUCT"
        file.rename(next((root(source) / FIRST).glob("*/2.*")) / "1-001.dcm")

    assert passes_check(converted("pediatric_ct_seg", tmp_path, change=change)) == [FIRST, SECOND]
