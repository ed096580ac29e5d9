"""Headers of MetaImage (.mha, .mhd) and NRRD files, checked before ITK reads them.

Such a header may name the file with the voxels. ITK reads whatever it names: another patient's image, or any file of
the machine, whose bytes a report would then show. Here, it may only be a file beside the header. Everything that is not
understood is refused, so that ITK cannot interpret it in another way.
"""

import math
import re
from pathlib import Path

from mednextv2.errors import InputError
from mednextv2.images.declared_data import check_compressed, check_plain, declared_bytes
from mednextv2.wording import brief

_MAX_HEADER = 2**20
_AGAIN = "Convert the image again, to NIfTI (.nii.gz)"
_META_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
    "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
_META_VECTORS = ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation")
_META_MATRICES = ("TransformMatrix", "Orientation", "Rotation")
_META_SCALING = {"ElementToIntensityFunctionSlope": 1.0, "ElementToIntensityFunctionOffset": 0.0}
_META_FIELDS = (
    "ObjectType", "NDims", "BinaryData", "CompressedData", "CompressedDataSize", "HeaderSize", "DimSize", "ElementType",
    "ElementNumberOfChannels", "ElementDataFile", *_META_VECTORS, *_META_MATRICES, *_META_SCALING,
)  # fmt: skip
_NRRD_BYTES = {
    1: ("signedchar", "int8", "int8t", "uchar", "unsignedchar", "uint8", "uint8t"),
    2: ("short", "shortint", "signedshort", "signedshortint", "int16", "int16t",
        "ushort", "unsignedshort", "unsignedshortint", "uint16", "uint16t"),
    4: ("int", "signedint", "int32", "int32t", "uint", "unsignedint", "uint32", "uint32t", "float"),
    8: ("longlong", "longlongint", "signedlonglong", "signedlonglongint", "int64", "int64t",
        "ulonglong", "unsignedlonglong", "unsignedlonglongint", "uint64", "uint64t", "double"),
}  # fmt: skip


#: Of an axis of a NRRD file along which voxels lie; along others, such as list or vector, lie the values of one voxel.
_SPATIAL_KINDS = ("domain", "space", "time", "???", "none")
_MAX_VALUES = 4  # of a voxel
_PATIENT_SPACES = (
    "right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps"
)  # fmt: skip


