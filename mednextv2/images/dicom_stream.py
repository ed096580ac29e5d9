"""Whether a DICOM file is complete: pydicom reads one that was cut off up to there, without a word about the rest."""

import os
from pathlib import Path

from pydicom import Dataset

_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")  # PS3.5, 7.1.2
_UNDEFINED = 0xFFFFFFFF
_GROUP_OF_ITEMS = 0xFFFE
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = 0xE000, 0xE00D, 0xE0DD
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DEEPEST = 50


class _CutOffError(ValueError):
    """The file ends within an element, or is nested more deeply than any object."""


def is_whole(file: str | os.PathLike, header: Dataset) -> bool:
    """Return whether a file ends where its elements end.

    Args:
        file: The file.
        header: What pydicom read of it.

    Returns:
        False if the file was cut off within an element or a sequence; between two elements, nothing tells. Files that
        are deflated or big endian are not checked.

    Source:
        DICOM PS3.5, 7.1 (data elements) and 7.5 (nesting of data sets).
    """
    implicit, little_endian = header.original_encoding
    syntax = str(getattr(header, "file_meta", Dataset()).get("TransferSyntaxUID", ""))
    if not little_endian or syntax == _DEFLATED:
        return True
    data = Path(file).read_bytes()
    start = 132 if data[128:132] == b"DICM" else 0
    try:
        while data[start : start + 2] == b"\x02\x00":  # the file's own header is explicit in every file
            start = _after_element(data, start, False, 0)
        _after_all(data, start, bool(implicit), 0)
    except _CutOffError:
        return False
    return True


def _after_all(data: bytes, start: int, implicit: bool, depth: int) -> int:
    """Return where a data set ends: at the mark of an item's or a sequence's end, or at the end of the file."""
    if depth > _DEEPEST:
        raise _CutOffError
    while start < len(data):
        group, element = _number(data, start, 2), _number(data, start + 2, 2)
        if group == _GROUP_OF_ITEMS and element in (_END_OF_ITEM, _END_OF_SEQUENCE):
            return _checked(data, start + 8)
        start = _after_element(data, start, implicit, depth)
    if depth:
        raise _CutOffError  # an item or a sequence without its end
    return start


def _after_element(data: bytes, start: int, implicit: bool, depth: int) -> int:
    of_item = _number(data, start, 2) == _GROUP_OF_ITEMS
    kind = b"" if implicit or of_item else data[start + 4 : start + 6]
    if not kind:
        length, begin = _number(data, start + 4, 4), start + 8
    elif kind in _LONG:
        length, begin = _number(data, start + 8, 4), start + 12
    else:
        length, begin = _number(data, start + 6, 2), start + 8
    if length == _UNDEFINED:  # a sequence, whose elements are items, or an item, whose elements are those of a data set
        return _after_all(data, begin, implicit or kind == b"UN", depth + 1)
    return _checked(data, begin + length)


def _number(data: bytes, start: int, size: int) -> int:
    return int.from_bytes(data[start : _checked(data, start + size)], "little")


def _checked(data: bytes, end: int) -> int:
    if end > len(data):
        raise _CutOffError
    return end
