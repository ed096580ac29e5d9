"""The records of a conversion: what was written for each case, so that a second run skips it or makes it anew."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mednextv2.paths import writing
from mednextv2.text_files import read_json

#: The folder of a conversion's records in the folder that it writes.
RECORDS = ".conversion"
#: The form of the records. A higher number makes every case be converted again.
FORM = 1
#: Stands in a record for the digest of a file that is being written.
UNFINISHED = ""
_END = 1 << 16  # bytes at the front and at the back of a file that tell it from others; a .gz has its checksum there


def digest(file: Path) -> str:
    """Return the size of a file, and a digest of its first and last 64 KiB."""
    size = file.stat().st_size
    with file.open("rb") as f:
        content = f.read(_END)
        if size > _END:
            f.seek(max(size - _END, _END))
            content += f.read(_END)
    return f"{size} {hashlib.sha256(content).hexdigest()}"


def _record(target: Path, name: str) -> Path:
    return target / RECORDS / f"{name}.json"


def read_record(target: Path, name: str) -> dict[str, Any] | None:
    """Return the record of a case that was converted, or None."""
    file = _record(target, name)
    if not file.is_file():
        return None
    content = read_json(file, "delete it, so that the case is converted again")
    return content if isinstance(content, dict) and content.get("form") == FORM else None


def write_record(target: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write the record of a case.

    Args:
        target: The folder of the converted data set.
        name: The case.
        content: With `files`, the digest of each file by its path in the target, or `UNFINISHED`.
    """
    with writing(_record(target, name)) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def is_complete(target: Path, record: Mapping[str, Any]) -> bool:
    """Return whether all files of a case are there as they were written."""
    try:
        return all(digest(target / name) == found for name, found in record["files"].items())
    except OSError:
        return False


def forget_case(target: Path, name: str) -> None:
    """Remove what was written for a case from another or an incomplete source."""
    record = read_record(target, name)
    for file in [_record(target, name), *(target / file for file in (record or {"files": {}})["files"])]:
        with suppress(FileNotFoundError):
            file.unlink()
