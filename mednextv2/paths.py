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
from mednextv2.wording import brief, flag

_OLD_S = 2 * 86400.0
_LITTLE_ROOM = 1 << 16  # bytes; a disk with less has no space for the file

#: The settings of workflows whose values are paths.
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
    """Return an absolute path, with `~` replaced by the home folder; links are kept.

    Raises:
        InputError: As of :func:`expand`, and if the path is relative and the working directory was deleted.
    """
    try:
        return expand(path).absolute()
    except OSError as e:
        raise InputError(f"{path}: cannot be made an absolute path ({e}); give the whole path from /") from e


def prepare_folder(folder: str | os.PathLike, setting: str) -> Path:
    """Create a folder, and make sure that files can be written there.

    Args:
        folder: The folder; created with its parents if missing.
        setting: The name of the setting with the folder, for the message.

    Returns:
        The folder.

    Raises:
        InputError: If the folder cannot be created or written.
    """
    folder = expand(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise InputError(
            f"{setting} {folder}: cannot be written ({e.strerror or e}); choose another folder "
            f"{'as' if setting.isupper() else 'with'} {flag(setting)}"
        ) from e
    return folder


@contextmanager
def new_folder(folder: str | os.PathLike, setting: str) -> Iterator[Path]:
    """Create a folder as :func:`prepare_folder` does; after an error, remove it again if it is empty.

    Args:
        folder: The folder.
        setting: The name of the setting with the folder.

    Yields:
        The folder.
    """
    folder = expand(folder)
    missing = missing_folders(folder)
    try:
        yield prepare_folder(folder, setting)
    except BaseException:
        remove_empty(missing)
        raise


def try_folder(folder: str | os.PathLike, setting: str) -> None:
    """Make sure that a folder can be created and written, without leaving one; arguments are as in `prepare_folder`."""
    folder = expand(folder)
    missing = missing_folders(folder)
    try:
        prepare_folder(folder, setting)
    finally:
        remove_empty(missing)


def missing_folders(folder: Path) -> list[Path]:
    """Return those of a folder and its parents that do not exist, the deepest first."""
    # os.path: for a name that is too long, it returns False, while Path.exists raises an error
    return [path for path in (folder, *folder.parents) if not os.path.exists(path)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the deepest first, until one is not empty."""
    with suppress(OSError):  # raised by the first folder that is not empty
        for folder in folders:
            if os.path.exists(folder):
                folder.rmdir()


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the temporary files and folders in a folder that processes of this machine left and that no longer run.

    Files of running processes are kept. Files of other machines, on a shared file system, are removed after two days.
    """
    for file in expand(folder).glob(".part-*"):
        match = re.match(r"\.part-(\d+)(?:\.([0-9a-f]{8}))?-", file.name)
        if match is None:
            continue
        with suppress(OSError):
            own = match[2] in (None, _host())
            if (own and not _is_alive(int(match[1]))) or time.time() - file.stat().st_mtime > _OLD_S:
                shutil.rmtree(file) if file.is_dir() else file.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the file belongs to another user
        return True
    return True


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def temporary_name(path: Path) -> Path:
    """Return the name that a file or folder has while it is written: see :func:`remove_leftovers`."""
    return path.with_name(f".part-{os.getpid()}.{_host()}-{path.name}")


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[Path]:
    """Provide a temporary file in the same folder, which is renamed to `path` if the block ends without an error.

    A reader sees the old file or the whole new one; after an error, only the old one exists.

    Args:
        path: The file to write; an existing one is replaced.

    Yields:
        The temporary file's name; it has the same endings as `path`.

    Raises:
        InputError: If the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = temporary_name(path)
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
    """Say why a file could not be written; NumPy and ITK do not report that the disk is full."""
    if full := find_full_disk(error):
        return full.strerror or str(full)
    with suppress(OSError):
        if shutil.disk_usage(folder).free < _LITTLE_ROOM:
            return os.strerror(errno.ENOSPC)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200]
