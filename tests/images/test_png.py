"""PNG: what the encoded picture holds, by a decoder of its own and by another library."""

import base64
import struct
import zlib

import numpy as np
import pytest

from mednextv2.images.png import encode_png, png_data_uri


def decode(png):
    """Decode 8-bit greyscale whose rows have filter 0 or 2."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(png):
        (size,) = struct.unpack(">I", png[place : place + 4])
        name, content = png[place + 4 : place + 8], png[place + 8 : place + 8 + size]
        assert struct.unpack(">I", png[place + 8 + size : place + 12 + size])[0] == zlib.crc32(name + content)
        chunks[name] = content
        place += 12 + size
    columns, rows, bits, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (bits, kind, list(chunks)) == (8, 0, [b"IHDR", b"IDAT", b"IEND"])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(rows, columns + 1)
    assert set(lines[:, 0]) == {2}
    return lines[:, 1:].cumsum(axis=0, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (3, 300)])
def test_png_decodes_to_the_same_grey_values(shape, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(decode(encode_png(grey)), grey)
    image = pytest.importorskip("matplotlib.image")
    (tmp_path / "a.png").write_bytes(encode_png(grey))
    np.testing.assert_array_equal(
        np.rint(255 * image.imread(tmp_path / "a.png")[..., None][:, :, 0].reshape(shape)), grey
    )


def test_png_refuses_other_arrays():
    with pytest.raises(ValueError, match="uint8"):
        png_data_uri(np.zeros((2, 2)))


@pytest.mark.parametrize("array", [np.zeros((2, 2, 1), np.uint8), np.zeros((0, 3), np.uint8), np.zeros(4, np.uint8)])
def test_png_refuses_other_shapes(array):
    with pytest.raises(ValueError, match=rf"two axes, not uint8 of shape \({array.shape[0]},"):
        encode_png(array)


def test_an_address_holds_the_whole_file():
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    head, data = png_data_uri(grey).split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(decode(base64.b64decode(data)), grey)


def test_memory_order_does_not_matter():
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    assert encode_png(np.asfortranarray(grey)) == encode_png(grey)
    np.testing.assert_array_equal(decode(encode_png(grey[::-1, ::2])), grey[::-1, ::2])
