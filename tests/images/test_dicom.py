import os
import shutil
import subprocess
import sys
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from dicom_helpers import numbers, write_series
from pydicom import dcmread, dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, RLELossless

from mednextv2.data import choose_series, find_series, read_series, read_volume
from mednextv2.errors import InputError
from mednextv2.images import dicom
from mednextv2.images.dicom_file import read_slices

ROTATION = nib.eulerangles.euler2mat(0.3, -0.2, 0.5)
AFFINES = {
    "axial": np.diag([0.8, 0.9, 2.0, 1.0]),
    "scanner": nib.affines.from_matvec(np.diag([-0.98, -0.98, 3.0]), [250.0, 437.0, -804.5]),
    "feet first": nib.affines.from_matvec(np.diag([-0.98, -0.98, -3.0]), [250.0, 437.0, 804.5]),
    "sagittal": nib.affines.from_matvec(np.array([[0, 0, 1.5], [-0.9, 0, 0], [0, -1.1, 0]]), [5.0, -6.0, 7.0]),
    "oblique": nib.affines.from_matvec(ROTATION @ np.diag([0.8, 1.1, 2.5]), [-20.0, 13.0, 40.0]),
}
DATA = os.environ.get("MEDNEXTV2_DATA")


def refused(folder, series=None):
    with pytest.raises(InputError) as caught:
        [read_series(found) for found in choose_series(folder, series)]
    assert str(folder) in str(caught.value)
    return str(caught.value)


def world(array, affine):
    """Return a lookup of values by their place in mm, whatever the order of the axes."""
    where = np.indices(array.shape).reshape(3, -1)
    places = np.round((affine[:3, :3] @ where).T + affine[:3, 3], 2) + 0.0
    return {tuple(p): v for p, v in zip(places.tolist(), array.reshape(-1).tolist(), strict=True)}


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_voxels_are_where_itks_series_reader_puts_them(tmp_path, affine):
    write_series(tmp_path, numbers(), affine, order=[3, 0, 5, 1, 4, 2])
    array, found = read_volume(tmp_path)
    image = itk.imread(choose_series(tmp_path)[0].files, itk.F)  # ITK wants them sorted along the normal
    lps = np.eye(4)
    lps[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    expected = world(itk.array_from_image(image).T, np.diag([-1, -1, 1, 1]) @ lps)
    assert array.dtype == np.float32
    assert world(array, found) == expected
    assert np.linalg.det(found[:3, :3]) != 0
    assert world(numbers() - 1024.0, affine) == expected


def test_each_slice_is_rescaled_by_its_own_header(tmp_path):
    def slopes(ds, k):
        ds.RescaleSlope, ds.RescaleIntercept = 0.5 * (k + 1), 10 * k

    write_series(tmp_path, numbers(), change=slopes)
    array, _ = read_volume(tmp_path)
    expected = np.stack([numbers()[..., k] * 0.5 * (k + 1) + 10 * k for k in range(6)], axis=-1)
    np.testing.assert_allclose(array, expected, rtol=1e-6)


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


CHARSETS = [
    ("ISO_IR 100", "Schädel"),
    ("ISO_IR 192", "頭部"),
    ("ISO_IR 144", "Голова"),
    ("GB18030", "头部"),
    ("ISO_IR 13", "ｱｲｳ"),
    (["", "ISO 2022 IR 87"], "頭部 CT"),  # as Japanese scanners write it: escape sequences switch between the two
    (["", "ISO 2022 IR 149"], "김희중"),
]


@pytest.mark.parametrize(("charset", "name"), CHARSETS)
def test_descriptions_in_their_character_set(tmp_path, charset, name):
    write_series(tmp_path, numbers(), SpecificCharacterSet=charset, SeriesDescription=name)
    assert choose_series(tmp_path, name)[0].label == f'3 "{name}"'


def rewrite(files, old, new):
    """Put other bytes of the same length into files."""
    assert len(old) == len(new)
    for file in files:
        content = file.read_bytes()
        assert old in content
        file.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("written", "charset", "read"),
    [
        ("Schädel 1  ".encode(), None, "Schädel 1"),
        ("Schädel 12  ".encode("latin-1"), None, "Sch\ufffddel 12"),
        ("Schädel 12  ".encode("latin-1"), "ISO_IR 999", "Schädel 12"),
        (b"Abdo\\n 2.0  ", None, "Abdo\\n 2.0"),
    ],
    ids=["UTF-8 that is not declared", "latin-1 that is not declared", "no such character set", "two values"],
)
def test_descriptions_that_are_odd(tmp_path, written, charset, read):
    tags = {} if charset is None else {"SpecificCharacterSet": "ISO_IR 100"}
    files = write_series(tmp_path, numbers(), **tags)
    rewrite(files, b"Abdomen 2.0 ", written)
    if charset:
        rewrite(files, b"ISO_IR 100", charset.encode())
    assert choose_series(tmp_path)[0].slices[0].description == read


