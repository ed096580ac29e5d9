import gzip
import os
import zlib

import itk
import numpy as np
import pytest

from mednextv2.errors import InputError
from mednextv2.images.itk_header import screen_itk
from mednextv2.images.volume import read_volume
from mednextv2.transforms import LoadVolumed

SHAPE = (5, 4, 3)
VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
META = (
    "ObjectType = Image\nNDims = 3\nElementSpacing = 1 1 2\nDimSize = 5 4 3\nElementType = MET_SHORT\n{}"
    "ElementDataFile = {}\n"
)
NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 4 3\nendian: little\n"
    "space directions: (1,0,0) (0,1,0) (0,0,2)\nkinds: domain domain domain\nencoding: raw\n{}\n"
)
RAW = VOXELS.astype("<i2").tobytes()


def refused(file) -> str:
    """Return the message about a file, which is the same for all who read it."""
    with pytest.raises(InputError) as caught:
        read_volume(file)
    with pytest.raises(InputError) as again:
        LoadVolumed(keys="image")({"image": str(file)})
    message = str(caught.value)
    assert str(again.value).split(" (")[0] == message.split(" (")[0]
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message


def put(file, header, data=b""):
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(header.encode() + data)
    return file


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", ["mha", "mhd", "nrrd"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_what_itk_writes_is_read(tmp_path, ending, compressed, kind):
    file = tmp_path / f"a b.{ending}"
    itk.imwrite(itk.image_from_array(VOXELS.astype(kind)), str(file), compression=compressed)
    array, _ = read_volume(file)
    assert np.array_equal(array, VOXELS.T.astype(kind))
    (tmp_path / "linked").symlink_to(tmp_path)
    assert read_volume(tmp_path / "linked" / file.name)[0].shape == SHAPE


@pytest.mark.parametrize("name", ["voxels.raw", "./voxels.raw", "local.raw", "a voxel.raw"])
def test_voxels_beside_their_header_are_read(tmp_path, name):
    (tmp_path / name).write_bytes(RAW)
    assert np.array_equal(read_volume(put(tmp_path / "a.mhd", META.format("", name)))[0], VOXELS.T)
    assert np.array_equal(read_volume(put(tmp_path / "a.nrrd", NRRD.format(f"data file: {name}\n")))[0], VOXELS.T)


def test_a_header_in_front_of_the_voxels_is_left_out(tmp_path):
    (tmp_path / "v.raw").write_bytes(b"12345678" + RAW)
    for skipped in ("8", "-1"):
        file = put(tmp_path / "a.mhd", META.format(f"HeaderSize = {skipped}\n", "v.raw"))
        assert np.array_equal(read_volume(file)[0], VOXELS.T)
    file = put(tmp_path / "a.nrrd", NRRD.format("byte skip: 8\ndata file: v.raw\n"))
    assert np.array_equal(read_volume(file)[0], VOXELS.T)


@pytest.mark.parametrize(
    "name",
    ["../secret.txt", "sub/secret.txt", "..", ".", "/etc/hostname", "~/x/y", "..\\secret.txt", "LIST", "LIST 2",
     "list.raw", "SKIPLIST", "secret%03d.txt 1 3 1", ".//etc/hostname", "link.raw"],
)  # fmt: skip
def test_voxels_elsewhere_are_not_read(tmp_path, name):
    for folder in (tmp_path, tmp_path / "up" / "sub"):
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "secret.txt").write_bytes(RAW)
    (tmp_path / "up" / "link.raw").symlink_to(tmp_path / "secret.txt")
    meta, nrrd = META.format("", name), NRRD.format(f"data file: {name}\n")
    for header, ending in ((meta, "mhd"), (meta, "mha"), (nrrd, "nrrd"), (nrrd.replace("data f", "dataf"), "nrrd")):
        message = refused(put(tmp_path / "up" / f"a.{ending}", header, b"../secret.txt\n"))
        assert "its voxels" in message
        assert name.split()[0].replace("\\", "\\\\") in message


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert f"in {tmp_path / 'b.raw'}, but there is no such file" in refused(
        put(tmp_path / "a.mhd", META.format("", "b.raw"))
    )
    os.mkfifo(tmp_path / "b.raw")  # reading it would wait for ever
    assert "there is no such file" in refused(put(tmp_path / "a.mhd", META.format("", "b.raw")))


