"""The convolution of kernel 1: the network's stem, shortcuts and heads."""

import torch.nn.functional as F
from torch import Tensor

from mednextv2.ops import implementations


def pointwise_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Define :func:`pointwise` by PyTorch's convolutions; arguments and result as there."""
    convolution = F.conv3d if x.dim() == 5 else F.conv2d
    return convolution(x, weight, bias)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Mix the channels of every voxel, as one product of the voxels' rows with a matrix.

    PyTorch's convolution does not know that an input of one channel is channels-last as well: it computes in the other
    layout and copies the result, which in a network's stem takes eight times as long as the work.

    Args:
        x: `(N, C, *spatial)` in two or three dimensions, best channels-last.
        weight: `(O, C, 1, 1, 1)` or, in two dimensions, `(O, C, 1, 1)`.
        bias: `(O,)` or None.

    Returns:
        `(N, O, *spatial)`, channels-last; under autocast in its dtype.
    """
    if implementations.plain():
        return pointwise_reference(x, weight, bias)
    return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
