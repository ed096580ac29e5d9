"""What a file given as weights is: weights of PyTorch, an exported network, or nothing of the kind."""

import os
import re
import zipfile
from pathlib import Path

from mednextv2.weights import onnx_file
from mednextv2.weights.safetensors_file import is_safetensors

#: The ending of each format of exported networks, and its name.
ENDINGS = {".ts": "TorchScript", ".pt2": "torch.export", ".onnx": "ONNX"}
WEIGHTS = "weights of PyTorch"
SAFETENSORS = "safetensors"
_PICKLE = b"\x80"  # the first byte of weights in PyTorch's format of before 2020
_BEGINNING = 200  # bytes, from which a text is known
_SHOWN = 40  # characters of it in a message


def is_exported(path: str | os.PathLike) -> bool:
    """Tell from its ending whether a file holds an exported network, not weights."""
    return Path(path).suffix.lower() in ENDINGS


def kind_of(path: str | os.PathLike) -> str:
    """Tell from a file's content what it is.

    Args:
        path: An existing file.

    Returns:
        One of the formats of :data:`ENDINGS`, :data:`WEIGHTS`, :data:`SAFETENSORS`, or an empty text if it is something
        else, is damaged or cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = {name.partition("/")[2] for name in archive.namelist()}
            if "archive_format" in names:
                return "torch.export"
            if "data.pkl" in names:
                return "TorchScript" if "constants.pkl" in names else WEIGHTS
            return ""
        if is_safetensors(path):
            return SAFETENSORS
        with Path(path).open("rb") as f:
            if f.read(1) in (_PICKLE, b""):
                return ""
        onnx_file.read_metadata(path)
    except (OSError, ValueError, LookupError, NotImplementedError, zipfile.BadZipFile):
        return ""
    return "ONNX"


def exported_advice(path: str | os.PathLike) -> str:
    """Say what to give in the place of an exported network, where weights are expected; empty for other files."""
    suffix = Path(path).suffix.lower()
    kind = kind_of(path) or ENDINGS.get(suffix, "")
    if kind in ("", WEIGHTS, SAFETENSORS):
        return ""
    advice = f"is an exported network ({kind}); give the file of weights that it was made of, such as model.pt"
    ending = ending_of(kind)
    return advice if suffix == ending else f"{advice}. For prediction and evaluation, its name must end with {ending}"


def ending_of(kind: str) -> str:
    """Return the ending that a file of a kind must have."""
    return next((ending for ending, name in ENDINGS.items() if name == kind), ".pt")


def describe_text(path: str | os.PathLike) -> str:
    """Say that a file is empty or a text, such as the page of a failed download; empty if it is neither."""
    try:
        with Path(path).open("rb") as f:
            beginning = f.read(_BEGINNING)
    except OSError:
        return ""
    text = beginning.decode(errors="ignore")
    if not beginning:
        return "it is empty"
    if len(text.encode()) < len(beginning) - 3 or not all(c.isprintable() or c.isspace() for c in text):  # 3: cut off
        return ""
    words = " ".join(text.split())
    if words.startswith("version https://git-lfs"):
        return "it is only a pointer of Git LFS to the weights, which git lfs pull fetches"
    if re.match(r"<(!doctype|html|head|\?xml)", words, re.IGNORECASE):
        return f'it is a web page, as of a download that needs a login or went wrong; it begins with "{words[:_SHOWN]}"'
    return f'it is a text, which begins with "{words[:_SHOWN]}"'