@pytest.mark.parametrize(
    "line",
    ["elementdatafile = ../x.raw", " ElementDataFile = ../x.raw", "Element DataFile = x", "ElementDataFile: x",
     "no sign of anything", "DimSize = 5 4 3", "ndims = 2", "Offset = 1 2", "Offset = 1 2 nan", "Rotation = 1 0 0 1",
     "CenterOfRotation = a b c", "Comment = a\x0bElementDataFile", "Comment = \r x", "BinaryData = False",
     "HeaderSize = 4", "HeaderSize = x", "ElementNumberOfChannels = 0", "ElementNumberOfChannels = -1"],
)  # fmt: skip
def test_headers_that_itk_may_read_otherwise_are_refused(tmp_path, line):
    assert "its header" in refused(put(tmp_path / "a.mha", META.format(f"{line}\n", "LOCAL"), RAW))


@pytest.mark.parametrize(
    "line",
    ["DATA FILE: ../x.raw", " data file: ../x.raw", "datafile: ../x.raw", "no sign", "sizes: 5 4 3", "Sizes: 1 1 1",
     "line skip: 3", "byte skip: -2", "byte skip: x", "comment: \x0b"],
)  # fmt: skip
def test_nrrd_headers_that_itk_may_read_otherwise_are_refused(tmp_path, line):
    assert "its header" in refused(put(tmp_path / "a.nrrd", NRRD.format(f"{line}\n"), RAW))


@pytest.mark.parametrize(
    "shape",
    ["5 4 0", "5 4 -3", "5 4 99999999999999999999999", "5 4", "5 4 3 1", "2147483647 2147483647 2147483647", "5 4 3.0",
     "", "5 4 x", "100000 100000 1000"],
)  # fmt: skip
def test_shapes_that_no_image_has_are_refused(tmp_path, shape):
    for text, ending, last in ((META, "mha", "LOCAL"), (NRRD, "nrrd", None)):
        header = text.format("", last) if last else text.format("")
        assert "its header" in refused(put(tmp_path / f"a.{ending}", header.replace("5 4 3", shape), RAW))


def test_many_axes_are_refused(tmp_path):
    shape = " ".join(["1"] * 9)
    header = META.format("", "LOCAL").replace("ElementSpacing = 1 1 2\n", "")
    header = header.replace("DimSize = 5 4 3", f"DimSize = {shape}").replace("NDims = 3", "NDims = 9")
    assert "1 to 5 axes" in refused(put(tmp_path / "a.mha", header, RAW))
    header = NRRD.format("").replace("sizes: 5 4 3", f"sizes: {shape}").replace("dimension: 3", "dimension: 9")
    assert "1 to 5 axes" in refused(put(tmp_path / "a.nrrd", header, RAW))


@pytest.mark.parametrize("encoding", ["hex", "ascii", "bzip2", "zstd", "raw gzip", ""])
def test_encodings_that_are_not_read_are_refused(tmp_path, encoding):
    file = put(tmp_path / "a.nrrd", NRRD.format("").replace("encoding: raw", f"encoding: {encoding}"), RAW)
    assert "of no image that is read here" in refused(file)


