"""What a file of weights records about its training: an extra entry beside the tensors, which other readers skip.

A file that `torch.save` writes is a ZIP archive. The entry is JSON, so it can be displayed with
`unzip -p model.pt "*/mednextv2/about.json"`.
It stays when the file is copied or renamed, and the tensors remain a bare state dict.
"""

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from mednextv2.paths import expand
from mednextv2.wording import count

#: The name of the entry within the archive's own folder, since PyTorch allows no entries outside that folder.
ENTRY = "mednextv2/about.json"
_LIMIT = 50 * 2**20  # the largest number of bytes of JSON that are read


def add_about(path: str | os.PathLike, about: Mapping[str, Any]) -> None:
    """Add what is known about a training to a file of weights that was just written.

    Args:
        path: A file written by `torch.save`.
        about: Plain values, such as `fold`, `training` (the names of the cases trained on), `epoch` and `epochs`.
    """
    with zipfile.ZipFile(path, "a", compression=zipfile.ZIP_DEFLATED) as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{folder}/{ENTRY}", json.dumps(dict(about), ensure_ascii=False))


def read_about(path: str | os.PathLike) -> dict[str, Any]:
    """Return what a file of weights records about its training; an empty dictionary if it records nothing."""
    try:
        with zipfile.ZipFile(expand(path)) as archive:
            entry = archive.getinfo(f"{archive.namelist()[0].split('/')[0]}/{ENTRY}")
            if entry.file_size > _LIMIT:
                return {}
            content = json.loads(archive.read(entry))
    except (OSError, LookupError, ValueError, RecursionError, zipfile.BadZipFile):
        return {}
    return content if isinstance(content, dict) else {}


def trained_cases(files: Sequence[str | os.PathLike]) -> set[str]:
    """Return the names of all cases that any of these files of weights were trained on, as far as they record them."""
    found: set[str] = set()
    for file in files:
        names = read_about(file).get("training", [])
        found |= {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
    return found


def describe_weights(path: str | os.PathLike) -> str:
    """Say in a line what a file of weights is: its name, and what it records about its training."""
    about = read_about(path)
    if not about:
        return str(path)
    parts = []
    if isinstance(about.get("training"), list):
        parts.append(f"trained on {count(len(about['training']), 'case')}")
    if isinstance(about.get("dataset"), str):
        parts.append(f"of {about['dataset']}")
    if isinstance(about.get("fold"), (int, str)):
        parts.append(f"fold {about['fold']}")
    epoch, epochs = about.get("epoch"), about.get("epochs")
    if isinstance(epoch, int) and isinstance(epochs, int):
        parts.append(f"epoch {epoch} of {epochs}")
    if isinstance(about.get("date"), str):
        parts.append(about["date"])
    return f"{path} ({', '.join(parts)})"
