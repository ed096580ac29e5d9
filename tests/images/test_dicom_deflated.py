"""Deflated DICOM files: those of scanners are read, and those that would fill the memory are refused unread."""

import tracemalloc
import zlib

import pytest
from dicom_helpers import numbers, refused, write_series
from pydicom import dcmread, dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mednextv2.data import find_series, read_volume
from mednextv2.images import dicom_deflated
from mednextv2.images.dicom_deflated import check_deflated

MIB = 2**20


def deflate(file):
    ds = dcmread(file)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file.unlink()
    dcmwrite(file, ds, implicit_vr=False, little_endian=True)


def make_bomb(file, size):
    """Let the pixels of a deflated file be followed by zeros, in a private element of `size` bytes."""
    ds = dcmread(file)
    ds.add_new(0x00091001, "OB", bytes(size))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file.unlink()
    dcmwrite(file, ds, implicit_vr=False, little_endian=True)
    assert file.stat().st_size < size / 100


def test_a_deflated_series_is_read_with_its_voxels(tmp_path):
    voxels = numbers((9, 7, 3))
    for file in write_series(tmp_path, voxels, intercept=0.0):
        deflate(file)
        check_deflated(str(file))
    assert (read_volume(tmp_path)[0] == voxels).all()


@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize("private", [0, 100_000])  # bytes before the transfer syntax, which a reader has to pass over
def test_a_bomb_is_refused_before_it_is_in_memory(tmp_path, monkeypatch, preamble, private):
    monkeypatch.setattr(dicom_deflated, "MAX_INFLATED", 4 * MIB)
    files = write_series(tmp_path, numbers((9, 7, 3)))
    for file in files:
        make_bomb(file, 64 * MIB)
        if private:
            ds = dcmread(file)
            ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = "1.2.3", bytes(private)
            dcmwrite(file, ds, implicit_vr=False, little_endian=True, overwrite=True)
        if not preamble:
            file.write_bytes(file.read_bytes()[132:])
    tracemalloc.start()
    message = refused(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "3 of 3 DICOM files cannot be read" in message
    assert peak < 16 * MIB
    with pytest.raises(ValueError, match="inflates to more than"):
        check_deflated(str(files[0]))


def test_the_limit_is_counted_over_the_whole_data_set(tmp_path, monkeypatch):
    file = write_series(tmp_path, numbers((64, 64, 1)))[0]
    deflate(file)
    content = file.read_bytes()
    start = content.index(DeflatedExplicitVRLittleEndian.encode()) + len(DeflatedExplicitVRLittleEndian)
    sizes = []
    for place in range(start, start + 400):  # the deflated part begins somewhere behind the file's meta information
        try:
            sizes.append(len(zlib.decompress(content[place:], -zlib.MAX_WBITS)))
        except zlib.error:
            continue
    size = max(sizes)
    assert size > 64 * 64 * 2
    monkeypatch.setattr(dicom_deflated, "MAX_INFLATED", size)
    check_deflated(str(file))
    monkeypatch.setattr(dicom_deflated, "MAX_INFLATED", size - 1)
    with pytest.raises(ValueError, match=f"more than {size - 1} bytes"):
        check_deflated(str(file))


def test_a_bomb_costs_only_the_series_it_lies_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_deflated, "MAX_INFLATED", 4 * MIB)
    write_series(tmp_path / "sound", numbers((9, 7, 3)))
    make_bomb(write_series(tmp_path / "bomb", numbers((9, 7, 3)))[0], 64 * MIB)
    problems = {s.folder.rpartition("/")[2]: s.problem for s in find_series(tmp_path)}
    assert problems["sound"] == ""
    assert problems["bomb"].startswith("may lack slices: 1 of 3 DICOM files cannot be read")
