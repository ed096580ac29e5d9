"""A check that an image file contains as much data as its header declares, before the data are read.

Libraries allocate what a header declares, and decompress what a file contains. Both are limited here by the size of the
file, the machine's memory, and each other.
"""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path

from mednextv2.errors import InputError
from mednextv2.machine import machine_memory
from mednextv2.wording import brief, times

MAX_AXES = 5
MAX_EXPANSION = 1100  # most bytes from one compressed byte; deflate's limit is 1032
SLACK = 2**20  # number of bytes after the voxels that are ignored
CHUNK = 2**20
_AGAIN = "Copy or convert it again"


def declared_bytes(file: Path, shape: Sequence[int], voxel_bytes: int) -> int:
    """Return the bytes of the voxels that a header declares.

    Args:
        file: The file, which messages name.
        shape: The number of voxels along each axis, as in the header.
        voxel_bytes: Bytes of one voxel.

    Raises:
        InputError: If no image has that shape, or this machine's memory cannot hold it.
    """
    if not 1 <= len(shape) <= MAX_AXES or not all(0 < size < 2**31 for size in shape):
        raise InputError(
            f"{file}: its header declares {brief(list(shape))} voxels; an image has 1 to {MAX_AXES} axes with at least "
            f"one voxel each. {_AGAIN}"
        )
    needed = math.prod(shape) * voxel_bytes
    memory = machine_memory()  # where the system does not report it, the library that reads the file finds out
    if needed > memory:
        raise InputError(
            f"{file}: its header declares {times(shape)} voxels, {needed / 2**30:.3g} GiB, but this machine has "
            f"{memory / 2**30:.3g} GiB of memory. {_AGAIN}, or use a larger machine"
        )
    return needed


def check_plain(file: Path, data_file: Path, offset: int, needed: int) -> None:
    """Raise an InputError when an uncompressed file is too short.

    Args:
        file: The file with the header, which messages name.
        data_file: The file with the voxels, which may be the same.
        offset: The offset of the first voxel in bytes.
        needed: The number of bytes of the voxels.
    """
    there = max(0, data_file.stat().st_size - offset)
    if there < needed:
        raise InputError(
            f"{file}: is truncated; its header declares {needed} bytes of voxels, but {data_file.name} has {there}. "
            f"{_AGAIN}"
        )


def check_expansion(file: Path, compressed: int, needed: int) -> None:
    """Raise an InputError when so few compressed bytes cannot hold the voxels that the header declares.

    Args:
        file: The file, which messages name.
        compressed: The number of bytes in the file.
        needed: The number of bytes of the voxels.
    """
    if needed > compressed * MAX_EXPANSION + SLACK:
        raise InputError(
            f"{file}: is truncated or damaged; its header declares {needed} bytes of voxels, which cannot be in "
            f"{compressed} compressed ones. {_AGAIN}"
        )


def check_compressed(file: Path, data_file: Path, offset: int, needed: int) -> None:
    """Decompress a file in pieces, none of which is kept.

    Args:
        file: The file with the header, which messages name.
        data_file: The file with the compressed voxels (zlib or gzip), which may be the same.
        offset: The offset of the first compressed byte.
        needed: The number of bytes of the voxels.

    Raises:
        InputError: If the data are damaged, or there are fewer or more than declared.
    """
    check_expansion(file, data_file.stat().st_size - offset, needed)
    decoder, total = zlib.decompressobj(zlib.MAX_WBITS | 32), 0  # detects whether it is zlib or gzip
    with data_file.open("rb") as f:
        f.seek(offset)
        try:
            while not decoder.eof and (piece := decoder.unconsumed_tail or f.read(CHUNK)):
                total += len(decoder.decompress(piece, CHUNK))
                if total > needed + SLACK:
                    raise InputError(expands_beyond(file, needed))
        except zlib.error as e:
            raise InputError(f"{file}: its compressed data are damaged ({e}). {_AGAIN}") from e
    if total < needed or not decoder.eof:
        raise InputError(
            f"{file}: is truncated; its header declares {needed} bytes of voxels, but there are {total}. {_AGAIN}"
        )


def expands_beyond(file: Path, needed: int) -> str:
    """Return the message about more compressed data than the header declares."""
    return f"{file}: its data expand beyond the {needed} bytes that its header declares; it is damaged. {_AGAIN}"
