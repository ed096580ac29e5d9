"""The problem for which a kernel is compiled: the sizes of a block that are constants of its kernels."""

from typing import NamedTuple

import torch


class Problem(NamedTuple):
    """A class of blocks that use the same kernels, whatever the size of the image.

    Attributes:
        spatial_dims: 2 or 3.
        channels: C, the number of channels of the input.
        expanded: E, the number of channels of the expanded tensor; 0 for a depthwise convolution alone.
        out_channels: O, the number of channels of the output; C if there is no expansion.
        kernel_size: The size of the depthwise kernel; 0 for the inside of a block alone.
        stride: The stride of the depthwise convolution, 1 or 2.
        transposed: Whether it is a transposed convolution.
        grn: Whether the block has global response normalisation.
        residual: Whether a residual is added to the output.
        dtype: The dtype of the features.
    """

    spatial_dims: int
    channels: int
    expanded: int
    out_channels: int
    kernel_size: int
    stride: int
    transposed: bool
    grn: bool
    residual: bool
    dtype: torch.dtype
