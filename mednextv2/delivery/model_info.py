"""The index of packed bundles, `models/model_info.json`, as MONAI's model zoo has it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mednextv2.delivery.names import sort_key, split_versioned, versioned
from mednextv2.errors import InputError
from mednextv2.paths import new_folder, writing
from mednextv2.text_files import read_json
from mednextv2.wording import brief

#: Where the index is in a repository; MONAI's download command reads it there.
MODEL_INFO = "models/model_info.json"
_CHECKSUM = re.compile(r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """A version of a bundle in the index.

    Attributes:
        source: The address of the archive.
        checksum: Its SHA-256; in the indices of others also SHA-1 or MD5, which have fewer digits.
    """

    source: str
    checksum: str


def read_entries(content: Any, name: str, origin: str) -> dict[str, Entry]:
    """Return the versions of a bundle in an index, the oldest first.

    Args:
        content: The content of the index.
        name: The name of the bundle.
        origin: The address of the index, for messages.

    Raises:
        InputError: If the content is no index, or it does not have the bundle.
    """
    if not isinstance(content, dict):
        raise InputError(f"{origin}: should hold versions of bundles by name, but holds {brief(content)}")
    found, others = {}, set()
    for key, value in content.items():
        if (parts := split_versioned(key)) is None:
            continue
        if parts[0] == name:
            found[parts[1]] = _entry(key, value, origin)
        others.add(parts[0])
    if not found:
        raise InputError(f"{origin}: has no bundle {name}; it has {', '.join(sorted(others)[:20]) or 'none'}")
    return {version: found[version] for version in sorted(found, key=sort_key)}


def _entry(key: str, value: Any, origin: str) -> Entry:
    source, checksum = (value.get(k) if isinstance(value, Mapping) else None for k in ("source", "checksum"))
    if not isinstance(source, str) or not isinstance(checksum, str) or not _CHECKSUM.fullmatch(checksum.lower()):
        raise InputError(f"{origin}: {key} should have the address of an archive as source, and its checksum")
    return Entry(source, checksum.lower())


def add_entry(file: Path, name: str, version: str, entry: Entry) -> None:
    """Add a version of a bundle to an index, which is created if it is missing.

    Args:
        file: The index.
        name: The name of the bundle.
        version: The version.
        entry: What is recorded.

    Raises:
        InputError: If the index has the version with another content, since others may have fetched it, or the file
            cannot be read or written.
    """
    content = read_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        raise InputError(f"{file}: should hold versions of bundles by name, but holds {brief(content)}")
    key = versioned(name, version)
    if key in content and _entry(key, content[key], str(file)).checksum != entry.checksum:
        raise InputError(
            f"{file}: has {key} with another content already, which others may have fetched; give the bundle a new "
            "version in its task.yaml, and build it again with mednextv2 bundle"
        )
    content[key] = {"checksum": entry.checksum, "source": entry.source}
    with new_folder(file.parent, "output"), writing(file) as temporary:
        temporary.write_text(json.dumps(dict(sorted(content.items())), indent=4) + "\n", encoding="utf-8")
