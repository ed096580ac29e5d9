"""Where weights are in a folder: `model.pt`, or `model.safetensors` if only this is there."""

import os
from pathlib import Path

from mednextv2.weights.safetensors_file import ENDING

#: The name of the best weights of a training, and of a bundle's own.
WEIGHTS_NAME = "model.pt"


def weights_file(folder: str | os.PathLike, name: str = WEIGHTS_NAME) -> Path:
    """Return the file of weights in a folder, which need not exist.

    Args:
        folder: The folder.
        name: The name of the file in PyTorch's format.

    Returns:
        The file of this name, or that of safetensors beside it if only this exists.
    """
    file = Path(folder) / name
    other = file.with_suffix(ENDING)
    return other if not file.is_file() and other.is_file() else file


def trained_folds(models: str | os.PathLike) -> dict[str, Path]:
    """Return the folds that were trained in a folder, by their names, each with its file of weights.

    Args:
        models: The folder that holds `fold_0` and further folds.
    """
    found = {folder.name.removeprefix("fold_"): weights_file(folder) for folder in Path(models).glob("fold_*")}
    return {fold: found[fold] for fold in sorted(found) if found[fold].is_file()}
