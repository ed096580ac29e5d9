"""Folders that appear only when they are complete, in the place of those that were there before."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mednextv2.errors import InputError, find_full_disk
from mednextv2.paths import new_folder, remove_leftovers, temporary_name


@contextlib.contextmanager
def writing_folder(target: Path, setting: str) -> Iterator[Path]:
    """Provide a temporary folder beside `target`, which is removed when the block ends; it is on the same disk.

    Args:
        target: The folder to be made of its content, with :func:`put_in_place`.
        setting: The name of the setting with the folder around it, for messages.

    Yields:
        The temporary folder.

    Raises:
        InputError: If the folder around it cannot be written, or the disk becomes full in the block.
    """
    with new_folder(target.parent, setting) as around:
        remove_leftovers(around)
        temporary = temporary_name(target)
        try:
            temporary.mkdir()
            yield temporary
        except InputError:
            raise
        except Exception as e:
            if full := find_full_disk(e):
                raise InputError(
                    f"{target}: cannot be written ({full.strerror}); make room, or choose another folder"
                ) from e
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(new: Path, target: Path, kept: Path | None) -> None:
    """Rename a complete folder to `target`.

    Args:
        new: The folder, on the same disk.
        target: Its place. What was there gets the name `kept`, and is put back if the renaming fails.
        kept: Where the folder of before goes; None: it is removed when the new one is in its place.
    """
    before = kept or target.with_name(f".{target.name}.before")  # no leftover: a killed process would lose it
    had = os.path.lexists(target)
    if had:
        if kept is None:
            shutil.rmtree(before, ignore_errors=True)  # of a process that was killed between the last two lines
        target.rename(before)
    try:
        new.rename(target)
    except OSError:
        if had:
            before.rename(target)
        raise
    if kept is None:
        shutil.rmtree(before, ignore_errors=True)
