"""The record in an ONNX file, read and written without the package onnx, and whether the file is whole.

An ONNX file is one message of protocol buffers. Such a message is a sequence of fields, and fields that are appended to
a message belong to it, so a record can be added without reading the network. ONNX has no checksum, so the record holds
the SHA-256 of everything before it.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

#: The name of the record among the metadata of an ONNX file.
KEY = "mednextv2"
DIGEST_KEY = "mednextv2_sha256"
_METADATA = 14  # number of the field metadata_props in a model: see onnx.proto
_GRAPH = 7
_BYTES = 2  # how the values of texts and of messages are stored: their length, then they themselves
_FIXED = {1: 8, 5: 4}  # bytes of numbers with a fixed length
_LIMIT = 50 * 2**20  # largest number of bytes of one entry of the metadata
_PIECE = 2**20
_LONGEST_NUMBER = 10  # bytes


class _Field(NamedTuple):
    number: int
    start: int  # of the whole field
    content: int  # the first byte of its content
    end: int


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Return the metadata of an ONNX file.

    Raises:
        ValueError: If the file is not a whole message of protocol buffers with a graph in it.
        OSError: If it cannot be read.
    """
    found: dict[str, str] = {}
    with Path(path).open("rb") as f:
        fields = list(_fields(f, os.fstat(f.fileno()).st_size))
        if all(field.number != _GRAPH for field in fields):
            raise ValueError("it holds no graph")
        for field in fields:
            if field.number == _METADATA and field.end - field.content <= _LIMIT:
                parts = _texts(f, field)
                found[parts.get(1, "")] = parts.get(2, "")
    return found


def add_metadata(path: str | os.PathLike, record: str) -> None:
    """Append a record to an ONNX file that was just written, with the digest of all that is before it.

    Args:
        path: The file.
        record: The text to add.
    """
    digest = _digest(Path(path), os.path.getsize(path))
    with Path(path).open("ab") as f:
        for key, value in ((DIGEST_KEY, digest + hashlib.sha256(record.encode()).hexdigest()), (KEY, record)):
            entry = _text(1, key) + _text(2, value)
            f.write(_number(_METADATA << 3 | _BYTES) + _number(len(entry)) + entry)


def check_digest(path: str | os.PathLike) -> str:
    """Say in words what is wrong with an ONNX file, or return an empty text; a file without a record has no digest."""
    try:
        metadata = read_metadata(path)
        if KEY not in metadata and DIGEST_KEY not in metadata:
            return ""
        with Path(path).open("rb") as f:
            size = os.fstat(f.fileno()).st_size
            start = min(field.start for field in _fields(f, size) if field.number == _METADATA)
        own = hashlib.sha256(metadata.get(KEY, "").encode()).hexdigest()
        if metadata.get(DIGEST_KEY) != _digest(Path(path), start) + own:
            return "its checksum does not hold"
    except (ValueError, OSError) as e:
        return str(e)
    return ""


def _digest(path: Path, end: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while end > 0 and (piece := f.read(min(_PIECE, end))):
            digest.update(piece)
            end -= len(piece)
    return digest.hexdigest()


def _fields(f: BinaryIO, end: int) -> Iterator[_Field]:
    """Yield the fields of the message between the present position and an end; contents are not read."""
    start = f.tell()
    while start < end:
        f.seek(start)
        key = _read_number(f)
        kind = key & 7
        if kind == 0:
            content = f.tell()
            _read_number(f)
            after = f.tell()
        elif kind == _BYTES:
            length = _read_number(f)
            content = f.tell()
            after = content + length
        elif kind in _FIXED:
            content = f.tell()
            after = content + _FIXED[kind]
        else:
            raise ValueError("it is not an ONNX file")
        if after > end or key >> 3 == 0:
            raise ValueError("it is cut off, or not an ONNX file")
        yield _Field(key >> 3, start, content, after)
        start = after


def _texts(f: BinaryIO, outer: _Field) -> dict[int, str]:
    f.seek(outer.content)
    texts = {}
    for field in list(_fields(f, outer.end)):
        f.seek(field.content)
        texts[field.number] = f.read(field.end - field.content).decode()
    return texts


def _read_number(f: BinaryIO) -> int:
    value = 0
    for i in range(_LONGEST_NUMBER):
        byte = f.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << (7 * i)
        if byte[0] < 0x80:
            return value
    raise ValueError("it is cut off, or not an ONNX file")


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _text(number: int, text: str) -> bytes:
    content = text.encode()
    return _number(number << 3 | _BYTES) + _number(len(content)) + content
