"""Archives of bundles: written so that equal files give equal bytes, and unpacked without trust in their content."""

import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from mednextv2.errors import InputError
from mednextv2.paths import writing
from mednextv2.wording import brief

_TIME = (1980, 1, 1, 0, 0, 0)  # of every file, since the archive shall not depend on the time when it was written
_MODE = stat.S_IFREG | 0o644
_PIECE = 2**20
_LARGEST = 20 * 2**30  # bytes of an unpacked bundle
_RATIO = 100  # texts are compressed to a tenth, weights hardly
_MOST = 20_000  # files; a pack has some four hundred


def write_archive(path: Path, folder: str, files: Mapping[str, bytes | Path]) -> None:
    """Write an archive with one folder.

    Args:
        path: The archive; an existing one is replaced.
        folder: The name of the folder.
        files: Content, or the file with it, by path within the folder.

    Raises:
        InputError: If the disk is full or the folder cannot be written.
    """
    with writing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{folder}/{name}", _TIME)
            entry.create_system, entry.external_attr = 3, _MODE << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            content = files[name]
            if isinstance(content, bytes):
                archive.writestr(entry, content)
                continue
            entry.file_size = content.stat().st_size
            with content.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, _PIECE)


def unpack_archive(path: Path, folder: str, target: Path, origin: str) -> Path:
    """Unpack an archive that has one folder, after checking all its entries.

    Args:
        path: The archive.
        folder: The name that the folder in it should have.
        target: An existing, empty folder for it.
        origin: Where the archive is from, for messages.

    Returns:
        The unpacked folder, in `target`.

    Raises:
        InputError: If the archive is damaged or is no ZIP archive, an entry would be written outside the folder or is
            no plain file, or the content is larger than a bundle can be or than the disk has space for.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(entries, folder, path.stat().st_size, origin)
            needed, free = sum(entry.file_size for entry in entries), shutil.disk_usage(target).free
            if needed > free:
                raise InputError(
                    f"{target.parent}: the bundle needs {needed / 2**20:.0f} MiB, of which {free / 2**20:.0f} MiB are "
                    "free; make room, or choose another folder"
                )
            for entry in entries:
                if not entry.is_dir():
                    _unpack(archive, entry, target / entry.filename)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as e:
        raise InputError(
            f"{origin}: is no ZIP archive, or a damaged or truncated one ({e}); fetch it again, or tell its owner"
        ) from e
    return target / folder


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, file.open("xb") as out:  # reads no more than the entry declares
        shutil.copyfileobj(source, out, _PIECE)


def _check_entries(entries: list[zipfile.ZipInfo], folder: str, size: int, origin: str) -> None:
    refused = f"{origin}: refused, since"
    seen: set[str] = set()
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        check_path(name, origin)
        if PurePosixPath(name).parts[0] != folder:
            raise InputError(
                f"{refused} its entry {brief(name)} is not in the folder {folder}; is it the archive of this bundle?"
            )
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{refused} its entry {brief(name)} is a link or a device, which no bundle has")
        if entry.flag_bits & 1:
            raise InputError(f"{refused} its entry {brief(name)} is encrypted")
        key = name.rstrip("/").casefold()
        if key in seen:
            raise InputError(f"{refused} its entry {brief(name)} stands twice, or twice but for capital letters")
        seen.add(key)
    unpacked, packed = sum(e.file_size for e in entries), sum(e.compress_size for e in entries)
    if len(entries) > _MOST or unpacked > _LARGEST or unpacked > _RATIO * max(size, 2**20) or packed > size:
        raise InputError(
            f"{refused} it would unpack {len(entries)} files with {unpacked / 2**20:.0f} MiB from {size / 2**20:.1f} "
            "MiB, which no bundle does"
        )


def check_path(name: str, origin: str) -> None:
    """Raise an InputError for a path of a file in a bundle that could lead out of its folder, on any system.

    Args:
        name: The path, with `/` between its parts.
        origin: Where the bundle is from, for the message.
    """
    parts = name.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in name for c in '\\:\0\n<>|?*"'):
        raise InputError(f"{origin}: refused, since its entry {brief(name)} is no plain path within a bundle's folder")