@pytest.mark.parametrize(("old", "new"), [("MET_SHORT", "MET_STRING"), ("MET_SHORT", "short"), ("Image", "Scene")])
def test_kinds_of_voxels_that_are_not_read_are_refused(tmp_path, old, new):
    file = put(tmp_path / "a.mha", META.format("", "LOCAL").replace(old, new), RAW)
    assert "of no image that is read here" in refused(file)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (RAW[:-1], "is truncated; its header declares 120 bytes of voxels, but"),
        (b"", "is truncated"),
    ],
)
def test_voxels_that_are_cut_are_refused(tmp_path, data, words):
    (tmp_path / "v.raw").write_bytes(data)
    for header, file in ((META.format("", "LOCAL"), "a.mha"), (META.format("", "v.raw"), "b.mhd"),
                         (NRRD.format(""), "a.nrrd"), (NRRD.format("data file: v.raw\n"), "b.nrrd")):  # fmt: skip
        local = "v.raw" not in header
        assert words in refused(put(tmp_path / file, header, data if local else b""))


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-9], "is truncated"),
        (lambda data: data[:20] + bytes([data[20] ^ 255]) + data[21:], "damaged"),
        (lambda data: data[:-3] + b"xyz", "damaged"),
        (lambda data: b"", "is truncated"),
    ],
)
def test_compressed_voxels_that_are_damaged_are_refused(tmp_path, ending, change, words):
    data = np.random.default_rng(0).integers(0, 999, 60).astype("<i2").tobytes()
    header, data = _compressed(ending, data)
    assert read_volume(put(tmp_path / f"good.{ending}", header, data))[0].shape == SHAPE
    message = refused(put(tmp_path / f"a.{ending}", header, change(data)))
    assert words in message or "damaged" in message


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_compressed_voxels_that_expand_are_refused_without_being_kept(tmp_path, ending):
    tracemalloc = pytest.importorskip("tracemalloc")
    file = put(tmp_path / f"a.{ending}", *_compressed(ending, bytes(2**28)))
    assert file.stat().st_size < 2**20
    tracemalloc.start()
    with pytest.raises(InputError, match="expand beyond the 120 bytes"):
        screen_itk(file)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**24


def _compressed(ending, data):
    if ending == "nrrd":
        return NRRD.format("").replace("encoding: raw", "encoding: gzip"), gzip.compress(data)
    packed = zlib.compress(data)
    return META.format(f"CompressedData = True\nCompressedDataSize = {len(packed)}\n", "LOCAL"), packed


@pytest.mark.parametrize("line", ["ElementToIntensityFunctionSlope = 2", "ElementToIntensityFunctionOffset = -1024"])
def test_a_scaling_of_intensities_that_itk_leaves_undone_is_refused(tmp_path, line):
    assert line in refused(put(tmp_path / "a.mha", META.format(line + "\n", "LOCAL"), RAW))
    neutral = "ElementToIntensityFunctionSlope = 1\nElementToIntensityFunctionOffset = 0\n"
    assert read_volume(put(tmp_path / "b.mha", META.format(neutral, "LOCAL"), RAW))[0].shape == SHAPE


def test_several_values_a_voxel_are_refused_at_once_where_itk_has_no_image_for_them(tmp_path):
    several = META.format("ElementNumberOfChannels = 2\n", "LOCAL")
    assert "2 values of the type MET_SHORT" in refused(put(tmp_path / "a.mha", several, RAW * 2))
    layers = NRRD.replace("dimension: 3", "dimension: 4").replace("sizes: 5", "sizes: 2 5").format("")
    layers = layers.replace("kinds: ", "kinds: list ").replace("directions: ", "directions: none ")
    assert "2 values of the type short" in refused(put(tmp_path / "a.nrrd", layers, RAW * 2))
    put(tmp_path / "b.mha", several.replace("SHORT", "FLOAT"), np.zeros(120, "<f4").tobytes())
    assert read_volume(tmp_path / "b.mha")[0].shape == (*SHAPE, 2)


def test_a_spacing_that_is_unknown_is_refused(tmp_path):
    header = NRRD.replace("space directions: (1,0,0) (0,1,0) (0,0,2)", "spacings: 1 1 NaN").format("")
    assert "spacings: 1 1 NaN" in refused(put(tmp_path / "a.nrrd", header.replace("space: left-", "#"), RAW))
