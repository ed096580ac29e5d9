"""What the header of one DICOM file says."""

import io
import struct

import numpy as np
import pytest
from dicom_helpers import numbers, refused, write_enhanced, write_series
from pydicom import dcmread, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    ParametricMapStorage,
    RLELossless,
    SegmentationStorage,
)

from mednextv2.data import choose_series, find_series, read_series, read_volume
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


# --- files without a preamble, and other files ------------------------------------------------------------------------


@pytest.mark.parametrize("with_meta", [True, False])
@pytest.mark.parametrize("implicit", [True, False])
def test_files_that_begin_with_their_first_element(tmp_path, with_meta, implicit):
    for file in write_series(tmp_path, numbers(), SpecificCharacterSet="ISO_IR 192", SeriesDescription="Schädel"):
        ds = dcmread(file)
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        if with_meta:
            content = io.BytesIO()
            dcmwrite(content, ds, enforce_file_format=True)
            file.write_bytes(content.getvalue()[132:])
        else:
            del ds.file_meta
            ds.preamble = None
            file.unlink()
            dcmwrite(file, ds, implicit_vr=implicit, little_endian=True)
        assert file.read_bytes()[:4] == (b"\x02\0\0\0" if with_meta else b"\x08\0\x05\0")
    (series,) = choose_series(tmp_path)
    assert series.label == '3 "Schädel"'
    assert np.array_equal(read_series(series)[0], numbers() - 1024.0)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x08\x00", b"\x02\x00\x00\x00UL\x04\x00", b"hello " * 100, bytes(4096), b"\x08\0\x05\0" + b"\xff" * 900,
     b"\x08\0\x10\0" * 300, b"%PDF-1.4 " + bytes(200)],
)  # fmt: skip
def test_files_that_are_no_dicom_are_passed_over(tmp_path, content):
    write_series(tmp_path, numbers())
    (tmp_path / "other").write_bytes(content)
    assert np.array_equal(read_volume(tmp_path)[0], numbers() - 1024.0)


OTHERS = {
    "report": "1.2.840.10008.5.1.4.1.1.88.33", "key objects": "1.2.840.10008.5.1.4.1.1.88.59",
    "presentation state": "1.2.840.10008.5.1.4.1.1.11.1", "PDF": "1.2.840.10008.5.1.4.1.1.104.1",
    "waveform": "1.2.840.10008.5.1.4.1.1.9.1.1", "raw data": "1.2.840.10008.5.1.4.1.1.66",
    "spectroscopy": "1.2.840.10008.5.1.4.1.1.4.2", "protocol": "1.2.840.10008.5.1.4.1.1.200.1",
    "annotations": "1.2.840.10008.5.1.4.1.1.91.1", "hanging protocol": "1.2.840.10008.5.1.4.38.1",
    "structures": "1.2.840.10008.5.1.4.1.1.481.3", "a maker's own": "1.3.12.2.1107.5.9.1",
}  # fmt: skip


@pytest.mark.parametrize("uid", OTHERS.values(), ids=OTHERS)
def test_objects_without_slices_lie_beside_a_series(tmp_path, uid):
    write_series(tmp_path, numbers())

    def other(ds, k):
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid
        for tag in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            delattr(ds, tag)

    (file,) = write_series(tmp_path / "other", numbers((9, 7, 1)), change=other)
    file.rename(tmp_path / "other.dcm")
    assert np.array_equal(read_volume(tmp_path)[0], numbers() - 1024.0)


@pytest.mark.parametrize(
    "uid", [SegmentationStorage, "1.2.840.10008.5.1.4.1.1.481.2", ParametricMapStorage], ids=["SEG", "dose", "map"]
)
def test_derived_objects_with_pixels_are_no_series(tmp_path, uid):
    def derived(ds, k):
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid

    write_series(tmp_path / "a", numbers())
    write_series(tmp_path / "b", numbers(), change=derived)
    assert len(find_series(tmp_path)) == 1


def test_images_of_a_makers_own_class_are_read(tmp_path):
    def own(ds, k):
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.3.12.2.1107.5.9.9"

    write_series(tmp_path, numbers(), change=own)
    assert np.array_equal(read_volume(tmp_path)[0], numbers() - 1024.0)


# --- values that are odd ----------------------------------------------------------------------------------------------


