"""The pixels of DICOM files, judged by ITK and pydicom."""

import io
import resource
import struct
import tempfile

import highdicom as hd
import itk
import numpy as np
import pytest
from dicom_helpers import change_files, item, numbers, refused, write_enhanced, write_series
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_rescale
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from mednextv2.data import read_volume


def test_each_slice_is_rescaled_by_its_own_header(tmp_path):
    def slopes(ds, k):
        ds.RescaleSlope, ds.RescaleIntercept = 0.5 * (k + 1), 10 * k

    write_series(tmp_path, numbers(), change=slopes)
    array, _ = read_volume(tmp_path)
    expected = np.stack([numbers()[..., k] * 0.5 * (k + 1) + 10 * k for k in range(6)], axis=-1)
    np.testing.assert_allclose(array, expected, rtol=1e-6)


# --- every compression, photometric interpretation and sign -----------------------------------------------------------


def by_gdcm(kind, signed):
    """Return a function that lets ITK's GDCM compress a data set's pixels, by JPEG lossless (0) or JPEG 2000 (1)."""

    def compress(ds):
        pixels = np.frombuffer(ds.PixelData, "<i2" if signed else "<u2").reshape(1, ds.Rows, ds.Columns).copy()
        image = itk.image_from_array(pixels)
        writer, gdcm = itk.ImageFileWriter[type(image)].New(), itk.GDCMImageIO.New()
        gdcm.SetCompressionType(kind)
        writer.SetInput(image)
        writer.SetImageIO(gdcm)
        writer.UseCompressionOn()
        with tempfile.TemporaryDirectory() as folder:
            writer.SetFileName(f"{folder}/a.dcm")
            writer.Update()
            coded = dcmread(f"{folder}/a.dcm")
        for tag in ("BitsStored", "HighBit"):  # GDCM's choice
            setattr(ds, tag, coded[tag].value)
        ds.file_meta.TransferSyntaxUID = coded.file_meta.TransferSyntaxUID
        assert ds.file_meta.TransferSyntaxUID.is_encapsulated
        ds.PixelData = coded.PixelData
        ds["PixelData"].is_undefined_length = True

    return compress


def by_pydicom(syntax):
    return lambda ds: ds.compress(syntax)


def by_pillow(ds):
    """JPEG 2000 of unsigned numbers, as many programs write it for signed ones, too."""
    stored = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "JPEG2000", no_jp2=True)
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.PixelData = encapsulate([file.getvalue()])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True


def big_endian(ds):
    ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian


def compressions(signed):
    return {
        "none": lambda ds: None,
        "big endian": big_endian,
        "deflated": lambda ds: setattr(ds.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian),
        "RLE": by_pydicom(RLELossless),
        "JPEG-LS": by_pydicom(JPEGLSLossless),
        "JPEG lossless": by_gdcm(0, signed),
        "JPEG 2000": by_gdcm(1, signed),
        "JPEG 2000 of unsigned numbers": by_pillow,
    }


def rewrite_as(file, change):
    ds = dcmread(file)
    change(ds)
    syntax = ds.file_meta.TransferSyntaxUID
    file.unlink()
    dcmwrite(file, ds, implicit_vr=False, little_endian=syntax != ExplicitVRBigEndian)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", compressions(False))
def test_pixels_are_those_that_pydicom_rescales_before_they_were_compressed(tmp_path, name, signed, photometric):
    voxels = numbers((9, 7, 3)) - 900 * signed
    files = write_series(tmp_path, voxels, slope=2.5, intercept=-1024.0, PhotometricInterpretation=photometric)

    def prepare(ds, k):
        ds.PixelRepresentation, ds.PhotometricInterpretation = int(signed), photometric

    change_files(files, prepare)
    expected = [apply_rescale((ds := dcmread(file)).pixel_array, ds).T for file in files]
    if name == "JPEG-LS":
        pytest.importorskip("jpeg_ls")
    for file in files:
        rewrite_as(file, compressions(signed)[name])
    array, _ = read_volume(tmp_path)
    assert array.dtype == np.float32
    assert np.array_equal(array, np.stack(expected, axis=-1))


@pytest.mark.parametrize("name", ["none", "RLE", "JPEG 2000 of unsigned numbers"])
@pytest.mark.parametrize("signed", [False, True])
def test_twelve_bits_are_read_without_what_lies_above_them(tmp_path, name, signed):
    voxels = numbers((9, 7, 3)) - 900 * signed
    files = write_series(tmp_path, voxels, intercept=0)

    def fill(ds, k):
        bits = np.frombuffer(ds.PixelData, "<u2") & 0x0FFF
        above = 0 if name.startswith("JPEG") else np.random.default_rng(k).integers(0, 16, bits.size) << 12
        ds.PixelData = (bits | above).astype("<u2").tobytes()
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, int(signed)

    change_files(files, fill)
    for file in files:
        rewrite_as(file, compressions(signed)[name])
    assert np.array_equal(read_volume(tmp_path)[0], voxels)


def test_frames_of_a_compressed_file_are_found_in_any_order(tmp_path):
    order = np.random.default_rng(1).permutation(6)
    frames = [numbers()[..., k].T for k in order]
    file = write_enhanced(tmp_path / "e.dcm", frames, [(0, 0, 2.0 * k) for k in order])
    for syntax in (None, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless):
        if syntax == JPEGLSLossless:
            pytest.importorskip("jpeg_ls")
        ds = dcmread(file)
        if syntax == DeflatedExplicitVRLittleEndian:
            ds.file_meta.TransferSyntaxUID = syntax
        elif syntax:
            ds.decompress() if ds.file_meta.TransferSyntaxUID.is_encapsulated else None
            ds.compress(syntax)
        ds.save_as(file)
        assert np.array_equal(read_volume(tmp_path)[0], numbers() - 1024.0)


