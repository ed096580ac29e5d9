"""Folders that results go to."""

import os
import tempfile
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
