"""The checksum that a file of weights should have, where somebody has written it down."""

import os
import re
from pathlib import Path

from mednextv2.errors import InputError
from mednextv2.paths import expand
from mednextv2.weights.files import digest_file

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LIMIT = 2**20  # the largest number of bytes of a list of checksums


def check_checksum(file: str | os.PathLike, sha256: str | None = None) -> None:
    """Compare a file with its checksum, if that is known.

    Args:
        file: The file; if it does not exist, nothing is compared.
        sha256: The SHA-256, as hexadecimal digits. By default, it is read from `<file>.sha256`, in the format of the
            program `sha256sum`, if there is one.

    Raises:
        InputError: If they differ, or what is given is no SHA-256.
    """
    path = expand(file)
    expected, place = ("", "") if sha256 is None else (str(sha256).strip().lower(), "pretrained_sha256")
    if place and not _SHA256.fullmatch(expected):
        raise InputError(f"pretrained_sha256 {sha256!r}: should be 64 hexadecimal digits, as sha256sum prints them")
    if not path.is_file():
        return
    if not expected:
        expected, place = _written_beside(path)
    if expected and (found := digest_file(path)) != expected:
        raise InputError(
            f"{file}: is another file than was meant, or a damaged one. Its SHA-256 is {found}, but {place} says "
            f"{expected}; download the file again"
        )


def _written_beside(path: Path) -> tuple[str, str]:
    """Return the checksum that is written beside a file, and where."""
    beside = path.with_name(f"{path.name}.sha256")
    try:
        if not beside.is_file() or beside.stat().st_size > _LIMIT:
            return "", ""
        text = beside.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    lines = [line.split() for line in text.lower().splitlines() if line.strip()]
    named = [words[0] for words in lines if len(words) == 1 or words[-1].lstrip("*") == path.name.lower()]
    if named and _SHA256.fullmatch(named[0]):
        return named[0], str(beside)
    raise InputError(
        f"{beside}: should hold the SHA-256 of {path.name} as sha256sum prints it; write it again, or remove this file"
    )
