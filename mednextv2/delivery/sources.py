"""Places from which packed bundles are fetched: GitHub, Hugging Face, and any web server."""

import re
import urllib.parse
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from mednextv2.delivery.archive import unpack_archive
from mednextv2.delivery.download import download, download_json
from mednextv2.delivery.hub import HuggingFace
from mednextv2.delivery.model_info import MODEL_INFO, Entry, read_entries
from mednextv2.delivery.names import split_versioned
from mednextv2.errors import InputError, UsageError

_RAW = "https://raw.githubusercontent.com"
_FORMS = (
    "github:OWNER/REPO/TAG, huggingface:OWNER/NAME, the address of a model_info.json, or the address of an archive "
    "NAME_vVERSION.zip"
)


class Source(Protocol):
    """A place with versions of bundles."""

    def versions(self, name: str) -> list[str]:
        """Return the versions of a bundle, the oldest first."""
        ...

    def get(self, name: str, version: str, folder: Path) -> Path:
        """Download a version into a folder; return the unpacked bundle in it, whose manifest is yet to be verified."""
        ...


class Index:
    """An index `model_info.json` on a web server, with the addresses and checksums of archives.

    Args:
        address: The address of the index.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._content: Any = None

    def versions(self, name: str) -> list[str]:
        """Return the versions of a bundle, the oldest first."""
        return list(self._entries(name))

    def get(self, name: str, version: str, folder: Path) -> Path:
        """Download an archive, compare its checksum with the index, and unpack it."""
        entry = self._entries(name)[version]
        address = urllib.parse.urljoin(self.address, entry.source)
        if address.startswith("file:") and not self.address.startswith("file:"):
            raise InputError(
                f"{self.address}: names a file of this computer as the archive, {address}, which is not read; tell its "
                "owner"
            )
        return _get_archive(address, name, folder, entry.checksum)

    def _entries(self, name: str) -> dict[str, Entry]:
        if self._content is None:
            self._content = download_json(self.address)
        return read_entries(self._content, name, self.address)


class Archive:
    """One archive on a web server.

    Args:
        address: Its address, which ends with `NAME_vVERSION.zip`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        file = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(address).path))
        if file.suffix != ".zip" or (parts := split_versioned(file.stem)) is None:
            raise UsageError(f"--source {address}: an archive is called NAME_vVERSION.zip, as mednextv2 pack names it")
        self.name, self.version = parts

    def versions(self, name: str) -> list[str]:
        """Return the version of the archive."""
        if name != self.name:
            raise InputError(f"{self.address}: is an archive of the bundle {self.name}, not of {name}")
        return [self.version]

    def get(self, name: str, version: str, folder: Path) -> Path:
        """Download and unpack the archive."""
        return _get_archive(self.address, name, folder, None)


def _get_archive(address: str, name: str, folder: Path, checksum: str | None) -> Path:
    archive, target = folder / "archive.zip", folder / "unpacked"
    download(address, archive, checksum)
    target.mkdir()
    return unpack_archive(archive, name, target, address)


def find_source(text: str) -> Source:
    """Return the place that a text names.

    Args:
        text: `github:OWNER/REPO/TAG`, `huggingface:OWNER/NAME`, the address of a `model_info.json`, or the address of
            an archive `NAME_vVERSION.zip`.

    Raises:
        UsageError: If it is none of these.
    """
    kind, _, rest = text.partition(":")
    if kind == "github" and re.fullmatch(r"[\w.-]+/[\w.-]+/[^/\s]+", rest):
        return Index(f"{_RAW}/{rest}/{MODEL_INFO}")
    if kind == "huggingface" and re.fullmatch(r"[\w.-]+/[\w.-]+", rest):
        return HuggingFace(rest)
    if kind in ("https", "http", "file"):
        return Index(text) if urllib.parse.urlsplit(text).path.endswith(".json") else Archive(text)
    raise UsageError(f"--source {text}: should be {_FORMS}")
