"""Whether blocks are recomputed in the backward pass, so that a training step fits into the memory."""

import logging
import os
from collections.abc import Sequence

import torch
from torch import nn

from mednextv2.distributed import is_main_process
from mednextv2.errors import InputError
from mednextv2.machine import free_memory
from mednextv2.nets.legal_sizes import LEVELS
from mednextv2.nets.mednext import MedNeXt
from mednextv2.nets.training_memory import training_memory
from mednextv2.wording import brief

logger = logging.getLogger(__name__)

#: The values of the setting `checkpointing`.
MODES = ("auto", True, False)
_USABLE = 0.9  # of the free memory, since the estimate may be too small
_RESOLUTIONS = ("full resolution", *(f"1/{2**level}" for level in range(1, LEVELS)))


def set_checkpointing(
    network: nn.Module,
    mode: bool | str,
    variant: str,
    batch: Sequence[int],
    device: torch.device | str,
    in_channels: int = 1,
    outputs: int = 2,
    half_precision: bool = True,
) -> nn.Module:
    """Choose at which resolutions the blocks of a MedNeXt are recomputed in the backward pass.

    Args:
        network: The network, which is changed in place. Networks other than MedNeXt stay as they are.
        mode: True: at all resolutions; False: at none; `auto`: from full resolution down at as many as are needed for
            the estimate of :func:`mednextv2.nets.training_memory.training_memory` to fit into the free memory of the
            device, which a line says.
        variant: The size of the network.
        batch: The number of patches in a step and the size of a patch, `(B, *patch)`.
        device: The device of the training.
        in_channels: The number of channels of the images.
        outputs: The number of outputs of the network.
        half_precision: Whether the network computes in bfloat16 or float16.

    Returns:
        The network.

    Raises:
        InputError: If the mode is another one, or True for a network whose blocks cannot be recomputed.
    """
    if mode not in MODES:
        raise InputError(f"checkpointing {brief(mode)}: should be auto, True or False")
    if not isinstance(network, MedNeXt):
        if mode is True:
            raise InputError("checkpointing True: only the blocks of MedNeXt can be recomputed; leave it at auto")
        return network
    if mode != "auto":
        network.set_activation_checkpointing([bool(mode)] * LEVELS)
        return network

    def needed(levels: int) -> float:
        flags = [level < levels for level in range(LEVELS)]
        return training_memory(variant, batch[1:], batch[0], in_channels, outputs, half_precision, flags)

    free = _free(torch.device(device))
    levels = next((n for n in range(LEVELS + 1) if needed(n) <= _USABLE * free), LEVELS)
    network.set_activation_checkpointing([level < levels for level in range(LEVELS)])
    if levels and is_main_process():
        where = "memory" if torch.device(device).type == "cpu" else "GPU memory"
        logger.info(
            "checkpointing auto: a training step needs about %s, and %s of %s is free, so blocks are recomputed in the "
            "backward pass (%s), with which it needs about %s", _gib(needed(0)), _gib(free), where,
            ", ".join(_RESOLUTIONS[:levels]), _gib(needed(levels)),
        )  # fmt: skip
        if needed(levels) > free:
            logger.warning("That is still more than is free; lower --batch_size, --context or --patch_size")
    return network


def _free(device: torch.device) -> float:
    """Return the bytes that this process can still use on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_memory() / int(os.environ.get("LOCAL_WORLD_SIZE") or 1)  # set by torchrun; the processes share it


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"
