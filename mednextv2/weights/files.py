"""Reading and writing of checkpoint files without running code from them."""

import hashlib
import importlib
import io
import os
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mednextv2.errors import InputError, find_input_error
from mednextv2.paths import expand, writing
from mednextv2.weights.file_kinds import describe_text, exported_advice
from mednextv2.weights.provenance import ENTRY, add_about
from mednextv2.weights.safetensors_file import ENDING, is_safetensors, read_safetensors, write_safetensors

_multiarray = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
#: Many checkpoints of other projects contain NumPy scalars and arrays (nnU-Net's logs); rebuilding them runs no code of
#: the file's choice.
_HARMLESS: list[Any] = [
    np.dtype,
    np.ndarray,
    # NumPy 1 and 2 name the same functions after different modules, and each may read what the other wrote
    *(
        (getattr(_multiarray, name), f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    *{type(np.dtype(t)) for t in (np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_)},
]
_PIECE = 2**20  # number of bytes that are read at once
_ENDINGS = (".pt", ".pth", ENDING)
_SHOWN = 5  # number of a folder's files in a message
_ZIP = b"PK\x03\x04"  # the first bytes of an archive
_TURN = threading.RLock()  # held while they are in PyTorch's list, else another thread could remove them
_SAVE_SAFELY = (
    "In the program that made it, save the state dict alone: torch.save(network.state_dict(), path), or "
    "safetensors.torch.save_model(network, path)"
)


def load_file(path: str | os.PathLike) -> Any:
    """Read a checkpoint onto the CPU, with tensors and plain containers only.

    Args:
        path: A file written by `torch.save`, or in the format safetensors.

    Returns:
        The content of the file.

    Raises:
        InputError: When the file is missing, damaged, or cannot be read without running code, or the package
            safetensors is missing that it needs.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: {folder_advice(path)}")
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint file; train first, or give the weights of a training")
    if advice := exported_advice(path):
        raise InputError(f"{path}: {advice}")
    try:
        if is_safetensors(path):
            content: Any = read_safetensors(path)
        else:
            _check_no_plain_pickle(path)
            _check_archive(path)
            with _harmless_allowed():
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if "weights_only" in str(e).lower() and "GLOBAL" in str(e):
            found = re.search(r"GLOBAL (\S+)", str(e))
            code = found[1] if found else "a class or function"
            raise InputError(
                f"{path}: refused, since reading it would run code that it names ({code}). {_SAVE_SAFELY}"
            ) from e
        raise _damaged(path, e) from e
    except Exception as e:  # reading a text as a pickle can raise nearly any exception
        raise _damaged(path, e) from e
    if defect := _find_odd_tensor(content):
        raise InputError(f"{path}: {defect}; weights are plain tensors, of which each number is in the file")
    return content


def _check_no_plain_pickle(path: Path) -> None:
    """Raise an error for a pickle that Python wrote by itself; PyTorch's own files before 2020 are of protocol 2."""
    with path.open("rb") as f:
        start = f.read(2)
    if len(start) == 2 and start[0] == 0x80 and start[1] > 2:
        raise InputError(f"{path}: refused, since it is a pickle, and reading it could run any code. {_SAVE_SAFELY}")


def folder_advice(folder: Path) -> str:
    """Say what to give in the place of a folder, where a file of weights is expected."""
    try:
        found = sorted(
            file.relative_to(folder)
            for pattern in (f"{folders}*{ending}" for folders in ("", "*/") for ending in _ENDINGS)
            for file in folder.glob(pattern)
        )
    except OSError:
        found = []
    if not found:
        return "is a folder, and holds no file of weights; give a file of weights, such as the model.pt of a training"
    shown = ", ".join(map(str, found[:_SHOWN])) + f" and {len(found) - _SHOWN} others" * (len(found) > _SHOWN)
    best = next((file for file in found if file.name == "model.pt"), found[0])
    return f"is a folder; give the file of weights in it, such as {folder / best} (it holds {shown})"


def _check_archive(path: Path) -> None:
    """Raise an error when the content of a file in PyTorch's present format does not match its checksums.

    PyTorch does not compare them. PyTorch writes nothing compressed, so a compressed part could only serve to fill the
    memory.
    """
    with path.open("rb") as f:
        if f.read(len(_ZIP)) != _ZIP:
            return  # the format of before 2020, which has no checksums
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("it begins like a whole one, but its end is missing, as after an interrupted download")
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.filename.endswith(f"/{ENTRY}")]  # it is read elsewhere
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise zipfile.BadZipFile("it is compressed")
        names = {member.filename for member in members}
        if len(names) < len(members) or sum(member.file_size for member in members) > path.stat().st_size:
            raise zipfile.BadZipFile("its parts overlap")
        if broken := archive.testzip():  # reads in pieces
            raise zipfile.BadZipFile(f"the checksum of {broken} does not hold")


def _find_odd_tensor(content: Any) -> str:
    """Say which tensor needs numbers that are not in the file, or return an empty text."""
    stack, seen = [("", content)], set()
    while stack:
        name, part = stack.pop()
        if isinstance(part, Tensor):
            if problem := _oddity(part):
                return f"its tensor{name and ' '}{name} {problem}"
        elif isinstance(part, (dict, list, tuple)) and id(part) not in seen:  # a list may contain itself
            seen.add(id(part))
            parts = part.items() if isinstance(part, dict) else enumerate(part)
            stack += [(f"{name}.{key}".lstrip(".")[:100], value) for key, value in parts]
    return ""


def _oddity(tensor: Tensor) -> str:
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"is a {type(tensor).__name__}"
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        return "is sparse, nested or quantized"
    if tensor.device.type != "cpu":
        return f"has no numbers (device {tensor.device})"
    there, needed = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
    return f"repeats numbers: {needed} bytes of {there}" if needed > there else ""


def unwrap_state(content: Any) -> Any:
    """Return the state dict inside a checkpoint of a trainer, with only the names of the network.

    Args:
        content: The content of a file: a state dict, or a dict with a state dict under `model`, `network_weights`
            (nnU-Net v2) or `state_dict` (nnU-Net v1, Lightning). Names may begin with `module.` (DataParallel and
            DistributedDataParallel) and `_orig_mod.` (torch.compile).

    Returns:
        The state dict; anything else is returned unchanged.
    """
    for key in ("network_weights", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return content
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", key): value for key, value in content.items()}


@contextmanager
def _harmless_allowed() -> Iterator[None]:
    """Let PyTorch read harmless types. Its list belongs to the whole process; entries of others stay in it."""
    with _TURN:
        new = [kind for kind in _HARMLESS if kind not in torch.serialization.get_safe_globals()]
        with torch.serialization.safe_globals(new):
            yield


def _damaged(path: Path, error: Exception) -> InputError:
    if found := find_input_error(error):  # what the machine or the user lacks is not the file's fault
        return InputError(str(found))
    kind = "file of safetensors" if is_safetensors(path) else "PyTorch checkpoint"
    reason = describe_text(path)
    if not reason:
        text = re.split(r"WeightsUnpickler error:", str(error))[-1]  # the text before it advises to load without safety
        detail = " ".join(re.split(r"Please file|Check the documentation", text)[0].split())[:200]
        reason = detail if isinstance(error, zipfile.BadZipFile) else f"{type(error).__name__}: {detail}"
    return InputError(
        f"{path}: not a {kind}, or a damaged one ({reason}); copy the file again from where it was whole, "
        "or train again"
    )


def save_file(content: Any, path: str | os.PathLike, about: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint so that a reader sees the old file or the whole new one, never a part of it.

    Args:
        content: Tensors in plain containers; for a name that ends with `.safetensors`, a state dict.
        path: The file to write; an existing file is replaced.
        about: What the weights record about their training: see :mod:`mednextv2.weights.provenance`.

    Raises:
        InputError: When the folder cannot be written or the disk is full, or the package safetensors is missing.
    """
    with writing(path) as temporary:
        if temporary.suffix == ENDING:
            write_safetensors(content, temporary, about)
        else:
            with temporary.open("wb") as f:
                torch.save(content, f)
            if about:
                add_about(temporary, about)
        with temporary.open("rb+") as f:
            os.fsync(f.fileno())


def as_bytes(content: Any, about: Mapping[str, Any] | None = None) -> bytes:
    """Return what :func:`save_file` would write to a file in PyTorch's format."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    if about:
        add_about(buffer, about)
    return buffer.getvalue()


def digest_file(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits.

    Raises:
        InputError: When it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with expand(path).open("rb") as f:
            while piece := f.read(_PIECE):
                digest.update(piece)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror or e})") from e
    return digest.hexdigest()
