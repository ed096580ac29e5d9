"""DICOM files whose data set is deflated: how large it becomes, found out before anything inflates it in memory."""

import zlib

from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

#: Most bytes of an inflated data set. Deflate makes up to 1,032 bytes of one, so a small file can fill any memory.
MAX_INFLATED = 2**30
_PREAMBLE = 132
_PART = 2**16  # bytes that are read at once
_INFLATED_PART = 2**20  # bytes that are inflated at once


def check_deflated(file: str) -> None:
    """Refuse a deflated file that holds more than can be read; others are not looked at.

    Args:
        file: A DICOM file, with or without a preamble.

    Raises:
        ValueError: If its data set inflates to more than :data:`MAX_INFLATED` bytes; pydicom, zlib and the system raise
            others for files that cannot be read.
    """
    with open(file, "rb") as f:
        if f.read(_PREAMBLE)[-4:] != b"DICM":
            f.seek(0)
        meta = read_dataset(f, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        size, inflate = 0, zlib.decompressobj(-zlib.MAX_WBITS)
        part = f.read(_PART)
        while part and size <= MAX_INFLATED and not inflate.eof:
            size += len(inflate.decompress(part, _INFLATED_PART))
            part = inflate.unconsumed_tail or f.read(_PART)
    if size > MAX_INFLATED:
        raise ValueError(f"{file} inflates to more than {MAX_INFLATED} bytes")
