"""An estimate of the memory that a training step needs, from the network's size, the patch and the batch."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from mednextv2.nets.variants import VARIANTS, create_mednext

# In units of the channels at full resolution, for each voxel of the patch:
_KEPT_PER_BLOCK = 2.0  # kept for the backward pass: a block's input and its depthwise convolution's output
_KEPT_RECOMPUTED = 1.0  # of a block that is recomputed in the backward pass: its input
_KEPT_ELSEWHERE = 5.5  # resampling blocks, stem and heads
_AT_WORK = 6.5  # the largest sum of temporary tensors, in the backward pass at full resolution; fitted
_LOSS_BYTES = 15  # for each voxel and output: logits, and in float32 probabilities, targets and gradients; fitted
_PARAMETER_BYTES = 14.5  # float32 weights, two moments, and half-precision copies; gradients come as activations go
_SETTLED_BYTES = 16  # when all activations are gone: weights, gradients, two moments


def training_memory(
    variant: str,
    patch_size: Sequence[int],
    batch_size: int,
    in_channels: int = 1,
    outputs: int = 2,
    half_precision: bool = True,
    checkpointing: Sequence[bool] = (),
) -> float:
    """Estimate the peak memory of a training step with AdamW: weights, gradients, moments, activations and loss.

    The memory of the libraries themselves is extra: about 0.5 GiB for a CPU process or on a GPU. The blocks keep no
    expanded tensor: see docs/fast_block.md. docs/benchmarks/training_memory.md has measurements on CPUs.

    Args:
        variant: A key of :data:`mednextv2.nets.variants.VARIANTS`.
        patch_size: The number of voxels along each axis.
        batch_size: The number of patches in a step.
        in_channels: The number of channels of the images.
        outputs: The number of outputs of the network.
        half_precision: Whether the network computes in bfloat16 or float16.
        checkpointing: Whether the blocks of each resolution are recomputed in the backward pass, from full resolution
            down; by default, none are.

    Returns:
        The number of bytes.
    """
    size = VARIANTS[variant]
    element = 2 if half_precision else 4
    voxels = math.prod(patch_size) * batch_size
    activations = element * (kept_values(variant, checkpointing) + _AT_WORK * size.init_filters)
    parameters = _parameters(variant, in_channels, outputs, len(patch_size))
    peak = _PARAMETER_BYTES * parameters + voxels * (activations + _LOSS_BYTES * outputs + 4 * in_channels)
    return max(peak, _SETTLED_BYTES * parameters)


def kept_values(variant: str, checkpointing: Sequence[bool] = ()) -> float:
    """Return how many numbers the network keeps for the backward pass, for each voxel of a 3D patch.

    Of blocks that are recomputed, only the inputs are kept, and what the one that is being recomputed keeps.

    Args:
        variant: A key of :data:`mednextv2.nets.variants.VARIANTS`.
        checkpointing: As of :func:`training_memory`.
    """
    size = VARIANTS[variant]
    kept = _KEPT_PER_BLOCK - _KEPT_RECOMPUTED if any(checkpointing) else 0.0
    for stage, blocks in enumerate(size.blocks):
        level = min(stage, 8 - stage)
        each = _KEPT_RECOMPUTED if level < len(checkpointing) and checkpointing[level] else _KEPT_PER_BLOCK
        # each of the four levels below has an eighth of the voxels and twice the channels of the one above
        kept += each * blocks * 0.25**level
    return size.init_filters * (kept + _KEPT_ELSEWHERE)


@lru_cache
def _parameters(variant: str, in_channels: int, outputs: int, spatial_dims: int) -> int:
    with torch.device("meta"):
        network = create_mednext(variant, spatial_dims, in_channels, outputs, deep_supervision=True)
    return sum(p.numel() for p in network.parameters())
