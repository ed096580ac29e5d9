"""An estimate of the memory that a training step needs, from the network's size, the patch and the batch."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from mednextv2.nets.variants import VARIANTS, create_mednext

# In units of the channels at full resolution, for each voxel of the patch:
_KEPT_PER_BLOCK = 2.0  # kept for the backward pass: a block's input and its depthwise convolution's output
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

    Returns:
        The number of bytes.
    """
    size = VARIANTS[variant]
    element = 2 if half_precision else 4
    voxels = math.prod(patch_size) * batch_size
    activations = element * (kept_values(variant) + _AT_WORK * size.init_filters)
    parameters = _parameters(variant, in_channels, outputs, len(patch_size))
    peak = _PARAMETER_BYTES * parameters + voxels * (activations + _LOSS_BYTES * outputs + 4 * in_channels)
    return max(peak, _SETTLED_BYTES * parameters)


def kept_values(variant: str) -> float:
    """Return how many numbers the network keeps for the backward pass, for each voxel of a 3D patch.

    Args:
        variant: A key of :data:`mednextv2.nets.variants.VARIANTS`.
    """
    size = VARIANTS[variant]
    # each of the four levels below has an eighth of the voxels and twice the channels of the one above
    blocks = sum(n * 0.25 ** min(stage, 8 - stage) for stage, n in enumerate(size.blocks))
    return size.init_filters * (_KEPT_PER_BLOCK * blocks + _KEPT_ELSEWHERE)


@lru_cache
def _parameters(variant: str, in_channels: int, outputs: int, spatial_dims: int) -> int:
    with torch.device("meta"):
        network = create_mednext(variant, spatial_dims, in_channels, outputs, deep_supervision=True)
    return sum(p.numel() for p in network.parameters())
