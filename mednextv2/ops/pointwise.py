"""The convolution with kernel size 1: the network's stem, shortcuts and heads."""

import torch.nn.functional as F
from torch import Tensor

from mednextv2.ops import implementations


def pointwise_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Define :func:`pointwise` by PyTorch's convolutions; the arguments and the result are the same."""
    convolution = F.conv3d if x.dim() == 5 else F.conv2d
    return convolution(x, weight, bias)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Mix the channels of every voxel, as one product of the voxels' rows with a matrix.

    PyTorch's convolution does not recognise that an input of one channel is also channels-last: it computes in the
    other layout and copies the result, which takes eight times as long as the convolution in a network's stem.

    Args:
        x: The input, `(N, C, *spatial)`, in two or three dimensions, preferably channels-last.
        weight: The weight, `(O, C, 1, 1, 1)` or, in two dimensions, `(O, C, 1, 1)`.
        bias: The bias, `(O,)`, or None.

    Returns:
        The output, `(N, O, *spatial)`, channels-last; under autocast, in the dtype of autocast.
    """
    if implementations.plain():
        return pointwise_reference(x, weight, bias)
    return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
