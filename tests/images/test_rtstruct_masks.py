"""RTSTRUCT as masks: exact on generated contours, and equal to independent masks of real contours."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_helpers import change_files, numbers, write_series
from pydicom.uid import generate_uid
from rtstruct_helpers import circle, rectangle, write_structures

from mednextv2.data import LabelScheme, choose_series, find_series, read_series
from mednextv2.errors import InputError
from mednextv2.images.rtstruct import write_rtstruct
from mednextv2.images.rtstruct_masks import ContourGrid, is_structure_set, read_structure_set

SHAPE = (20, 16, 6)
SPACING = (0.8, 0.9, 2.0)


def series_of(folder, affine=None, **tags):
    files = write_series(folder, numbers(SHAPE), np.diag([*SPACING, 1]) if affine is None else affine, **tags)
    (series,) = choose_series(folder)
    return files, series


def position(column, row):
    """Return millimetres in LPS of a place on the helper's grid, whose axes run to the right and to the front."""
    return (-SPACING[0] * column, -SPACING[1] * row)


def rows(low, high, k):
    """Return the outline of the pixels from `low` to before `high`, (column, row) each."""
    return rectangle(position(low[0] - 0.5, low[1] - 0.5), position(high[0] - 0.5, high[1] - 0.5), SPACING[2] * k)


def fill(tmp_path, contours, match="references", **more):
    files, series = series_of(tmp_path / "ct")
    structures = read_structure_set(write_structures(tmp_path / "rs.dcm", files, {"Organ": contours}, **more))
    grid = ContourGrid(structures, series, match)
    mask, notes = grid.fill(structures.rois[0])
    assert mask.shape == SHAPE
    return mask, [*grid.notes, *notes]


def refused(tmp_path, contours, match="references", **more):
    with pytest.raises(InputError) as caught:
        fill(tmp_path, contours, match, **more)
    return str(caught.value)


def test_a_circle_is_filled_on_its_slice(tmp_path):
    mask, notes = fill(tmp_path, [circle(position(9.3, 7.1), 4.4, 4.0, 4000)])
    x, y = np.indices(SHAPE[:2])
    inside = ((x - 9.3) * SPACING[0]) ** 2 + ((y - 7.1) * SPACING[1]) ** 2 < 4.4**2
    np.testing.assert_array_equal(mask[:, :, 2], inside)
    assert not mask[:, :, [0, 1, 3, 4, 5]].any()
    assert notes == []


def test_holes_islands_and_neighbours_are_right(tmp_path):
    contours = [
        rows((2, 2), (14, 12), 1),
        rows((4, 4), (12, 10), 1),
        rows((6, 5), (8, 8), 1),
        rows((15, 2), (17, 4), 1),
    ]
    expected = np.zeros(SHAPE, bool)
    expected[2:14, 2:12, 1] = True
    expected[4:12, 4:10, 1] = False
    expected[6:8, 5:8, 1] = expected[15:17, 2:4, 1] = True
    mask, notes = fill(tmp_path, contours)
    np.testing.assert_array_equal(mask, expected)
    assert notes == []


def test_what_our_writer_writes_comes_back(tmp_path):
    """On oblique and tilted grids, too; voxels that touch by a corner, at the border and in holes."""
    labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    turned = nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([0.8, 1.1, 2.5])
    tilted = np.array([[0.8, 0, 0, 5], [0, 0.9, 0.7, -3], [0, 0, 2.0, 8], [0, 0, 0, 1.0]])
    for name, affine in {"oblique": nib.affines.from_matvec(turned, [-20, 13, 40]), "tilted": tilted}.items():
        _, series = series_of(tmp_path / name, affine)
        file = write_rtstruct(tmp_path / f"{name}.dcm", labels, LabelScheme(["background", "a", "b"]), series)
        structures = read_structure_set(file)
        grid = ContourGrid(structures, series)
        assert [roi.name for roi in structures.rois] == ["a", "b"]
        for value, roi in enumerate(structures.rois, start=1):
            mask, notes = grid.fill(roi)
            np.testing.assert_array_equal(mask, labels == value)
            assert notes == []


def test_contours_between_slices_go_to_the_nearest_and_that_is_said(tmp_path):
    contours = [rows((2, 2), (9, 9), 1.3), rows((3, 3), (5, 5), 0.9), rows((4, 4), (8, 8), 3)]
    mask, notes = fill(tmp_path, contours)
    assert mask[:, :, 1].sum() == 4  # 0.9 is nearer to slice 1 than 1.3 is
    assert mask[:, :, 3].sum() == 16
    assert notes == ["Organ: 1 × contour left out, since another one is nearer to its slice"]
    mask, notes = fill(tmp_path / "b", contours[:1])
    assert mask[:, :, 1].sum() == 49
    assert notes == ["Organ: 1 × contour between slices, taken to the nearest one"]


