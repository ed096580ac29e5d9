"""Files of exported networks: which formats there are, what they record, and whether they are whole and harmless.

TorchScript and torch.export write ZIP archives, whose parts have checksums. TorchScript is a language of its own, whose
programs call PyTorch's operators only. An archive of torch.export may hold pickled objects, names of functions and
expressions, with which reading it would run code; such archives are refused.
"""

import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mednextv2.errors import InputError
from mednextv2.paths import expand
from mednextv2.weights import onnx_file
from mednextv2.weights.file_kinds import ENDINGS, describe_text, ending_of, kind_of
from mednextv2.weights.provenance import EXTRA, add_about

_BROKEN = (zipfile.BadZipFile, zlib.error)
_MOST_UNPACKED = 2**30  # bytes of all compressed parts together, which hold only code
_OPERATORS = re.compile(r"torch\.ops\.(aten|prims)\.\w+\.\w+|_operator\.\w+|torch\.sym_\w+|math\.\w+")
_SIZES = re.compile(r"L\['\w+'\]\.size\(\)\[\d+\]|'\w+'")  # what a guard knows of an input, and names of symbols
_SIGNS = re.compile(r"[\w\s+\-*/%(),<>=!]*")
_NAMES = re.compile(r"[A-Z][A-Za-z]*|[su]\d+|positive|integer|max|min|not|and|or")
_PARTS = (  # of an archive of torch.export
    r"models/\w+\.json|data/weights/(weight_\d+|\w+\.json)|data/constants/(tensor_\d+|\w+\.json)|"
    r"data/sample_inputs/\w+\.pt|extra/[\w./]+|archive_format|archive_version|byteorder|\.data/\w+|\.format/\w+"
)


def add_record(path: str | os.PathLike, about: Mapping[str, Any], configs: Mapping[str, Any] | None = None) -> None:
    """Add what is known about a network to its file that was just written; `read_about` returns it.

    Args:
        path: The file, in one of the formats of :data:`mednextv2.weights.file_kinds.ENDINGS`.
        about: Plain values.
        configs: The bundle's configurations by name, such as `metadata`. They are added to TorchScript only, where
            MONAI's `ckpt_export` puts them and MONAI Deploy looks for them.
    """
    ending = Path(path).suffix.lower()
    if ending == ".onnx":
        onnx_file.add_metadata(path, json.dumps(dict(about), ensure_ascii=False, sort_keys=True))
        return
    add_about(path, about, EXTRA)
    for name, content in (configs or {}).items() if ending == ".ts" else ():
        add_about(path, content, EXTRA, f"{name}.json")


def check_exported(path: str | os.PathLike) -> None:
    """Check that the file of an exported network is whole, and that reading it runs no code.

    Raises:
        InputError: If it is missing, damaged, of another format than its ending says, or refused.
    """
    file = expand(path)
    name = ENDINGS[file.suffix.lower()]
    if not file.is_file():
        raise InputError(
            f"{path}: there is no such file; export a network with mednextv2 export, or give other weights"
        )
    if (kind := kind_of(file)) not in ("", name):
        raise InputError(
            f"{path}: is no file of {name}, as its ending says, but of {kind}; give it the ending {ending_of(kind)}"
        )
    if text := describe_text(file):
        problem = text
    elif name == "ONNX":
        problem = onnx_file.check_digest(file)
    else:
        try:
            problem = _archive_problem(file, name)
        except (OSError, ValueError, LookupError, EOFError, RuntimeError, NotImplementedError, *_BROKEN) as e:
            problem = " ".join(str(e).split())[:200] or type(e).__name__
    if problem:
        raise InputError(f"{path}: not a file of {name}, or a damaged one ({problem}); export the network again")


def _archive_problem(file: Path, name: str) -> str:
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if len({part.filename for part in parts}) < len(parts):
            return "two of its parts have the same name"
        packed = [part for part in parts if part.compress_type != zipfile.ZIP_STORED]
        stored = sum(part.file_size for part in parts) - sum(part.file_size for part in packed)
        if stored > file.stat().st_size or sum(part.file_size for part in packed) > _MOST_UNPACKED:
            return "its parts overlap, or are larger when unpacked than a network is"
        if broken := archive.testzip():
            return f"the checksum of {broken} does not hold"
        folder = parts[0].filename.split("/")[0] if parts else ""
        names = {part.filename.removeprefix(f"{folder}/") for part in parts}
        if name == "TorchScript":
            return "" if "constants.pkl" in names and "data.pkl" in names else "it holds no TorchScript program"
        if "archive_format" not in names:
            return "it holds no program of torch.export"
        _refuse_code(file, archive, folder, names)
    return ""


def _refuse_code(file: Path, archive: zipfile.ZipFile, folder: str, names: set[str]) -> None:
    """Raise an InputError for an archive of torch.export whose reading would run more than PyTorch's operators."""
    if odd := sorted(name for name in names if not re.fullmatch(_PARTS, name)):
        raise _refused(file, odd[0])
    for name in sorted(names):
        if name.endswith(".json") and not name.startswith("extra/"):
            for key, value in _entries(json.loads(archive.read(f"{folder}/{name}"))):
                if key == "use_pickle" and value is not False:
                    raise _refused(file, "a pickled object")
                if key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", str(value)):
                    raise _refused(file, str(value))
                if key == "target" and isinstance(value, str) and not _OPERATORS.fullmatch(value):
                    raise _refused(file, value)
                if odd := [text for text in _expressions(key, value) if not _is_arithmetic(text)]:
                    raise _refused(file, f"the expression {odd[0]}")
        elif name.startswith("data/sample_inputs/"):
            try:
                torch.load(io.BytesIO(archive.read(f"{folder}/{name}")), weights_only=True)
            except Exception as e:
                raise _refused(file, "inputs that are not tensors") from e


def _expressions(key: str, value: Any) -> list[str]:
    """Return the texts that PyTorch evaluates: sizes, and conditions on sizes."""
    if key == "guards_code" and isinstance(value, list):
        return list(map(str, value))
    return [str(value)] if key == "expr_str" else []


def _is_arithmetic(text: str) -> bool:
    rest = _SIZES.sub("1", text)
    return bool(_SIGNS.fullmatch(rest)) and all(map(_NAMES.fullmatch, re.findall(r"[A-Za-z_]\w*", rest)))


def _refused(file: Path, what: str) -> InputError:
    return InputError(
        f"{file}: refused, since reading it could run code that it names ({what[:100]}); export the network again with "
        "mednextv2 export"
    )


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value in nested containers."""
    stack = [content]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            yield from part.items()
        if isinstance(part, (dict, list)):
            stack.extend(part.values() if isinstance(part, dict) else part)
