"""What a kernel is compiled for: the sizes of a block, as far as they are constants of its kernels."""

from typing import NamedTuple

import torch


class Problem(NamedTuple):
    """One class of blocks that the same kernels serve, whatever the size of the image.

    Attributes:
        spatial_dims: 2 or 3.
        channels: C, of the input.
        expanded: E, of the expanded tensor; 0 for a depthwise convolution alone.
        out_channels: O, of the output; C where there is no expansion.
        kernel_size: Edge of the depthwise kernel; 0 for the inside of a block alone.
        stride: 1 or 2, of the depthwise convolution.
        transposed: Whether that is a transposed convolution.
        grn: Whether the block has global response normalisation.
        residual: Whether something is added to the output.
        dtype: Of the features.
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
