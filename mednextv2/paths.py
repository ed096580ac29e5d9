"""Paths that users give, and files that appear only when they are complete."""

import errno
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mednextv2.errors import InputError, find_full_disk
from mednextv2.wording import brief

_OLD_S = 2 * 86400.0
_LITTLE_ROOM = 1 << 16  # bytes; a disk with less has no room for what was to be written

#: The settings of workflows that are paths.
PATHS = (
    "bundle_root",
    "dataset_dir",
    "input",
    "labels_dir",
    "logging_file",
    "meta_file",
    "output_dir",
    "postprocessing_file",
    "prepared_dir",
    "pretrained",
    "splits",
    "weights",
)


def expand(path: str | os.PathLike) -> Path:
    """Return a path as the user means it, with `~` replaced by the home folder, whether or not it exists.

    From then on the path can be asked whether it exists, which is an error of Python's for some paths.

    Raises:
        InputError: If nothing can be there: `~` means nobody, a name is too long, links go round in a circle, or a
            folder above it must not be entered.
    """
    try:
        expanded = Path(path).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            expanded.stat()
    except (OSError, RuntimeError, ValueError) as e:  # of pathlib for ~nobody; of a null character in a path
        reason = (isinstance(e, OSError) and e.strerror) or e
        raise InputError(f"{brief(str(path))}: cannot be used as a path ({reason}); give another one") from e
    return expanded


def absolute(path: str | os.PathLike) -> Path:
    """Return a path from the root of the file system, with `~` replaced by the home folder; links are kept.

    Raises:
        InputError: As of :func:`expand`; and if the path is relative and the working directory was deleted.
    """
    try:
        return expand(path).absolute()
    except OSError as e:
        raise InputError(f"{path}: cannot be made an absolute path ({e}); give the whole path from /") from e


def prepare_folder(folder: str | os.PathLike, setting: str) -> Path:
    """Make a folder, and make sure that files can be written there.

    Args:
        folder: The folder; made with its parents if missing.
        setting: The name of the setting it comes from, for the message.

    Returns:
        The folder.

    Raises:
        InputError: When it cannot be made or written.
    """
    folder = expand(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise InputError(
            f"{setting} {folder}: cannot be written ({e.strerror or e}); choose another folder with --{setting}"
        ) from e
    return folder


@contextmanager
def new_folder(folder: str | os.PathLike, setting: str) -> Iterator[Path]:
    """Make a folder as :func:`prepare_folder` does; after an error take it away again, if nothing came into it.

    Args:
        folder: The folder.
        setting: The name of the setting it comes from.

    Yields:
        The folder.
    """
    folder = expand(folder)
    missing = _missing(folder)
    try:
        yield prepare_folder(folder, setting)
    except BaseException:
        _remove_empty(missing)
        raise


def try_folder(folder: str | os.PathLike, setting: str) -> None:
    """Make sure that a folder can be made and written, and leave no new one behind; arguments as `prepare_folder`."""
    folder = expand(folder)
    missing = _missing(folder)
    try:
        prepare_folder(folder, setting)
    finally:
        _remove_empty(missing)


def _missing(folder: Path) -> list[Path]:
    # os.path: a name that is too long does not exist, while Path.exists raises an error
    return [path for path in (folder, *folder.parents) if not os.path.exists(path)]


def _remove_empty(folders: Iterable[Path]) -> None:
    with suppress(OSError):  # the first that is not empty
        for folder in folders:
            if os.path.exists(folder):
                folder.rmdir()


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the temporary files that processes of this machine, which are gone, left in a folder.

    Those of living processes stay. Those of other machines, on a shared file system, are removed after two days.
    """
    for file in expand(folder).glob(".part-*"):
        match = re.match(r"\.part-(\d+)(?:\.([0-9a-f]{8}))?-", file.name)
        if match is None:
            continue
        with suppress(OSError):
            own = match[2] in (None, _host())
            if (own and not _is_alive(int(match[1]))) or time.time() - file.stat().st_mtime > _OLD_S:
                file.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary file in the same folder, which takes the name of `path` when the block ends well.

    A reader sees the old file or the whole new one; after an error the old one is there and nothing else.

    Args:
        path: The file to write; an existing one is replaced.

    Yields:
        The temporary file's name; it keeps the endings of `path`.

    Raises:
        InputError: When the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".part-{os.getpid()}.{_host()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except (OSError, RuntimeError) as e:  # PyTorch and ITK raise a RuntimeError on a full disk
        reason = _reason(e, path.parent)
        raise InputError(f"{path}: cannot be written ({reason}); make room, or choose another folder") from e
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _reason(error: Exception, folder: Path) -> str:
    """Say why a file could not be written; NumPy and ITK do not tell that the disk is full."""
    if full := find_full_disk(error):
        return full.strerror or str(full)
    with suppress(OSError):
        if shutil.disk_usage(folder).free < _LITTLE_ROOM:
            return os.strerror(errno.ENOSPC)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200]