def test_what_is_no_closed_contour_within_the_images_is_left_out_and_said(tmp_path):
    good = rows((2, 2), (9, 9), 1)
    contours = [
        good, good[::-1], (good[:1], "POINT"), (good, "OPEN_PLANAR"), (good[:2], "CLOSED_PLANAR"),
        rows((2, 2), (9, 9), 7), rows((-9, 2), (-2, 5), 1), rows((6, 6), (12, 12), 1),
    ]  # fmt: skip
    mask, notes = fill(tmp_path, contours, change=without_images)
    assert mask.sum() == 49 + 36 - 2 * 9
    assert {note.removeprefix("Organ: ") for note in notes} == {
        "1 × POINT left out", "1 × OPEN_PLANAR left out", "1 × closed contour of fewer than 3 points left out",
        "2 × contour outside of the images left out", "1 × contour that is there twice, counted once",
        "9 × voxel left out, where contours overlap without one being within the other",
    }  # fmt: skip


def test_a_structure_without_contours_is_empty_and_said(tmp_path):
    files, series = series_of(tmp_path / "ct")
    drawn = {"Liver  ": [rows((2, 2), (9, 9), 1)], "Heart": []}
    structures = read_structure_set(write_structures(tmp_path / "rs.dcm", files, drawn, date="20210304", time="1112.5"))
    grid = ContourGrid(structures, series)
    assert [roi.name for roi in structures.rois] == ["Liver", "Heart"]
    assert structures.date == "202103041112.5"
    mask, notes = grid.fill(structures.rois[1])
    assert not mask.any()
    assert notes == ["Heart has no contours"]


def test_corners_on_centres_fill_as_many_pixels_as_their_area(tmp_path):
    """Coordinates in millimetres have few digits, so corners lie on either side of the centres that they mean."""
    affine = np.diag([0.7324219, 0.7324219, 2.0, 1.0])
    files, series = series_of(tmp_path / "ct", affine)
    noise = np.random.default_rng(0).uniform(-1e-5, 1e-5, (4, 3))
    corners = rectangle((-3 * 0.7324219, -2 * 0.7324219), (-11 * 0.7324219, -9 * 0.7324219), 2.0) + noise
    structures = read_structure_set(write_structures(tmp_path / "rs.dcm", files, {"A": [corners]}))
    mask, _ = ContourGrid(structures, series).fill(structures.rois[0])
    assert mask.sum() == 8 * 7


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "converting.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    files, _ = series_of(tmp_path / "ct_folder")
    write_structures(tmp_path / "RS.dcm", files, {"A": [rows((2, 2), (9, 9), 1)]})
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    assert found["mask"].sum() == 49
    assert found["notes"] == []


def other_series(made):
    made.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[
        0
    ].SeriesInstanceUID = generate_uid()


def other_frame(made):
    for item in (*made.ReferencedFrameOfReferenceSequence, *made.StructureSetROISequence):
        key = "FrameOfReferenceUID" if "FrameOfReferenceUID" in item else "ReferencedFrameOfReferenceUID"
        setattr(item, key, "1.2.3.99")


def no_references(made):
    del made.ReferencedFrameOfReferenceSequence


def other_images(made):
    for contour in made.ROIContourSequence[0].ContourSequence:
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID = generate_uid()


def without_images(made):
    for contour in made.ROIContourSequence[0].ContourSequence:
        del contour.ContourImageSequence


def other_slice(made):
    first, second = made.ROIContourSequence[0].ContourSequence
    one, two = (c.ContourImageSequence[0] for c in (first, second))
    one.ReferencedSOPInstanceUID, two.ReferencedSOPInstanceUID = (
        two.ReferencedSOPInstanceUID,
        one.ReferencedSOPInstanceUID,
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_series, "refers to another series"),
        (other_frame, "refers to another frame of reference"),
        (no_references, "refers to no series"),
        (other_images, "has a contour of Organ that refers to an image which the series does not have"),
        (other_slice, "has a contour of Organ that refers to slice 4, but lies at slice 2.00"),
    ],
)
def test_references_to_something_else_are_refused_or_matched_by_geometry(change, words, tmp_path):
    contours = [rows((2, 2), (9, 9), 1), rows((2, 2), (9, 9), 3)]
    message = refused(tmp_path / "a", contours, change=change)
    assert words in message
    assert "match them by geometry" in message
    mask, notes = fill(tmp_path / "b", contours, "geometry", change=change)
    assert mask.sum() == 2 * 49
    assert notes == [f"the structure set {words}; it was matched by the positions of its contours"]
    off = [rows((2, 2), (9, 9), 1.4), rows((2, 2), (9, 9), 3)]
    if change is not other_slice:
        assert "and 1 of 2 contours do not lie on slices within its images" in refused(
            tmp_path / "c", off, "geometry", change=change
        )
    assert "1 of 2 contours do not lie on slices" in refused(
        tmp_path / "d", [rows((-3, 2), (9, 9), 1), contours[1]], "geometry", change=change
    )


