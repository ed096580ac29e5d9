"""Locks on folders to which one process writes at a time; a lock ends with its process, however that ends."""

import atexit
import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from mednextv2.errors import InputError
from mednextv2.paths import missing_folders, remove_empty
from mednextv2.wording import flag

logger = logging.getLogger(__name__)

NAME = ".in-use"
_held: dict[Path, IO[str]] = {}  # kept as long as this process lives
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EACCES, errno.EPERM, errno.EROFS)


def hold_folder(folder: str | os.PathLike, setting: str) -> None:
    """Keep other processes from writing to a folder until this one ends.

    The lock belongs to the system and is on a file `.in-use` that names its holder. If the file system has no locks, a
    warning is logged, and nothing is locked. A second call for the same folder changes nothing.

    Args:
        folder: A folder that exists.
        setting: The name of the setting with the folder, for the message.

    Raises:
        InputError: If another process holds the folder; the message names the process, its host and the time.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    path = Path(folder).expanduser().resolve() / NAME
    if path in _held:
        return
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as e:
        logger.warning("%s: cannot be locked (%s); make sure that no other process writes there", folder, e.strerror)
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = _describe(file.read())
        file.close()
        raise InputError(
            f"{setting} {folder}: {holder} writes there; wait until it ends, stop it, or give another {flag(setting)}"
        ) from None
    except OSError as e:
        file.close()
        if e.errno not in _WITHOUT_LOCKS:
            raise
        logger.warning("%s: has no locks (%s); make sure that no other process writes there", folder, e.strerror)
        return
    os.ftruncate(file.fileno(), 0)
    since = datetime.now().astimezone().isoformat(timespec="minutes")
    own = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
    with contextlib.suppress(OSError):  # raised by a full disk: the folder is locked, but its holder is not named
        os.write(file.fileno(), json.dumps(own).encode())
    if not _held:
        atexit.register(_release_all)
    _held[path] = file


def _release_all() -> None:
    for path in list(_held):
        release_folder(path.parent)


def release_folder(folder: str | os.PathLike) -> None:
    """Release a folder before the process ends."""
    path = Path(folder).expanduser().resolve() / NAME
    if file := _held.pop(path, None):
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()


@contextlib.contextmanager
def holding_from_the_start(folder: str | os.PathLike, setting: str) -> Iterator[None]:
    """Hold a folder in a block that creates it only after some seconds, such as those in which PyTorch is imported.

    The folder is created at once and is removed again if it is empty in the end. If it cannot be created or locked, the
    block runs all the same, since it is the block that says so.

    Args:
        folder: The folder.
        setting: The name of the setting with the folder, for the message.

    Raises:
        InputError: If another process holds the folder.
    """
    path = Path(folder).expanduser().absolute()
    missing = missing_folders(path)
    held_before = path.resolve() / NAME in _held
    try:
        with contextlib.suppress(OSError):
            path.mkdir(parents=True, exist_ok=True)
            hold_folder(path, setting)
        yield
    finally:
        if not held_before:
            release_folder(path)
        remove_empty(missing)


def _describe(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['process']} on {holder['host']}, since {holder['since']},"
    except (ValueError, KeyError, TypeError):
        return "another process"
