import os
import shutil
from pathlib import Path

import itk
import numpy as np
import pytest
from dicom_helpers import numbers, refused, write_series

from mednextv2.data import choose_series, find_series, read_series, read_volume
from mednextv2.images import dicom

DATA = os.environ.get("MEDNEXTV2_DATA")


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA, reason="MEDNEXTV2_DATA is not set")
def test_a_compressed_series_of_a_scanner_without_uids():
    folder = Path(DATA) / "ct_example" / "dicom"
    (series,) = choose_series(folder)
    array, affine = read_series(series)
    image = itk.imread(series.files, itk.F)
    assert len(series.files) == 20
    assert series.uid == ""
    assert np.array_equal(array, itk.array_from_image(image).T)
    # spacing 0.9765625 and slices 2 mm apart, thickness 3 mm: positions count
    assert np.allclose(affine, [[-0.9765625, 0, 0, 249.51171875], [0, -0.9765625, 0, 437.51171875],
                                [0, 0, 2, -804.5], [0, 0, 0, 1]])  # fmt: skip


def test_files_of_a_series_may_lie_in_subfolders_and_have_neighbours(tmp_path):
    files = write_series(tmp_path, numbers())
    (tmp_path / "sub").mkdir()
    files[2].rename(tmp_path / "sub" / "x.dcm")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden.dcm").write_text("hello")
    assert read_volume(tmp_path)[0].shape == (9, 7, 6)


# --- choosing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path):
    """An arterial and a venous series, and a localizer."""
    write_series(tmp_path / "a", numbers(), SeriesNumber=2, SeriesDescription="Arterial 2.0", SeriesInstanceUID="1.5.2")
    write_series(tmp_path / "b", numbers(seed=1), SeriesNumber=12, SeriesDescription="Venous 2.0",
                 SeriesInstanceUID="1.5.12")  # fmt: skip
    write_series(tmp_path / "c", numbers(), SeriesNumber=1, SeriesDescription="Topogram", SeriesInstanceUID="1.5.1",
                 ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])  # fmt: skip
    return tmp_path


def test_a_study_is_listed_and_asks_which(study):
    message = refused(study)
    assert "--series" in message
    for text in ('- 2 "Arterial 2.0": CT, 9×7×6, UID 1.5.2', '- 12 "Venous 2.0"', '- 1 "Topogram"', "is a localizer"):
        assert text in message
    assert [s.slices[0].number for s in find_series(study)] == [1, 2, 12]


@pytest.mark.parametrize("word", [2, "2", "1.5.2", "Arterial 2.0", "arterial"])
def test_a_series_is_chosen_by_number_uid_or_description(study, word):
    assert [s.uid for s in choose_series(study, word)] == ["1.5.2"]


def test_all_series_that_are_volumes(study):
    assert [s.uid for s in choose_series(study, "all")] == ["1.5.2", "1.5.12"]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("a", "fits several"),
        ("lung", "fits none"),
        (1, "is a localizer"),
        (0, "fits none"),  # not the 0 of "Arterial 2.0"
        ("2.0", "fits none"),
        ("5.2", "fits none"),
        (True, "needs a series' number"),
        ("", "needs a series' number"),
    ],
)
def test_a_series_that_is_not_one(study, word, text):
    assert text in refused(study, word)


def test_a_series_without_a_number_is_not_called_none(tmp_path):
    for folder, number in (("a", ""), ("b", 4)):
        write_series(tmp_path / folder, numbers(), SeriesNumber=number)
    assert "fits none" in refused(tmp_path, "None")


def test_localizers_in_a_series_are_left_out(tmp_path):
    def first_is_localizer(ds, k):
        if k == 0:
            ds.ImageType, ds.ImageOrientationPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [0, 1, 0, 0, 0, -1]

    write_series(tmp_path, numbers(), change=first_is_localizer)
    array, _ = read_volume(tmp_path)
    assert np.array_equal(array, numbers()[..., 1:] - 1024.0)


def test_other_objects_of_a_study_are_no_series(tmp_path):
    def report(ds, k):
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.22"
        del ds.PixelData
        return k == 0

    write_series(tmp_path / "a", numbers(), change=report)
    write_series(tmp_path / "b", numbers())
    assert len(find_series(tmp_path)) == 1
    assert "holds no DICOM images" in refused(tmp_path / "a")


def test_series_without_uids_are_told_apart_by_the_rest(tmp_path):
    for number in (2, 3):
        write_series(tmp_path / str(number), numbers(), SeriesNumber=number, SeriesInstanceUID="")
    assert [len(s.files) for s in find_series(tmp_path)] == [6, 6]


# --- what is no volume -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "length", [100, 166, 300, -20], ids=["no header", "a tag", "half a header", "half of the pixels"]
)
def test_a_truncated_file_is_named(tmp_path, length):
    files = write_series(tmp_path, numbers())
    files[2] = files[2].rename(files[2].with_suffix(".dcm"))
    files[2].write_bytes(files[2].read_bytes()[:length])
    message = refused(tmp_path)
    assert "1 of 6 DICOM files cannot be read (IM0002.dcm)" in message
    assert "truncated" in message


def test_pixels_of_another_size_than_the_header_says(tmp_path, monkeypatch):
    write_series(tmp_path, numbers())
    monkeypatch.setattr(dicom, "_read_pixels", lambda slices: [np.zeros((1, 9), np.float32)] * len(slices))
    assert "IM0000: holds 9×1 pixels, but its header says 9×7" in refused(tmp_path)


def test_pydicom_2_is_too_old_for_series(tmp_path, monkeypatch):
    write_series(tmp_path, numbers())
    monkeypatch.setattr(dicom.pydicom, "__version__", "2.4.5")
    assert "IM0000: DICOM series are read with pydicom 3 or newer, and pydicom 2.4.5 is installed" in refused(tmp_path)


def test_a_file_that_only_says_so_is_named(tmp_path):
    shutil.copy(__file__, tmp_path / "a.dcm")
    assert "a.dcm" in refused(tmp_path)


def test_a_folder_that_cannot_be_entered_is_not_left_out(tmp_path, monkeypatch):
    write_series(tmp_path, numbers())
    (tmp_path / "more").mkdir()
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "more":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="more"):
        find_series(tmp_path)
