import gzip
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from mednextv2.errors import InputError
from mednextv2.images.nifti_header import screen_nifti
from mednextv2.images.volume import read_volume
from mednextv2.transforms import LoadVolumed

VOXELS = np.arange(120, dtype=np.int16).reshape(6, 5, 4)


def content(image=None) -> bytearray:
    return bytearray((image or nib.Nifti1Image(VOXELS, np.diag([1.0, 2.0, 3.0, 1.0]))).to_bytes())


def put(tmp_path, data, ending):
    file = tmp_path / f"a{ending}"
    file.write_bytes(gzip.compress(bytes(data)) if ending.endswith("gz") else bytes(data))
    return file


def refused(file) -> str:
    """Return the message about a file, whose header is also refused where it is loaded without a check before."""
    with pytest.raises(InputError) as caught:
        read_volume(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_what_nibabel_writes_is_read(tmp_path, ending, kind, order):
    image = kind(VOXELS, np.eye(4), kind.header_class(endianness=order))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"a comment"))
    assert np.array_equal(read_volume(put(tmp_path, content(image), ending))[0], VOXELS)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([(40, "<h", 0)], "0 axes"),
        ([(40, "<h", 6)], "1 to 5 axes"),
        ([(44, "<h", -5)], "its header declares [6, -5, 4] voxels"),
        ([(46, "<h", 0)], "its header declares [6, 5, 0] voxels"),
        ([(42, "<3h", 32767, 32767, 32767)], "of memory"),
        ([(42, "<3h", 900, 900, 900)], "truncated"),
        ([(70, "<h", 0)], "voxels of the type 0"),
        ([(70, "<h", 1)], "voxels of the type 1."),
        ([(70, "<h", 12345)], "voxels of the type 12345"),
        ([(108, "<f", float("nan"))], "voxels from byte nan on"),
        ([(108, "<f", -4.0)], "voxels from byte -4 on"),
        ([(123, "<b", 1)], "lengths in metres, not in millimetres"),
        ([(123, "<b", 3 | 8)], "lengths in micrometres, not in millimetres"),  # and seconds
        ([(108, "<f", 3e38)], "truncated"),
        ([(112, "<f", float("inf"))], "the scaling of intensities inf and 0"),
        ([(112, "<f", float("-inf"))], "the scaling of intensities -inf and 0"),
        ([(112, "<2f", 2.0, float("nan"))], "the scaling of intensities 2 and nan"),
        ([(116, "<f", float("inf"))], "the scaling of intensities 1 and inf"),
        ([(84, "<f", float("nan"))], "the spacing [1.0, nan, 3.0]"),
        ([(80, "<f", float("inf"))], "the spacing [inf, 2.0, 3.0]"),
        ([(80, "<f", 0.0), (254, "<h", 0)], "the spacing [0.0, 2.0, 3.0]"),
        (
            [(284, "<f", float("nan")), (254, "<h", 1)],
            "numbers that are infinite or NaN, an affine that is no position",
        ),
        (
            [(268, "<f", float("inf")), (252, "<h", 1)],
            "numbers that are infinite or NaN, an affine that is no position",
        ),
        ([(344, "4s", b"ni1\0")], "is not what its ending says"),
        ([(0, "<i", 347)], "is not what its ending says"),
    ],
)
def test_headers_that_no_image_has_are_refused(tmp_path, ending, edits, words):
    data = content()
    for offset, code, *values in edits:
        struct.pack_into(code, data, offset, *values)
    file = put(tmp_path, data, ending)
    assert words in refused(file)
    with pytest.raises(InputError, match=r"a\.nii"):
        LoadVolumed(keys="image")({"image": str(file)})


@pytest.mark.parametrize("units", [0, 2, 10, 18])  # not said; millimetres alone, with seconds, with milliseconds
def test_lengths_in_millimetres_are_read_whatever_the_unit_of_time(tmp_path, units):
    data = content()
    data[123] = units
    assert np.allclose(read_volume(put(tmp_path, data, ".nii"))[1], np.diag([1.0, 2.0, 3.0, 1.0]))


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_what_means_no_scaling_is_read(tmp_path, slope):
    data = content()
    struct.pack_into("<2f", data, 112, slope, float("nan"))
    assert np.array_equal(read_volume(put(tmp_path, data, ".nii"))[0], VOXELS)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("length", [0, 3, 100, 348, 400, 591])
def test_files_that_are_cut_are_refused(tmp_path, ending, length):
    assert len(content()) == 592
    message = refused(put(tmp_path, content()[:length], ending))
    assert "truncated" in message or "not what its ending says" in message


def test_a_checksum_that_does_not_hold_is_noticed(tmp_path):
    file = put(tmp_path, content(), ".nii.gz")
    data = bytearray(file.read_bytes())
    data[-7] ^= 1
    file.write_bytes(data)
    assert "CRC" in refused(file)
    file.write_bytes(data[:-5])
    assert "end-of-stream" in refused(file)


def test_data_that_expand_are_refused_without_being_kept(tmp_path):
    file = put(tmp_path, content() + bytes(2**28), ".nii.gz")
    assert file.stat().st_size < 2**20
    tracemalloc.start()
    assert "expand beyond the 240 bytes" in refused(file)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**24


def test_a_header_alone_is_read_of_a_large_file(tmp_path):
    file = tmp_path / "large.nii"
    header = nib.Nifti1Header()
    header.set_data_shape((512, 512, 512))
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"], header["scl_slope"], header["scl_inter"] = 352, b"n+1", 1, 0
    with file.open("wb") as f:
        f.write(header.binaryblock)
        f.truncate(352 + 512**3)
    screen_nifti(file)
    with file.open("r+b") as f:
        f.truncate(351 + 512**3)
    with pytest.raises(InputError, match="is truncated"):
        screen_nifti(file)
