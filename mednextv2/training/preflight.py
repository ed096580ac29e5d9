"""What must be true before the first step, so that a mistake does not cost an hour of training."""

import importlib
import importlib.util
import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from mednextv2.allocator import keep_freed_memory
from mednextv2.data.cases import DatasetFolder
from mednextv2.data.check import check_dataset
from mednextv2.data.check_warnings import missing_classes
from mednextv2.data.dataset import check_description
from mednextv2.data.header_check import check_headers
from mednextv2.distributed import is_main_process
from mednextv2.errors import SHARED_MEMORY_REMEDY, InputError
from mednextv2.label_scheme import LabelScheme, mirroring_warning
from mednextv2.locks import hold_folder, release_folder
from mednextv2.paths import expand, missing_folders, prepare_folder, remove_empty, remove_leftovers

logger = logging.getLogger(__name__)

_IMAGE_BYTES, _LABEL_BYTES = 4, 2  # bytes per voxel of a patch: float32, int16


def prepare_training(
    dataset: DatasetFolder,
    scheme: LabelScheme,
    channels: Sequence[str],
    spatial_dims: int,
    output_dir: str | os.PathLike,
    check_data: bool = True,
    mirror_axes: Sequence[int] = (),
    batch: Sequence[int] = (),
    num_workers: int = 0,
    prefetch_factor: int | None = None,
    pin_memory: bool = False,
) -> None:
    """Check the output folder and the data set.

    Since this is the first step of a workflow, it also lets the process's allocator keep freed memory: see
    :func:`mednextv2.keep_freed_memory`.

    Args:
        dataset: The data set, as read from `dataset_dir`.
        scheme: The meaning of the bundle's label values.
        channels: The bundle's channel names.
        spatial_dims: 2 or 3.
        output_dir: The folder for checkpoints and logs; created if missing.
        check_data: Whether to read every file and look for defects; of a collection, only their headers.
        mirror_axes: Axes along which patches are mirrored; a warning is logged if that swaps left and right structures.
        batch: The number of patches in a batch and the size of a patch in voxels, `(B, *patch)`, for
            :func:`check_shared_memory`.
        num_workers: Number of worker processes that make batches.
        prefetch_factor: Number of batches that each of them makes ahead.
        pin_memory: Whether finished batches are moved to pinned memory; then each worker has only one batch at a time.

    Raises:
        InputError: If the folder cannot be written or another training writes to it, the shared memory is too small, or
            the data have defects.
    """
    created = missing_folders(expand(output_dir))
    prepare_output(output_dir, batch, len(channels), num_workers, prefetch_factor, pin_memory)
    try:
        _check_cases(dataset, scheme, channels, spatial_dims, check_data, mirror_axes)
    except InputError:
        release_folder(output_dir)  # a server goes on, and may start the training again in another process
        if is_main_process():
            remove_empty(created)
        raise


def prepare_output(
    output_dir: str | os.PathLike,
    batch: Sequence[int] = (),
    channels: int = 1,
    num_workers: int = 0,
    prefetch_factor: int | None = None,
    pin_memory: bool = False,
) -> None:
    """Check the output folder and the shared memory: what :func:`prepare_training` does before it looks at the data.

    Args:
        output_dir: The folder for checkpoints and logs; created if missing, and held by this process.
        batch: As of :func:`prepare_training`, and so are the arguments after it.
        channels: Number of channels of the images.
        num_workers: Number of worker processes that make batches.
        prefetch_factor: Number of batches that each of them makes ahead.
        pin_memory: Whether finished batches are moved to pinned memory.

    Raises:
        InputError: If the folder cannot be written or another training writes to it, or the shared memory is too small.
    """
    keep_freed_memory()
    check_shared_memory(batch, channels, num_workers * (1 if pin_memory else prefetch_factor or 0))
    prepare_folder(output_dir, "output_dir")
    if is_main_process():
        hold_folder(output_dir, "output_dir")
        remove_leftovers(output_dir)


def _check_cases(
    dataset: DatasetFolder,
    scheme: LabelScheme,
    channels: Sequence[str],
    spatial_dims: int,
    check_data: bool,
    mirror_axes: Sequence[int],
) -> None:
    check_description(dataset, scheme, channels)
    if warning := mirroring_warning(scheme, mirror_axes):
        others = [axis for axis in mirror_axes if axis != 0]
        logger.warning('%s. Without that axis: --mirror_axes "%s"', warning, others)
    if check_data and dataset.parts:
        check_headers(dataset.cases, channels, spatial_dims)
    elif check_data:
        reports = check_dataset(dataset.cases, scheme.declared, channels, spatial_dims)
        missing = missing_classes(reports, scheme.labels) if reports else []
        if missing:
            logger.warning("%s: no label map has a voxel of %s", dataset.path, ", ".join(missing))


def check_shared_memory(
    batch: Sequence[int], channels: int, ahead: int, folder: str | os.PathLike = "/dev/shm"
) -> None:
    """Make sure that the batches that worker processes make ahead fit into the shared memory.

    Batches are handed over in shared memory, of which containers have 64 MB by default. While the first step runs, all
    batches that may be made ahead are made.

    Args:
        batch: The number of patches and the size of a patch, `(B, *patch)`.
        channels: Number of channels of the images.
        ahead: Number of batches that the workers of a process have in shared memory; 0 without workers.
        folder: The folder of the system's shared memory; if it does not exist, nothing is checked.

    Raises:
        InputError: If the shared memory is too small; the message has the numbers.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)  # set by torchrun; these processes share the memory
    needed = processes * ahead * math.prod(batch) * (_IMAGE_BYTES * channels + _LABEL_BYTES)
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    if needed > free:
        raise InputError(
            f"{folder}: has {free / 2**20:.0f} MiB of shared memory left, and the batches that the worker processes "
            f"make ahead need {needed / 2**20:.0f} MiB; {SHARED_MEMORY_REMEDY}"
        )


def tensorboard_available() -> bool:
    """Say whether TensorBoard curves can be written; if not, log the reason and the remedy.

    The package is imported to find out, since a broken one would end the training. MONAI writes with
    PyTorch's writer, for which tensorboardX is not enough.
    """
    try:
        importlib.import_module("torch.utils.tensorboard")
    except Exception as error:  # a broken package may raise anything
        if importlib.util.find_spec("tensorboard") is None:
            why, remedy = "it is not installed", "pip install tensorboard"
        else:
            why = f"it cannot be imported ({type(error).__name__}: {error})"
            remedy = "pip install --force-reinstall tensorboard"
        logger.warning("No TensorBoard curves, since %s: %s. Scores are in the CSV.", why, remedy)
        return False
    return True


def keep_previous(path: str | os.PathLike) -> Path | None:
    """Move a file out of the way under a new name instead of overwriting it.

    Args:
        path: The file; nothing happens if it does not exist.

    Returns:
        The new name of the file: `model.pt` becomes `model.previous-1.pt`, or the next free number.
    """
    path = Path(path)
    if not path.exists():
        return None
    number = 1
    while (other := path.with_name(f"{path.stem}.previous-{number}{path.suffix}")).exists():
        number += 1
    path.rename(other)
    logger.info("%s was there before this training; it is now %s", path, other.name)
    return other