def put_raw(files, keyword, vr, value):
    """Write an element as it is, of whatever kind."""
    tag = Tag(keyword)
    for file in files:
        ds = dcmread(file)
        ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        ds.save_as(file)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("RescaleSlope", "DS", b"1,5 "), ("RescaleSlope", "DS", b"nan "), ("RescaleSlope", "DS", b"1\\1 "),
        ("RescaleIntercept", "DS", b"abc "), ("RescaleIntercept", "LO", b"-5"),
    ],
)  # fmt: skip
def test_a_rescaling_that_is_none_is_refused(tmp_path, keyword, vr, value):
    put_raw(write_series(tmp_path, numbers())[2:3], keyword, vr, value)
    assert "has a rescale slope or intercept that is no number in IM0002" in refused(tmp_path)


@pytest.mark.parametrize(
    ("vr", "value", "factor"), [("DS", b"", 1), ("DS", b"  ", 1), ("FD", struct.pack("<d", 2.5), 2.5), ("IS", b"2 ", 2)]
)
def test_a_slope_of_another_kind_or_none(tmp_path, vr, value, factor):
    put_raw(write_series(tmp_path, numbers()), "RescaleSlope", vr, value)
    assert np.array_equal(read_volume(tmp_path)[0], numbers() * factor - 1024.0)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("SeriesNumber", "IS", b"abc "), ("SeriesNumber", "IS", b"3.5 "), ("SeriesNumber", "IS", b"99999999999 "),
        ("SeriesNumber", "US", b"\x05\0"), ("SeriesNumber", "SH", b"5 "), ("NumberOfFrames", "IS", b"1.0 "),
        ("NumberOfFrames", "IS", b""), ("Rows", "IS", b"7 "), ("ImageType", "CS", b""), ("EchoTime", "DS", b"x "),
        ("SeriesDescription", "SQ", b""), ("SeriesDescription", "US", b"\1\0"), ("Modality", "CS", b"\xe4\xe4"),
        ("SpecificCharacterSet", "CS", b"\\ "), ("SpecificCharacterSet", "CS", b"\xff\xfe"),
        ("StudyInstanceUID", "UI", b"\0\0"), ("SeriesInstanceUID", "UI", b"abc\0"), ("StudyDate", "DA", b"31.12.20"),
        ("AcquisitionTime", "TM", b"noon"),
    ],
)  # fmt: skip
def test_odd_values_that_do_not_matter(tmp_path, keyword, vr, value):
    put_raw(write_series(tmp_path, numbers()), keyword, vr, value)
    assert np.array_equal(read_volume(tmp_path)[0], numbers() - 1024.0)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("NumberOfFrames", "IS", b"abc "), ("NumberOfFrames", "IS", b"-1"), ("NumberOfFrames", "IS", b"2000000000"),
        ("NumberOfFrames", "IS", b"2 "), ("Rows", "US", b""), ("Rows", "SS", b"\xff\xff"), ("Rows", "US", b"\7\0\7\0"),
        ("BitsAllocated", "US", b""),
    ],
)  # fmt: skip
def test_numbers_of_pixels_that_lie_are_refused(tmp_path, keyword, vr, value):
    put_raw(write_series(tmp_path, numbers())[:1], keyword, vr, value)
    assert "1 of 6 DICOM files cannot be read (IM0000)" in refused(tmp_path)


@pytest.mark.parametrize("frames", [1, 5, 7, 2_000_000_000])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_number_of_frames_that_lies(tmp_path, frames, compressed):
    file = write_enhanced(tmp_path / "e.dcm", list(numbers().T), [(0, 0, 2.0 * k) for k in range(6)])
    ds = dcmread(file)
    if compressed:
        ds.compress(RLELossless)
    ds.NumberOfFrames = frames
    ds.save_as(file)
    assert "e.dcm" in refused(tmp_path)


@pytest.mark.parametrize("depth", [10, 3000, 100_000])
@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_in_sequences(tmp_path, depth, undefined):
    tag, first = b"\x40\x00\x75\x02SQ\0\0", b"\xfe\xff\x00\xe0"
    if undefined:
        nested = (tag + b"\xff" * 4 + first + b"\xff" * 4) * depth
        nested += (b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)) * depth
    else:
        lengths = range(20 * (depth - 1), -1, -20)
        nested = b"".join(tag + struct.pack("<I", n + 8) + first + struct.pack("<I", n) for n in lengths)
    file = write_series(tmp_path, numbers())[0]
    before, pixels = file.read_bytes().split(b"\xe0\x7f\x10\x00OW", 1)
    file.write_bytes(before + nested + b"\xe0\x7f\x10\x00OW" + pixels)
    if depth == 10 or not undefined:
        assert np.array_equal(read_volume(tmp_path)[0], numbers() - 1024.0)
    else:
        assert "1 of 6 DICOM files cannot be read (IM0000)" in refused(tmp_path)
