"""What must be true before the first step, so that a mistake does not cost an hour of training."""

import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from mednextv2.data.check import check_dataset
from mednextv2.data.dataset import DatasetFolder
from mednextv2.errors import InputError
from mednextv2.memory import keep_freed_memory
from mednextv2.paths import prepare_folder

logger = logging.getLogger(__name__)


def prepare_training(
    dataset: DatasetFolder,
    labels: Sequence[str],
    channels: Sequence[str],
    spatial_dims: int,
    output_dir: str | os.PathLike,
    check_data: bool = True,
) -> None:
    """Check output folder and data set.

    Args:
        dataset: As read from `dataset_dir`.
        labels: The bundle's class names.
        channels: The bundle's channel names.
        spatial_dims: 2 or 3.
        output_dir: Where checkpoints and logs will go; made if missing.
        check_data: Read every file and look for defects.

    Raises:
        InputError: For a folder that cannot be written, or defects in the data.
    """
    keep_freed_memory()
    prepare_folder(output_dir, "output_dir")
    check_description(dataset, labels, channels)
    if check_data:
        check_dataset(dataset.cases, labels, channels, spatial_dims)


def check_description(dataset: DatasetFolder, labels: Sequence[str], channels: Sequence[str]) -> None:
    """Raise an InputError when `dataset.json` names other channels than the bundle has, or more labels."""
    file = dataset.path / "dataset.json"
    if dataset.channels and len(dataset.channels) != len(channels):
        raise InputError(
            f"{file}: names {len(dataset.channels)} image channels ({', '.join(dataset.channels)}), "
            f"the bundle {len(channels)} ({', '.join(channels)})"
        )
    values = dataset.label_values
    if values and max(values) >= len(labels):
        raise InputError(
            f"{file}: declares labels up to {max(values)} ({', '.join(map(str, dataset.labels))}), "
            f"the bundle 0 to {len(labels) - 1} ({', '.join(labels)})"
        )


def tensorboard_available() -> bool:
    """Say whether TensorBoard is installed; if not, log how to get its curves."""
    if importlib.util.find_spec("tensorboard") or importlib.util.find_spec("tensorboardX"):
        return True
    logger.warning("No TensorBoard curves, since it is not installed: pip install tensorboard. Scores are in the CSV.")
    return False


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
