"""A bundle's trained weights as a file of safetensors."""

from collections.abc import Sequence
from pathlib import Path

import torch

from mednextv2.errors import InputError
from mednextv2.paths import new_folder, writing
from mednextv2.weights.files import load_file, unwrap_state
from mednextv2.weights.provenance import read_about
from mednextv2.weights.safetensors_file import (
    ENDING,
    is_safetensors,
    needs_safetensors,
    read_safetensors,
    write_safetensors,
)

#: The name of the format.
SAFETENSORS = "safetensors"


def beside(weights: Sequence[str], default: Path) -> Path:
    """Return where the weights of a training are written as safetensors: beside their own file.

    In a bundle's folder `models`, they would become the weights that the bundle uses by default.

    Args:
        weights: The file of weights.
        default: The file to write if there is not exactly one.

    Raises:
        InputError: If the weights are in a file of safetensors already.
    """
    if len(weights) != 1:
        return default
    file = Path(weights[0])
    if is_safetensors(file):
        raise InputError(f"{file}: is a file of safetensors already; to write it anew, give --output")
    return file.with_suffix(ENDING)


def export_weights(weights: Sequence[str], file: Path) -> Path:
    """Write the weights of one training to a file of safetensors, which also has their record.

    The file is read again and compared before it gets its name.

    Args:
        weights: The file of weights; whether it fits its bundle is for the caller to check.
        file: The file to write.

    Raises:
        InputError: If there are several files of weights, the package safetensors is missing, or the file cannot be
            written.
    """
    if len(weights) != 1:
        raise InputError(
            f"--format {SAFETENSORS}: takes the weights of one training, and there are {len(weights)}; choose them "
            "with --weights or --folds"
        )
    needs_safetensors(f"--format {SAFETENSORS}")
    state = unwrap_state(load_file(weights[0]))
    with new_folder(file.parent, "output"), writing(file) as temporary:
        write_safetensors(state, temporary, read_about(weights[0]))
        written = read_safetensors(temporary)
        if written.keys() != state.keys() or not all(torch.equal(written[name], state[name]) for name in state):
            raise InputError(f"{file}: not written, since what was read again differs; check the disk")
    return file