def test_files_without_a_preamble(tmp_path):
    for file in write_series(tmp_path, numbers()):
        ds = dcmread(file)
        del ds.file_meta
        ds.preamble = None
        file.unlink()
        dcmwrite(file.with_suffix(".dcm"), ds, implicit_vr=False, little_endian=True)
    assert np.array_equal(read_volume(tmp_path)[0], numbers() - 1024.0)


def test_an_index_of_files_is_no_series(tmp_path):
    write_series(tmp_path, numbers())
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MediaStorageDirectoryStorage, ExplicitVRLittleEndian
    index = FileDataset("DICOMDIR", {}, file_meta=meta, preamble=bytes(128))
    index.FileSetID, index.DirectoryRecordSequence = "DISC", []
    dcmwrite(tmp_path / "DICOMDIR", index)
    assert read_volume(tmp_path)[0].shape == (9, 7, 6)


def test_odd_values_are_not_announced_one_by_one(tmp_path, caplog, recwarn):
    files = write_series(tmp_path, numbers(), SpecificCharacterSet="ISO_IR 100", SeriesDescription="Schädel")
    rewrite(files, b"ISO_IR 100", b"ISO_IR 999")
    rewrite(files, b"20200101", b"YESTERDY")
    rewrite(files, b"1.2.3.4\0", b"1.2.3.4x")
    choose_series(tmp_path)
    assert [str(w.message) for w in recwarn if "Swig" not in str(w.message)] == []
    assert caplog.records == []


@pytest.mark.parametrize("other", [b"0,9\\0,8", b"nan\\0.8", b"1\\2\\3.1", b"       "])
def test_numbers_that_are_none_are_missing(tmp_path, other):
    files = write_series(tmp_path, numbers())
    rewrite(files[1:2], b"0.9\\0.8", other)
    assert "has no pixel spacing in IM0001" in refused(tmp_path)


@pytest.mark.parametrize("number", [b"3a", b".5", b"  "])
def test_a_series_number_that_is_none(tmp_path, number):
    rewrite(write_series(tmp_path, numbers(), SeriesDescription=""), b"IS\x02\x003 ", b"IS\x02\x00" + number)
    (series,) = find_series(tmp_path)
    assert series.slices[0].number is None
    assert series.label == series.uid


