"""What must be true before the first step, so that a mistake does not cost an hour of training."""

import importlib
import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from mednextv2.allocator import keep_freed_memory
from mednextv2.data.cases import DatasetFolder
from mednextv2.data.check import check_dataset
from mednextv2.data.check_warnings import missing_classes
from mednextv2.data.dataset import check_description
from mednextv2.distributed import is_main_process
from mednextv2.label_scheme import LabelScheme, mirroring_warning
from mednextv2.locks import hold_folder
from mednextv2.paths import prepare_folder, remove_leftovers

logger = logging.getLogger(__name__)


def prepare_training(
    dataset: DatasetFolder,
    scheme: LabelScheme,
    channels: Sequence[str],
    spatial_dims: int,
    output_dir: str | os.PathLike,
    check_data: bool = True,
    mirror_axes: Sequence[int] = (),
) -> None:
    """Check output folder and data set.

    As the first step of a workflow it also lets the process's allocator keep freed memory: see
    :func:`mednextv2.keep_freed_memory`.

    Args:
        dataset: As read from `dataset_dir`.
        scheme: What the bundle's label values mean.
        channels: The bundle's channel names.
        spatial_dims: 2 or 3.
        output_dir: Where checkpoints and logs will go; made if missing.
        check_data: Read every file and look for defects.
        mirror_axes: Axes along which patches are mirrored; a warning tells when that swaps left and right structures.

    Raises:
        InputError: For a folder that cannot be written or that another training writes to, or defects in the data.
    """
    keep_freed_memory()
    prepare_folder(output_dir, "output_dir")
    if is_main_process():
        hold_folder(output_dir, "output_dir")
        remove_leftovers(output_dir)
    check_description(dataset, scheme, channels)
    if warning := mirroring_warning(scheme, mirror_axes):
        others = [axis for axis in mirror_axes if axis != 0]
        logger.warning('%s. Without that axis: --mirror_axes "%s"', warning, others)
    if check_data:
        reports = check_dataset(dataset.cases, scheme.declared, channels, spatial_dims)
        missing = missing_classes(reports, scheme.labels) if reports else []
        if missing:
            logger.warning("%s: no label map has a voxel of %s", dataset.path, ", ".join(missing))


def tensorboard_available() -> bool:
    """Say whether TensorBoard's curves can be written; if not, log why and what to do.

    It is imported to find out, since a package that is there but broken would end the training. MONAI writes with
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
        path: The file; nothing happens when there is none.

    Returns:
        Its new name: `model.pt` becomes `model.previous-1.pt`, or the next free number.
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
