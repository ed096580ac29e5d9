"""The manifest of a packed bundle: the SHA-256 of every file, in the format of the program `sha256sum`."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from mednextv2.errors import InputError
from mednextv2.text_files import read_text
from mednextv2.weights.files import digest_file
from mednextv2.wording import count

#: The name of the manifest, in the bundle's folder: `sha256sum --check SHA256SUMS` compares the files with it.
MANIFEST = "SHA256SUMS"
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<path>[^\n]+)")
_SHOWN = 5  # number of files named in a message


def manifest_text(files: Mapping[str, bytes | Path]) -> str:
    """Return the manifest of files.

    Args:
        files: Their content, or the file with it, by their paths in the bundle.

    Raises:
        InputError: If a file cannot be read.
    """
    return "".join(f"{_digest(files[path])}  {path}\n" for path in sorted(files))


def _digest(content: bytes | Path) -> str:
    return digest_file(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def read_manifest(root: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by its path, as a bundle's manifest states them.

    Args:
        root: The bundle's folder.

    Raises:
        InputError: If there is no manifest, or it has a line of another kind.
    """
    file, found = root / MANIFEST, {}
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not (match := _LINE.fullmatch(line)) or match["path"] in found:
            raise InputError(f"{file}: line {number} is no new file with its SHA-256; fetch the bundle again")
        found[match["path"]] = match["digest"]
    return found


def find_changes(root: Path) -> list[str]:
    """Return how the files of a bundle differ from its manifest; an empty list if they do not.

    Files that are not in the manifest do not count, see :func:`find_additions`.

    Args:
        root: The bundle's folder.
    """
    changes = []
    for path, digest in read_manifest(root).items():
        file = root / path
        if not file.is_file():
            changes.append(f"{path} is missing")
        elif digest_file(file) != digest:
            changes.append(f"{path} has another content")
    return changes


def find_additions(root: Path) -> list[str]:
    """Return the files of a bundle that its manifest does not name, except those that Python writes when it imports."""
    known = {*read_manifest(root), MANIFEST}
    files = (file.relative_to(root) for file in sorted(root.rglob("*")) if file.is_symlink() or not file.is_dir())
    return [file.as_posix() for file in files if file.as_posix() not in known and "__pycache__" not in file.parts]


def verify(root: Path, origin: str) -> None:
    """Raise an InputError if a bundle is not exactly what its manifest states.

    Args:
        root: The bundle's folder.
        origin: Where it was fetched from, for the message.
    """
    if not (root / MANIFEST).is_file():
        raise InputError(
            f"{origin}: the bundle has no {MANIFEST}, so its files cannot be verified; pack it with mednextv2 pack, or "
            "fetch it with python -m monai.bundle download, which verifies nothing"
        )
    wrong = find_changes(root) + [f"{path} is not in {MANIFEST}" for path in find_additions(root)]
    if wrong:
        others = f" and {count(len(wrong) - _SHOWN, 'other')}" if len(wrong) > _SHOWN else ""
        raise InputError(
            f"{origin}: the bundle is not as it was packed: {'; '.join(wrong[:_SHOWN])}{others}. It was not installed; "
            "fetch it again, or tell its owner"
        )