def test_contours_that_cannot_be_on_the_slices_are_refused(tmp_path):
    slanted = rows((2, 2), (9, 9), 2)
    slanted[:, 2] += [0, 0, 1, 1]
    assert "a contour of Organ is not parallel to the slices" in refused(tmp_path / "a", [slanted])
    away = [rows((2, 2), (9, 9), 1) + np.array([500, 0, 0])]
    assert "none of its contours lies within" in refused(tmp_path / "b", away)
    with pytest.raises(InputError, match="should be references or geometry"):
        fill(tmp_path / "c", [rows((2, 2), (9, 9), 1)], "name")


def test_files_that_are_no_structure_set_are_refused(tmp_path):
    files, _ = series_of(tmp_path / "ct")
    good = write_structures(tmp_path / "rs.dcm", files, {"A": [rows((2, 2), (9, 9), 1)]})
    assert is_structure_set(good)
    assert not is_structure_set(files[0])
    (tmp_path / "text.dcm").write_text("text")
    for file, words in {
        files[0]: "is no RTSTRUCT",
        tmp_path / "text.dcm": "is no",
        tmp_path / "no": "no such file",
    }.items():
        with pytest.raises(InputError, match=words):
            read_structure_set(file)


@pytest.mark.parametrize("data", [["1", "2"], ["1", "2", "x"], ["1", "2", "inf"]])
def test_points_that_are_none_are_refused(data, tmp_path):
    files, _ = series_of(tmp_path / "ct")
    file = write_structures(tmp_path / "rs.dcm", files, {"A": [rows((2, 2), (9, 9), 1)]})
    raw = pydicom.dcmread(file)
    raw.ROIContourSequence[0].ContourSequence[0].ContourData = ["11", "22", "33"]
    raw.save_as(file)
    old, new = b"11\\22\\33", "\\".join(data).encode().ljust(8)
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))
    with pytest.raises(InputError, match="a contour of A has"):
        read_structure_set(file)


def test_a_truncated_file_is_refused(tmp_path):
    """Of pydicom alone, it would be one with fewer structures."""
    files, _ = series_of(tmp_path / "ct")
    file = write_structures(tmp_path / "rs.dcm", files, {"A": [rows((2, 2), (9, 9), k) for k in range(5)]})
    content = file.read_bytes()
    for part in (0.3, 0.6, 0.9, 0.999):
        file.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(InputError, match=r"rs\.dcm: is (truncated|no RTSTRUCT, or is damaged)"):
            read_structure_set(file)
    file.write_bytes(content[: content.rindex(b"\x06\x30\x39\x00")])  # before the contours
    with pytest.raises(InputError, match=r"has no structures or no contours; it may be truncated"):
        read_structure_set(file)


_DATA = os.environ.get("MEDNEXTV2_DATA")


@pytest.mark.skipif(not _DATA, reason="MEDNEXTV2_DATA names no folder of real data")
@pytest.mark.parametrize("patient", ["STS_001", "STS_002"])
@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_real_contours_are_the_independent_masks(patient, modality):
    """Contours of a soft-tissue sarcoma, whose references are those of the uncropped series."""
    folder = Path(_DATA, "mirp_sts", patient, modality)
    (file,) = (folder / "dicom/mask").iterdir()
    (series,) = find_series(folder / "dicom/image")
    structures = read_structure_set(file)
    with pytest.raises(InputError, match="refers to another series"):
        ContourGrid(structures, series)
    grid = ContourGrid(structures, series, "geometry")
    assert "was matched by the positions" in grid.notes[0]
    (roi,) = structures.rois
    assert roi.name.startswith("GTV_Mass")
    mask, notes = grid.fill(roi)
    reference = nib.load(next((folder / "nifti/mask").iterdir()))
    np.testing.assert_allclose(read_series(series)[1], reference.affine, atol=1e-3)
    expected = np.asarray(reference.dataobj) > 0
    dice = 2 * (mask & expected).sum() / (mask.sum() + expected.sum())
    assert notes == []
    assert dice == 1.0 if modality != "PET" else dice > 0.99  # PET has pixels of 5 mm, with centres on edges


def test_the_series_must_have_its_slices(tmp_path):
    files, _ = series_of(tmp_path / "ct")
    file = write_structures(tmp_path / "rs.dcm", files, {"A": [rows((2, 2), (9, 9), 1)]})
    change_files(files[2:3], lambda ds, k: setattr(ds, "ImagePositionPatient", [0, 0, 99]))
    (series,) = find_series(tmp_path / "ct")
    with pytest.raises(InputError, match=r"lacks slices|irregular"):
        ContourGrid(read_structure_set(file), series)
