"""Every cut through a DICOM file is noticed, with sequences of known and of unknown length."""

import pytest
from dicom_helpers import item, numbers, write_series
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mednextv2.images.dicom_stream import is_whole


def write(folder, syntax, undefined):
    """Write a small file that ends with nested sequences."""
    (file,) = write_series(folder, numbers((3, 2, 1)))
    ds = dcmread(file)
    del ds.PixelData
    contour = item(ContourData=["1.5", "2", "3"], ContourGeometricType="POINT")
    ds.ROIContourSequence = inner = item(ReferencedROINumber=1, ContourSequence=contour)
    elements = [ds["ROIContourSequence"], inner[0]["ContourSequence"]]
    for element in elements:
        element.is_undefined_length = undefined
        element.value[0].is_undefined_length_sequence_item = undefined
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(file, enforce_file_format=True, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    return file


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_file_that_is_cut_off_anywhere_is_not_whole(syntax, undefined, tmp_path):
    file = write(tmp_path, syntax, undefined)
    content, header = file.read_bytes(), dcmread(file)
    assert is_whole(file, header)
    last = content.rindex(b"\x06\x30\x39\x00")  # the tag of the sequence; a cut before it leaves whole elements
    for end in range(last + 1, len(content)):
        file.write_bytes(content[:end])
        assert not is_whole(file, header), end


def test_a_file_without_preamble_is_read_from_its_beginning(tmp_path):
    file = write(tmp_path, ExplicitVRLittleEndian, True)
    header, content = dcmread(file), file.read_bytes()
    file.write_bytes(content[132:])
    assert is_whole(file, header)
    file.write_bytes(content[132:-3])
    assert not is_whole(file, header)


def test_deflated_files_are_left_to_pydicom(tmp_path):
    file = write(tmp_path, DeflatedExplicitVRLittleEndian, False)
    assert is_whole(file, dcmread(file))