@pytest.mark.parametrize("slices", [6, 40])
def test_each_frame_is_rescaled_by_its_own_functional_group(tmp_path, slices):
    voxels = numbers((9, 7, slices))
    order = np.random.default_rng(2).permutation(slices)

    def groups(k):
        return {"PixelValueTransformationSequence": item(RescaleSlope=1 + k, RescaleIntercept=-k, RescaleType="HU")}

    file = write_enhanced(
        tmp_path / "e.dcm", [voxels[..., k].T for k in order], [(0, 0, 2.0 * k) for k in order], groups
    )
    array, affine = read_volume(tmp_path)
    expected = np.empty(array.shape)
    for n, k in enumerate(order):
        expected[..., k] = voxels[..., k].astype(float) * (1 + n) - n
    assert np.array_equal(array, expected)
    volume = hd.imread(file).get_volume()  # slices, rows, columns, each rescaled
    assert np.array_equal(np.sort(volume.array.ravel()), np.sort(array.ravel()))
    to_voxels = np.linalg.inv(volume.affine)
    for column, row, k in [(0, 0, 0), (8, 6, slices - 1), (3, 1, 2)]:
        place = np.diag([-1, -1, 1, 1]) @ affine @ [column, row, k, 1]
        assert volume.array[tuple(np.rint(to_voxels @ place)[:3].astype(int))] == array[column, row, k]


def test_a_table_is_used_in_place_of_slope_and_intercept(tmp_path):
    def table(ds, k):
        del ds.RescaleSlope, ds.RescaleIntercept
        ds.PixelRepresentation = 0
        lut = Dataset()
        lut.LUTDescriptor, lut.ModalityLUTType = [2000, 0, 16], "HU"
        lut["LUTDescriptor"].VR = "US"
        lut.add_new("LUTData", "OW", (np.arange(2000)[::-1] ** 2 % 65521).astype("<u2").tobytes())
        ds.ModalityLUTSequence = [lut]

    files = write_series(tmp_path, numbers())
    change_files(files, table)
    expected = [apply_modality_lut((ds := dcmread(file)).pixel_array, ds).T for file in files]
    assert np.array_equal(read_volume(tmp_path)[0], np.stack(expected, axis=-1))


# --- pixels that are others than the header says ----------------------------------------------------------------------


@pytest.mark.parametrize("name", compressions(False))
@pytest.mark.parametrize(
    ("rows", "columns"), [(6, 9), (7, 8), (9, 7), (8, 9), (7, 18), (14, 9), (0, 9), (20000, 20000), (65535, 65535)]
)
def test_rows_and_columns_that_lie(tmp_path, name, rows, columns):
    if name == "JPEG-LS":
        pytest.importorskip("jpeg_ls")
    files = write_series(tmp_path, numbers((9, 7, 2)))
    for file in files:
        rewrite_as(file, compressions(True)[name])
    change_files(files, lambda ds, k: (setattr(ds, "Rows", rows), setattr(ds, "Columns", columns)))
    if (rows, columns) == (9, 7) and name in ("none", "big endian", "deflated", "RLE"):
        return  # as many pixels: nothing tells
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2e5  # KiB


def test_a_frame_that_cannot_be_decoded_is_reported_once(tmp_path, caplog):
    files = write_series(tmp_path, numbers())
    change_files(files, lambda ds, k: ds.compress(RLELossless))
    change_files(files[2:3], lambda ds, k: setattr(ds, "PixelData", encapsulate([b"\0" * 64])))
    assert "IM0002: its pixels cannot be decoded" in refused(tmp_path)
    assert caplog.records == []


def test_padding_behind_pixels_is_none(tmp_path):
    files = write_series(tmp_path, numbers())
    change_files(files, lambda ds, k: setattr(ds, "PixelData", ds.PixelData + bytes(10)))
    assert np.array_equal(read_volume(tmp_path)[0], numbers() - 1024.0)


@pytest.mark.parametrize("tags", [
    {"HighBit": 15, "BitsStored": 12}, {"BitsStored": 0}, {"BitsStored": 32}, {"BitsAllocated": 12},
    {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, {"PixelRepresentation": 7}, {"SamplesPerPixel": 0},
])  # fmt: skip
def test_bits_that_are_none(tmp_path, tags):
    change_files(write_series(tmp_path, numbers()), lambda ds, k: ds.update(tags))
    refused(tmp_path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, "1.2.840.10008.1.2.4.201", "1.2.3", "no UID"])
def test_a_transfer_syntax_that_is_not_that_of_the_pixels(tmp_path, syntax):
    files = write_series(tmp_path, numbers())
    for file in files:
        content = file.read_bytes()
        old = b"\x02\x00\x10\x00UI\x14\x00" + b"1.2.840.10008.1.2.1\0"
        new = syntax.encode() + b"\0" * (len(syntax) % 2)
        assert old in content
        content = content.replace(old, b"\x02\x00\x10\x00UI" + struct.pack("<H", len(new)) + new)
        length = struct.unpack_from("<I", content, 140)[0] + len(new) - 20
        file.write_bytes(content[:140] + struct.pack("<I", length) + content[144:])
    message = refused(tmp_path)
    assert "IM0000: its pixels cannot be decoded" in message
