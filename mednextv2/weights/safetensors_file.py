"""Weights in the format safetensors: tensors and texts, which can hold no code.

The package safetensors is needed only where such a file is read or written. A network that has a tensor under several
names stores it once; the other names are in the file's metadata, each with the name of the tensor, as the package's own
`save_model` writes them. The record of the training is there, too, as JSON.
"""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from mednextv2.errors import InputError

#: The ending of such a file.
ENDING = ".safetensors"
#: The name of the record among the metadata.
RECORD = "mednextv2"
_FORMAT = {"format": "pt"}  # which tells other programs that the tensors are PyTorch's
_LENGTH = 8  # bytes at the beginning, with the length of the header
_LONGEST = 100 * 2**20  # bytes of a header, as the package allows


def is_safetensors(path: str | os.PathLike) -> bool:
    """Tell from its first bytes, or from its name if it is shorter, whether a file is in this format."""
    path = Path(path)
    try:
        with path.open("rb") as f:
            beginning = f.read(_LENGTH + 1)
    except OSError:
        return False
    if len(beginning) <= _LENGTH:
        return path.suffix.lower() == ENDING
    return beginning[_LENGTH:] == b"{" and 2 <= struct.unpack("<Q", beginning[:_LENGTH])[0] <= _LONGEST


def read_safetensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read all tensors onto the CPU, those with several names under each of them.

    Raises:
        InputError: If the package safetensors is not installed.
        Exception: Of the package, if the file is damaged.
    """
    with _package(path).safe_open(path, framework="pt", device="cpu") as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  (it is no dictionary)
        metadata = f.metadata() or {}
    aliases = {other: tensors[name] for other, name in metadata.items() if name in tensors and other not in tensors}
    return {**tensors, **aliases}


def read_header(path: str | os.PathLike) -> dict[str, Any]:
    """Return the record of the training in a file, without reading its tensors.

    Raises:
        ValueError: If the file is not whole, or its header is no JSON.
        LookupError: If it has no record.
        OSError: If it cannot be read.
    """
    with Path(path).open("rb") as f:
        length = f.read(_LENGTH)
        size = struct.unpack("<Q", length)[0] if len(length) == _LENGTH else _LONGEST + 1
        if size > _LONGEST:
            raise ValueError("it is cut off, or no file of safetensors")
        header = json.loads(f.read(size))
    record = json.loads(header["__metadata__"][RECORD])
    return record if isinstance(record, dict) else {}


def write_safetensors(state: Mapping[str, Tensor], path: str | os.PathLike, about: Mapping[str, Any] | None) -> None:
    """Write a state dict.

    Args:
        state: The tensors by name. Names of the same numbers in memory are stored once.
        path: The file, which is overwritten.
        about: What the weights record about their training.

    Raises:
        InputError: If the package safetensors is not installed.
        OSError: If the file cannot be written.
    """
    package = _package(path)
    tensors: dict[str, Tensor] = {}
    metadata = dict(_FORMAT)
    places: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        if place in places:
            metadata[name] = places[place]
        else:
            places[place] = name
            tensors[name] = tensor.detach().cpu().contiguous().clone()  # a part of a larger one may not be stored
    if about:
        metadata[RECORD] = json.dumps(dict(about), ensure_ascii=False)
    Path(path).write_bytes(package.torch.save(tensors, metadata))


def needs_safetensors(why: str) -> None:
    """Check that the package is there.

    Args:
        why: What needs it, for the message.

    Raises:
        InputError: If it is not installed.
    """
    _package(why)


def _package(why: str | os.PathLike) -> ModuleType:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as e:
        raise InputError(
            f"{why}: needs the package safetensors, which cannot be imported ({e}); install it with pip install "
            "'mednextv2[safetensors]'"
        ) from e
    return safetensors
