"""What the header of one DICOM file says."""

import numpy as np
import pytest
from dicom_helpers import numbers, refused, write_series
from pydicom import dcmread, dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, RLELossless

from mednextv2.data import choose_series, find_series, read_volume
from mednextv2.images.dicom_file import read_slices

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


def test_frames_without_positions_are_refused(tmp_path):
    def frames(ds, k):
        ds.NumberOfFrames = 2
        ds.PixelData = ds.PixelData * 2
        return k == 0

    write_series(tmp_path, numbers(), change=frames)
    assert "has no position and orientation in IM0000" in refused(tmp_path)


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
