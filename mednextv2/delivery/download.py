"""Download of files over HTTP, checked for their length and checksum."""

import contextlib
import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mednextv2.errors import InputError, find_full_disk
from mednextv2.version import __version__

_TIMEOUT = 60  # seconds without an answer
_PIECE = 2**20
_LARGEST_INDEX = 20 * 2**20
_HASHES = {32: "md5", 40: "sha1", 64: "sha256"}  # by the number of their digits


def download(address: str, file: Path, checksum: str | None = None) -> None:
    """Download a file.

    Args:
        address: Its address, with `https`, `http` or `file`.
        file: Where it is written.
        checksum: Its SHA-256, SHA-1 or MD5 in hexadecimal digits; None: it is not compared.

    Raises:
        InputError: If the address cannot be reached, the connection breaks off, or the checksum is another.
    """
    digest = hashlib.new(_HASHES[len(checksum)] if checksum else "sha256", usedforsecurity=False)
    with _opened(address) as answer, file.open("wb") as out:
        length, there = answer.headers.get("Content-Length"), 0  # type: ignore[attr-defined]
        while piece := answer.read(_PIECE):
            digest.update(piece)
            there += out.write(piece)
    if length is not None and there != int(length):
        raise InputError(f"{address}: broke off after {there} of {length} bytes; fetch it again")
    if checksum and digest.hexdigest() != checksum.lower():
        raise InputError(
            f"{address}: has the checksum {digest.hexdigest()}, where {checksum} is expected; it was damaged on its "
            "way, or replaced. Nothing was installed; fetch it again, or tell its owner"
        )


def download_json(address: str) -> Any:
    """Return the content of a JSON file at an address.

    Raises:
        InputError: If it cannot be reached, is too large or is no JSON.
    """
    with _opened(address) as answer:
        content = answer.read(_LARGEST_INDEX + 1)
    if len(content) > _LARGEST_INDEX:
        raise InputError(f"{address}: has more than {_LARGEST_INDEX / 2**20:.0f} MiB; is it the right address?")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{address}: is no JSON file ({str(e)[:100]}); is it the right address?") from e


@contextlib.contextmanager
def _opened(address: str) -> Iterator[IO[bytes]]:
    if not address.startswith(("https://", "http://", "file:///")):
        raise InputError(f"{address}: should be an address that begins with https://, http:// or file:///")
    try:
        request = urllib.request.Request(address, headers={"User-Agent": f"mednextv2/{__version__}"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            yield answer
    except urllib.error.HTTPError as e:
        what = "is not there" if e.code == 404 else "cannot be fetched"
        raise InputError(f"{address}: {what} (HTTP status {e.code}); check the name, the version and the source") from e
    except (OSError, http.client.HTTPException, ValueError) as e:
        if isinstance(e, InputError) or find_full_disk(e):
            raise
        detail = " ".join(str(getattr(e, "reason", e)).split())[:200] or type(e).__name__
        raise InputError(
            f"{address}: cannot be fetched ({detail}); check the address and the connection, then try again"
        ) from e
