"""The header of a NIfTI file, checked before nibabel creates an image from it."""

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednextv2.errors import InputError
from mednextv2.images.declared_data import CHUNK, SLACK, check_expansion, check_plain, declared_bytes, expands_beyond
from mednextv2.wording import brief

_SIZES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_MAGIC = {348: b"n+1", 540: b"n+2"}
_NOWHERE = "an affine that is no position in space; correct the orientation"
_OTHER_UNITS = {1: "metres", 3: "micrometres"}  # readers differ on whether they convert these
_AGAIN = "Copy or convert it again"


def screen_nifti(path: Path) -> None:
    """Check the header of a file and that the file's size fits it, without reading the voxels.

    Args:
        path: The file, which ends in .nii or .nii.gz.

    Raises:
        InputError: If the header is impossible or the file is too short.
        OSError: If the file cannot be read, or is not compressed as its name says.
    """
    with gzip.open(path) if _is_compressed(path) else path.open("rb") as f:
        _voxel_bytes(path, f.read(max(_SIZES)))


def read_header(path: Path) -> nib.Nifti1Header:
    """Read and check the header of a file, as :func:`screen_nifti` does, and return it."""
    with gzip.open(path) if _is_compressed(path) else path.open("rb") as f:
        head = f.read(max(_SIZES))
    _voxel_bytes(path, head)
    return _header_of(path, head)


def read_nifti(path: Path) -> bytes:
    """Read a compressed NIfTI file to its end, where its checksum is, but no more than its header declares.

    Args:
        path: The file, which ends in .nii.gz.

    Returns:
        The content of the file, up to its last voxel.

    Raises:
        InputError: As in :func:`screen_nifti`, and if there are fewer or more data than declared.
        OSError: If the file cannot be read, or its checksum is wrong.
    """
    with gzip.open(path) as f:
        pieces = [f.read(max(_SIZES))]
        offset, needed = _voxel_bytes(path, pieces[0])
        total, end = len(pieces[0]), offset + needed
        while piece := f.read(CHUNK):
            total += len(piece)
            if total > end + SLACK:
                raise InputError(expands_beyond(path, needed))
            pieces.append(piece)
    if total < end:
        raise InputError(f"{path}: is truncated; its header declares {end} bytes, but there are {total}. {_AGAIN}")
    return b"".join(pieces)


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _header_of(path: Path, head: bytes) -> nib.Nifti1Header:
    size = next((n for n in _SIZES for order in ("little", "big") if int.from_bytes(head[:4], order) == n), 0)
    if not size or len(head) < size:
        raise InputError(
            f"{path}: is not what its ending says; it does not begin with the header of a NIfTI file. {_AGAIN}"
        )
    header = _SIZES[size](head[:size], check=False)
    if bytes(header["magic"])[:3] != _MAGIC[size]:
        raise InputError(f"{path}: is not what its ending says; its header lacks the mark of a NIfTI file. {_AGAIN}")
    return header


def _voxel_bytes(path: Path, head: bytes) -> tuple[int, int]:
    """Return the offset and number of the voxels' bytes, after checking the header and the file's size."""
    header = _header_of(path, head)
    if problem := _defect(header):
        raise InputError(f"{path}: its header has {problem}. {_AGAIN}")
    axes = int(header["dim"][0])
    needed = declared_bytes(path, [int(n) for n in header["dim"][1 : axes + 1]], header.get_data_dtype().itemsize)
    offset = int(header["vox_offset"])
    if _is_compressed(path):
        check_expansion(path, path.stat().st_size, offset + needed)
    else:
        check_plain(path, path, offset, needed)
    return offset, needed


def _defect(header: nib.Nifti1Header) -> str:
    """Say which number of a header makes no sense, or return an empty text."""
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7:
        return f"{axes} axes"
    code = int(header["datatype"])
    kinds: Any = nib.nifti1.data_type_codes  # nibabel does not annotate its content
    if code not in kinds or not kinds.dtype[code].itemsize:
        return f"voxels of the type {code}"
    offset, least = float(header["vox_offset"]), int(header["sizeof_hdr"])
    if not math.isfinite(offset) or offset < least:
        return f"voxels from byte {offset:g} on"
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # nibabel writes NaN for no scaling, others write 0; then the intercept is ignored, too
    if math.isinf(slope) or (slope and not math.isnan(slope) and not math.isfinite(intercept)):
        return f"the scaling of intensities {slope:g} and {intercept:g}"
    spacing = [float(abs(n)) for n in header["pixdim"][1 : min(axes, 3) + 1]]
    has_matrix = int(header["sform_code"]) > 0
    if not all(math.isfinite(n) and (n > 0 or has_matrix) for n in spacing):
        return f"the spacing {brief(spacing)}, {_NOWHERE}"
    if unit := _OTHER_UNITS.get(int(header["xyzt_units"]) & 7):
        return f"lengths in {unit}, not in millimetres; correct its unit (xyzt_units) if its numbers are millimetres"
    matrix = [float(n) for key in ("srow_x", "srow_y", "srow_z") for n in header[key]]
    turn = [
        float(header[f"{kind}_{axis}"]) for kind, names in (("quatern", "bcd"), ("qoffset", "xyz")) for axis in names
    ]
    if (has_matrix and not np.isfinite(matrix).all()) or (
        int(header["qform_code"]) > 0 and not np.isfinite(turn).all()
    ):
        return f"numbers that are infinite or NaN, {_NOWHERE}"
    return ""
