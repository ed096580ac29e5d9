"""A bundle's trained weights as a file of safetensors."""

from collections.abc import Sequence
from pathlib import Path

import torch

from mednextv2.errors import InputError
from mednextv2.paths import new_folder, writing
from mednextv2.weights.files import load_file, unwrap_state
from mednextv2.weights.provenance import read_about
from mednextv2.weights.safetensors_file import needs_safetensors, read_safetensors, write_safetensors

#: The name of the format.
SAFETENSORS = "safetensors"


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
