"""Encoding of greyscale PNG without an imaging library."""

import base64
import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = b"\x02"  # the filter that stores differences to the row above, which compress better than the grey values


def encode_png(grey: np.ndarray) -> bytes:
    """Encode an image as PNG.

    Args:
        grey: Grey values, `(rows, columns)`, uint8.

    Returns:
        The bytes of the file: 8 bits per pixel, not interlaced.

    Source:
        Portable Network Graphics, W3C Recommendation, third edition, 2025.
    """
    if grey.dtype != np.uint8 or grey.ndim != 2 or 0 in grey.shape:
        raise ValueError(f"a greyscale image is uint8 with two axes, not {grey.dtype} of shape {grey.shape}")
    rows, columns = grey.shape
    differences = np.diff(grey, axis=0, prepend=np.zeros((1, columns), np.uint8))  # modulo 256, as the filter requires
    lines = b"".join(_UP + line.tobytes() for line in differences)
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines, 9)) + _chunk(b"IEND", b"")


def png_data_uri(grey: np.ndarray) -> str:
    """Return an image as a `data:` URI that the page itself can contain; the argument is that of `encode_png`."""
    return "data:image/png;base64," + base64.b64encode(encode_png(grey)).decode("ascii")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
