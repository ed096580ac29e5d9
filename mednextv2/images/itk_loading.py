"""Use of ITK with threads: loading it changes the working directory, and its readers take turns."""

import threading
from collections.abc import Iterable
from typing import Any

#: Held while ITK reads: there is no guarantee that several threads may use its readers at once.
ITK_TURN = threading.Lock()

_lock = threading.Lock()
_loaded: list[Any] = []


def load_itk() -> Any:
    """Import ITK with all of its modules that read and write images.

    ITK loads a module at its first use, and changes the working directory during that time, so another thread's
    relative paths would not be found. It is therefore loaded as a whole, and before threads are started.

    Returns:
        The package `itk`.
    """
    with _lock:
        if not _loaded:
            import itk

            for name in ("ImageFileReader", "ImageFileWriter", "GDCMImageIO", "PyBuffer"):
                getattr(itk, name)
            _loaded.append(itk)
    return _loaded[0]


def load_itk_for(files: Iterable[Any]) -> None:
    """Load ITK if it will read one of the files, which is any file but NIfTI."""
    if any(not str(file).lower().endswith((".nii", ".nii.gz")) for file in files):
        load_itk()
