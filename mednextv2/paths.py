"""Folders that results go to."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mednextv2.errors import InputError


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
    folder = Path(folder).expanduser()
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
    temporary = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except (OSError, RuntimeError) as e:  # torch.save raises a RuntimeError on a full disk
        if isinstance(e, OSError):
            reason = e.strerror or str(e)
        else:
            reason = " ".join(str(e).split())[:200]
        raise InputError(f"{path}: cannot be written ({reason}); make room, or choose another folder") from e
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