def test_itk_does_not_move_the_working_directory_under_other_threads(tmp_path):
    write_series(tmp_path / "dicom", numbers((40, 40, 60)))
    array = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    for name in ("a.nrrd", "b.mha", "c.mha", "d.nrrd"):
        itk.imwrite(itk.image_from_array(array), tmp_path / name)
    code = (
        "from concurrent.futures import ThreadPoolExecutor; from mednextv2.data import read_volume\n"
        "from mednextv2.images.itk_loading import load_itk_for\n"
        "files = ['dicom', 'a.nrrd', 'b.mha', 'c.mha', 'd.nrrd'] * 3\n"
        "load_itk_for(files)\n"
        "with ThreadPoolExecutor(4) as pool: print(len(list(pool.map(read_volume, files))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "15", done.stderr[-1000:]


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


def without(*gone):
    return lambda ds, k: k not in gone


def moved(distance, *which, axis=2):
    def change(ds, k):
        if k in which:
            position = list(ds.ImagePositionPatient)
            position[axis] += distance
            ds.ImagePositionPatient = position

    return change


def lying(ds, k):
    ds.ImagePositionPatient = [ds.ImagePositionPatient[0], ds.ImagePositionPatient[1] + 4.0 * k, 2.0 * k]


def set_in(which, **tags):
    def change(ds, k):
        if k in which:
            for tag, value in tags.items():
                setattr(ds, tag, value)

    return change


def without_tag(tag):
    def change(ds, k):
        if k == 1:
            delattr(ds, tag)

    return change


def palette(ds, k):
    ds.PhotometricInterpretation, ds.PixelRepresentation = "PALETTE COLOR", 0
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [2048, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", np.arange(2048, dtype="<u2").tobytes())


EVERY = range(6)
DEFECTS = {
    "missing slice": (without(2), "lacks slices (1 between IM0001 and IM0003)"),
    "missing slices": (without(2, 3), "lacks slices (2 between IM0001 and IM0004)"),
    "two distances": (moved(2.5, 4, 5), "irregular distances, 2.00 to 4.50 mm"),
    "slightly irregular": (moved(0.3, 3), "irregular distances"),
    "lying slices": (lying, "sheared by 63.4°, more than any gantry"),
    "two studies": (set_in([4], StudyInstanceUID="1.2.9"), "different studies (IM0000 and IM0004)"),
    "two frames of reference": (set_in([4], FrameOfReferenceUID="1.2.9"), "different frames of reference"),
    "sideways": (moved(30.0, 2, 3, axis=0), "displaced sideways (IM0002 by 30.0 mm)"),
    "parallel directions": (set_in(EVERY, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "orientation or a pixel"),
    "palette": (palette, "is in colour (PALETTE COLOR"),
    "copies": (moved(-2.0, 3), "several images at one position (among them IM0002, IM0003)"),
    "4D": (lambda ds, k: setattr(ds, "ImagePositionPatient", [0, 0, 2.0 * (k % 3)]), "several images at one position"),
    "two pixel spacings": (set_in([4], PixelSpacing=[0.5, 0.5]), "different pixel spacings (IM0000 and IM0004)"),
    "two orientations": (set_in([4], ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "different orientations"),
    "two sizes": (set_in([4], Rows=9, Columns=7), "different sizes"),
    "one slice": (without(1, 2, 3, 4, 5), "has one slice"),
    "no position": (without_tag("ImagePositionPatient"), "has no position and orientation in IM0001"),
    "no spacing": (without_tag("PixelSpacing"), "has no pixel spacing in IM0001"),
    "localizers": (set_in(EVERY, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "is a localizer"),
    "mosaic": (set_in(EVERY, ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"]), "is a mosaic"),
    "no direction": (set_in(EVERY, ImageOrientationPatient=[0, 0, 0, 0, 0, 0]), "orientation or a pixel spacing"),
}


@pytest.mark.parametrize(("change", "text"), DEFECTS.values(), ids=DEFECTS)
def test_a_series_that_is_no_volume_is_refused(tmp_path, change, text):
    write_series(tmp_path, numbers(), change=change)
    assert text in refused(tmp_path)


def test_rounded_positions_are_regular(tmp_path):
    write_series(tmp_path, numbers(), change=moved(0.02, 1, 4))
    assert read_volume(tmp_path)[0].shape == (9, 7, 6)


def test_colour_is_refused(tmp_path):
    def rgb(ds, k):
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.PixelData = bytes(9 * 7 * 3 + 1)

    write_series(tmp_path, numbers(), change=rgb)
    assert "is in colour (RGB, 3 samples a pixel)" in refused(tmp_path)


def test_frames_without_positions_are_refused(tmp_path):
    def frames(ds, k):
        ds.NumberOfFrames = 2
        ds.PixelData = ds.PixelData * 2
        return k == 0

    write_series(tmp_path, numbers(), change=frames)
    assert "has no position and orientation in IM0000" in refused(tmp_path)


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


@pytest.mark.parametrize("compressed", [False, True])
def test_wherever_a_file_ends_too_early_it_is_found(tmp_path, compressed):
    (file,) = write_series(tmp_path, numbers((40, 60, 1)))  # more pixels than are read with the header
    if compressed:
        ds = dcmread(file)
        ds.compress(RLELossless)
        ds.save_as(file)
    whole = file.read_bytes()
    read_slices(str(file))
    for length in [*range(132, 1200), *range(1200, len(whole), 97), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(Exception):  # noqa: B017, PT011  # pydicom has many kinds
            read_slices(str(file))


def test_pixels_of_another_size_than_the_header_says(tmp_path, monkeypatch):
    write_series(tmp_path, numbers())
    monkeypatch.setattr(dicom, "read_pixels", lambda slices: [np.zeros((1, 9), np.float32)] * len(slices))
    assert "IM0000: holds 9×1 pixels, but its header says 9×7" in refused(tmp_path)


def test_a_file_that_only_says_so_is_named(tmp_path):
    shutil.copy(__file__, tmp_path / "a.dcm")
    assert "a.dcm" in refused(tmp_path)
