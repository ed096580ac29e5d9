"""Probabilities of a whole image on disk, computed and resampled to the image's grid one class at a time."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Invertd

from mednextv2.errors import InputError
from mednextv2.images.dicom_tilt import to_slices
from mednextv2.inference.sliding_window import StreamingInferer
from mednextv2.paths import prepare_folder, writing


@contextmanager
def probabilities_into(
    path: str | os.PathLike, inferer: Any, regions: bool
) -> Iterator[Callable[[MetaTensor, Invertd], None]]:
    """Let an inferer write an image's probabilities while it decides its labels.

    Args:
        path: The `.npy` file to write: `(outputs, X, Y, Z)`, float16, on the image's grid, to be read with
            `numpy.load(path, mmap_mode="r")`. It appears when it is complete.
        inferer: A :class:`StreamingInferer`.
        regions: Whether outputs are regions; otherwise they are classes, and the first is the background.

    Yields:
        A function that resamples them to the image's grid. It is called once inside the block, with the preprocessed
        image `(C, ...)` and the inverse of its preprocessing.

    Raises:
        InputError: When the inferer does not stream, the file does not end in .npy, or it cannot be written.
    """
    path = Path(path)
    if not isinstance(inferer, StreamingInferer):
        raise InputError(f"{path}: probabilities need the bundle's StreamingInferer, not {type(inferer).__name__}")
    if path.suffix != ".npy":
        raise InputError(f"{path}: the file of probabilities should end in .npy")
    prepare_folder(path.parent, "output")
    made: list[np.ndarray] = []
    cells = path.with_name(f".part-{os.getpid()}-cells-{path.name}")

    def make(shape: tuple[int, ...]) -> np.ndarray:
        try:
            made.append(_mapped(cells, shape))
        except OSError as e:
            raise InputError(
                f"{path}: cannot be written ({e.strerror or e}); make room, or choose another folder"
            ) from e
        return made[-1]

    def finish(image: MetaTensor, inverse: Invertd) -> None:
        with writing(path) as whole:
            _to_image_grid(made.pop(), whole, image, inverse, regions)

    inferer.probabilities = make
    try:
        yield finish
    finally:
        inferer.probabilities = None
        made.clear()
        cells.unlink(missing_ok=True)


def _to_image_grid(cells: np.ndarray, file: Path, image: MetaTensor, inverse: Invertd, regions: bool) -> None:
    target = None
    for output, values in enumerate(cells):
        background = output == 0 and not regions
        part = torch.from_numpy(np.asarray(values, dtype=np.float32))[None]
        part = 1 - part if background else part  # voxels that preprocessing cut off are background
        item = inverse({"image": image, "pred": MetaTensor(part)})
        found = item["pred"].as_tensor()[0].numpy()
        if target is None:
            target = _mapped(file, (len(cells), *found.shape))
        target[output] = 1 - found if background else found
    if target is not None:
        target.flush()


def _mapped(file: Path, shape: tuple[int, ...]) -> np.memmap:
    """Make a file of zeros with its space allocated, since a full disk would kill the process at a later write."""
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as f:
            os.posix_fallocate(f.fileno(), 0, file.stat().st_size)
    return array


def bring_to_slices(path: str | os.PathLike, affine: np.ndarray, shape: tuple[int, ...]) -> None:
    """Resample the probabilities of a tilted DICOM series to its slices, one class at a time.

    Args:
        path: The `.npy` file, on the right-angled grid; it is replaced.
        affine: The affine of the slices.
        shape: The shape of the slices, `(columns, rows, slices)`.

    Raises:
        InputError: When the file cannot be written.
    """
    straight = np.load(path, mmap_mode="r")
    with writing(path) as temporary:
        back = np.lib.format.open_memmap(temporary, "w+", straight.dtype, (len(straight), *shape))
        for output, probabilities in zip(back, straight, strict=True):
            output[...] = to_slices(probabilities, affine, shape)
        back.flush()
