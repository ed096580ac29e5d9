"""Reading and writing of checkpoint files without running code from them."""

import importlib
import os
import pickle
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mednextv2.errors import InputError
from mednextv2.paths import writing
from mednextv2.weights.provenance import add_about

_multiarray = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
#: NumPy scalars and arrays stand in many checkpoints of other projects (nnU-Net's logs); rebuilding them runs no code
#: of the file's choice.
_HARMLESS = [
    np.dtype,
    np.ndarray,
    _multiarray.scalar,
    _multiarray._reconstruct,
    *{type(np.dtype(t)) for t in (np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_)},
]
_TURN = threading.RLock()  # held while they are in PyTorch's list: another thread's end of reading would take them out


def load_file(path: str | os.PathLike) -> Any:
    """Read a checkpoint onto the CPU, tensors and plain containers only.

    Args:
        path: A file written by `torch.save`.

    Returns:
        What the file holds.

    Raises:
        InputError: When the file is missing, damaged, or needs code to be run to read it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint file; train first, or give the weights of a training")
    try:
        with _harmless_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if "weights_only" in str(e).lower() and "GLOBAL" in str(e):
            found = re.search(r"GLOBAL (\S+)", str(e))
            code = found[1] if found else "a class or function"
            raise InputError(
                f"{path}: refused, since reading it would run code that it names ({code}). In the program "
                "that made it, save the state dict alone: torch.save(network.state_dict(), path)"
            ) from e
        raise _damaged(path, e) from e
    except Exception as e:  # a text read as a pickle raises nearly anything
        raise _damaged(path, e) from e


def unwrap_state(content: Any) -> Any:
    """Return the state dict inside a checkpoint of a trainer, with the names of the network alone.

    Args:
        content: What a file holds: a state dict, or a dict that has one under `model`, `network_weights` (nnU-Net v2)
            or `state_dict` (nnU-Net v1, Lightning). Names may begin with `module.` (DataParallel and
            DistributedDataParallel) and `_orig_mod.` (torch.compile).

    Returns:
        The state dict; what is none is returned as it is.
    """
    for key in ("network_weights", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return content
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", key): value for key, value in content.items()}


@contextmanager
def _harmless_allowed() -> Iterator[None]:
    """Let PyTorch read what is harmless; its list is the whole process's, and what others put there stays."""
    with _TURN:
        new = [kind for kind in _HARMLESS if kind not in torch.serialization.get_safe_globals()]
        with torch.serialization.safe_globals(new):
            yield


def _damaged(path: Path, error: Exception) -> InputError:
    text = re.split(r"WeightsUnpickler error:", str(error))[-1]  # before it stands advice to load without safety
    detail = " ".join(re.split(r"Please file|Check the documentation", text)[0].split())[:200]
    return InputError(f"{path}: not a PyTorch checkpoint, or a damaged one ({type(error).__name__}: {detail})")


def save_file(content: Any, path: str | os.PathLike, about: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint so that a reader sees the old file or the whole new one, never a part.

    Args:
        content: Tensors in plain containers.
        path: Where to; an existing file is replaced.
        about: What weights tell about their training: see :mod:`mednextv2.weights.provenance`.

    Raises:
        InputError: When the folder cannot be written or the disk is full.
    """
    with writing(path) as temporary:
        with temporary.open("wb") as f:
            torch.save(content, f)
        if about:
            add_about(temporary, about)
        with temporary.open("rb+") as f:
            os.fsync(f.fileno())