def screen_itk(path: Path) -> None:
    """Check the header of a file, the place of its voxels, and that there are as many as declared.

    Args:
        path: The file, which ends in .mha, .mhd or .nrrd.

    Raises:
        InputError: If the voxels are not in the file or beside it, are damaged, or are not as many as declared, or if
            the header makes no sense or is written in a way that is not supported.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as f:
        head = f.read(_MAX_HEADER)
    (_screen_nrrd if path.name.lower().endswith(".nrrd") else _screen_meta)(path, head)


def _screen_meta(path: Path, head: bytes) -> None:
    mark = re.search(rb"elementdatafile", head, re.IGNORECASE)
    end = head.find(b"\n", mark.start()) + 1 if mark else 0
    lines = _lines(path, head[: end or len(head)])
    fields: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        plain = re.sub("[^a-z]", "", name.lower())
        known = next((field for field in _META_FIELDS if field.lower() == plain), None)
        if not equals or (known and (name.strip() != known or name[0].isspace() or known in fields)):
            raise _unread(path, line)
        fields[known or name.strip()] = value.strip()
    if missing := [key for key in ("NDims", "DimSize", "ElementType", "ElementDataFile") if key not in fields]:
        raise InputError(f"{path}: its header lacks {', '.join(missing)}. {_AGAIN}")
    axes = _whole(path, "NDims", fields["NDims"])[0]
    for names, numbers in ((_META_VECTORS, axes), (_META_MATRICES, axes**2)):
        for name in names:
            if name in fields and len(_numbers(path, name, fields[name])) != numbers:
                raise _unread(path, f"{name} = {fields[name]}")
    shape = _whole(path, "DimSize", fields["DimSize"])
    channels = _whole(path, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"))[0]
    kind = fields["ElementType"]
    binary = fields.get("BinaryData", "True")[:1] in "Tt1"
    if (
        len(shape) != axes
        or channels < 1
        or kind not in _META_BYTES
        or not binary
        or fields.get("ObjectType") != "Image"
    ):
        shown = {
            key: fields[key] for key in ("ObjectType", "NDims", "DimSize", "ElementType", "BinaryData") if key in fields
        }
        raise InputError(f"{path}: its header is of no image that is read here: {brief(shown)}. {_AGAIN}")
    _check_values(path, kind, channels)
    for name, neutral in _META_SCALING.items():  # of intensities, which ITK leaves undone
        if name in fields and _numbers(path, name, fields[name]) != [neutral]:
            raise _unread(path, f"{name} = {fields[name]}")
    needed = declared_bytes(path, shape, _META_BYTES[kind] * channels)
    local = fields["ElementDataFile"] in ("LOCAL", "Local", "local")
    named = fields["ElementDataFile"]
    if named.upper().startswith("LIST"):  # a list of files, one per line
        named += f" {head[end:].decode('latin-1').strip().partition(chr(10))[0]}"
    data_file = path if local else _beside(path, named)
    skipped = _whole(path, "HeaderSize", fields.get("HeaderSize", "0"))[0]
    if fields.get("CompressedData", "False")[:1] in "Tt1":
        if skipped:
            raise _unread(path, f"HeaderSize = {skipped}")
        check_compressed(path, data_file, end if local else 0, needed)
    elif skipped < -1 or (local and skipped):
        raise _unread(path, f"HeaderSize = {skipped}")
    else:  # -1: the voxels are at the end of the file
        check_plain(path, data_file, end if local else max(skipped, 0), needed)


def has_patient_space(path: Path) -> bool:
    """Return whether the header of a .nrrd file says where its voxels are in the patient, and not only in a scanner.

    ITK takes the axes of every other space, and of none, for left, posterior and superior.

    Raises:
        InputError: For a header that is not read.
        OSError: When the file cannot be read.
    """
    with path.open("rb") as f:
        fields, _ = _nrrd_fields(path, f.read(_MAX_HEADER))
    return fields.get("space", "").lower() in _PATIENT_SPACES and "spacedirections" in fields


def _nrrd_fields(path: Path, head: bytes) -> tuple[dict[str, str], int]:
    """Return the fields of a header by name, and where it ends."""
    blank = re.search(rb"\r?\n\r?\n", head)
    end = blank.end() if blank else len(head)
    first, *lines = _lines(path, head[: blank.start() if blank else len(head)]) or [""]
    if not re.fullmatch("NRRD000[1-6]", first):
        raise InputError(
            f"{path}: is not what its ending says; it does not begin with the mark of a NRRD file. {_AGAIN}"
        )
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        plain = re.sub("[^a-z]", "", name.lower())
        if name.startswith("#") or (colon and value.startswith("=")):  # a comment, or a key of the user's own
            continue
        if not colon or plain in fields:
            raise _unread(path, line)
        fields[plain] = value.strip()
    return fields, end


def _screen_nrrd(path: Path, head: bytes) -> None:
    fields, end = _nrrd_fields(path, head)
    if missing := [key for key in ("type", "dimension", "sizes", "encoding") if key not in fields]:
        raise InputError(f"{path}: its header lacks {', '.join(missing)}. {_AGAIN}")
    kind = re.sub("[^a-z0-9]", "", fields["type"].lower())
    voxel = next((size for size, names in _NRRD_BYTES.items() if kind in names), 0)
    shape = _whole(path, "sizes", fields["sizes"])
    encoding = fields["encoding"].lower()
    if (
        not voxel
        or [len(shape)] != _whole(path, "dimension", fields["dimension"])
        or encoding not in ("raw", "gzip", "gz")
    ):
        shown = {key: fields[key] for key in ("type", "dimension", "sizes", "encoding")}
        raise InputError(f"{path}: its header is of no image that is read here: {brief(shown)}. {_AGAIN}")
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(shape)
    for axis, size in zip(kinds, shape, strict=False):
        _check_values(path, fields["type"], 1 if axis in _SPATIAL_KINDS else size)
    spacings = fields.get("spacings", "").lower().split()
    if any(s == "nan" and k in _SPATIAL_KINDS for s, k in zip(spacings, kinds, strict=False)):
        raise _unread(path, f"spacings: {fields['spacings']}")
    needed = declared_bytes(path, shape, voxel)
    data_file = _beside(path, fields["datafile"]) if "datafile" in fields else path
    start = 0 if "datafile" in fields else end
    skipped = _whole(path, "byte skip", fields.get("byteskip", "0"))[0]
    if _whole(path, "line skip", fields.get("lineskip", "0")) != [0] or skipped < -1 or (skipped and encoding != "raw"):
        raise _unread(path, f"byte skip: {skipped}")
    if encoding == "raw":  # -1: the voxels are at the end of the file
        check_plain(path, data_file, start + max(skipped, 0), needed)
    else:
        check_compressed(path, data_file, start, needed)


def _check_values(path: Path, kind: str, values: int) -> None:
    """Raise an InputError for several values a voxel that ITK's Python package has no images for."""
    if values > 1 and not (kind.lower().removeprefix("met_") == "float" and values <= _MAX_VALUES):
        raise InputError(
            f"{path}: its header has {values} values of the type {kind} for each voxel, which are not read; write a "
            "file for each channel"
        )


def _lines(path: Path, header: bytes) -> list[str]:
    """Split a header into lines without control characters, at which ITK, unlike us, may end a line or a word."""
    lines = re.sub(rb"\r\n", b"\n", header).decode("latin-1").removesuffix("\n").split("\n")
    for line in lines:
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
            raise _unread(path, line)
    return lines


def _beside(path: Path, name: str) -> Path:
    """Return the file with the voxels, which a header names."""
    plain = name.removeprefix("./")
    listed = plain.upper().startswith(("LIST", "SKIPLIST"))
    if listed or not plain or plain in (".", "..") or re.search(r"[/\\%]", plain):
        reason = "a list or a pattern of files" if listed or "%" in plain else "a file that is not beside it"
        raise InputError(
            f"{path}: its header names {brief(name)}, {reason}, for its voxels; only one file in the same folder is "
            f"read. {_AGAIN}"
        )
    data_file = path.parent / plain
    if not data_file.is_file():
        raise InputError(f"{path}: its voxels are in {data_file}, but there is no such file; copy it there")
    if data_file.resolve().parent != path.parent.resolve():
        raise InputError(
            f"{path}: its voxels are in {data_file}, a link that leads out of the folder; copy the file there instead"
        )
    return data_file


def _whole(path: Path, name: str, text: str) -> list[int]:
    words = text.split()
    if not words or len(words) > 16 or not all(re.fullmatch("-?[0-9]{1,20}", word) for word in words):
        raise _unread(path, f"{name}: {text}")
    return [int(word) for word in words]


def _numbers(path: Path, name: str, text: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        raise _unread(path, f"{name}: {text}") from None
    if not all(map(math.isfinite, numbers)):
        raise _unread(path, f"{name}: {text}")
    return numbers


def _unread(path: Path, line: str) -> InputError:
    return InputError(
        f"{path}: its header has a line that is not read here: {brief(line)}; the file is damaged, or not what "
        f"its ending says. {_AGAIN}"
    )
