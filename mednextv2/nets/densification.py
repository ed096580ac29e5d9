"""Densification: what takes the place of hidden positions between a sparse encoder and an ordinary decoder."""

import torch
from torch import Tensor, nn

from mednextv2.nets.blocks import CONVOLUTION
from mednextv2.nets.visible_cells import Level, as_rows
from mednextv2.ops import half_is_fast
from mednextv2.ops.memory_layout import HALF, no_autocast

_EPS = 1e-5
_DEVIATION = 0.02
_WRONG = 2  # positions along the first axis with which the convolution in half precision is wrong


class Densification(nn.Module):
    """Features of visible positions, `(rows, C)`, made a whole map, `(N, C, *positions)`, for the decoder.

    The rows are normalised, channel by channel over the visible positions of a sample, without scale and shift; a
    learned token takes the hidden positions; and a convolution may follow.

    Args:
        spatial_dims: 2 or 3.
        channels: The number of channels.
        convolution: Whether a convolution with kernel size 3 and bias follows.

    Source:
        Wald et al. 2025 (arXiv:2410.23132), section 3: the convolution is left out at full resolution.
    """

    def __init__(self, spatial_dims: int, channels: int, convolution: bool) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(1, channels, *[1] * spatial_dims))
        nn.init.trunc_normal_(self.token, std=_DEVIATION, a=-_DEVIATION, b=_DEVIATION)
        self.projection = CONVOLUTION[spatial_dims](channels, channels, 3, padding=1) if convolution else nn.Identity()

    def forward(self, rows: Tensor, level: Level) -> Tensor:
        parts = [as_rows(_normalised(part)) for (part,) in level.per_sample(rows)]
        if parts:
            rows = torch.cat(parts) if len(parts) > 1 else parts[0]
        return self._project(level.scatter(rows, self.token.flatten()))

    def _project(self, x: Tensor) -> Tensor:
        """Apply the convolution, on CPUs in single precision where PyTorch's in half precision is slow or wrong.

        It may take 20 times as long; and with two positions along the first axis, the gradient of the weights has
        numbers from memory that was never written (PyTorch 2.13, oneDNN, AVX-512 with bfloat16).
        """
        if x.device.type != "cpu" or x.dtype not in HALF or (_half_is_fast(x.dtype) and x.shape[2] > _WRONG):
            return self.projection(x)
        with no_autocast(x):
            return self.projection(x.float()).to(x.dtype)


@torch.compiler.assume_constant_result
def _half_is_fast(dtype: torch.dtype) -> bool:
    """Tell whether this CPU has instructions for products in a half precision."""
    return dtype == torch.bfloat16 and half_is_fast("cpu")


def _normalised(x: Tensor) -> Tensor:
    """Normalise every channel over space, with statistics in float32 for half precision."""
    space = list(range(2, x.dim()))
    y = x if x.dtype == torch.float64 else x.float()
    y = y - y.mean(space, keepdim=True)
    return (y * torch.rsqrt(y.square().mean(space, keepdim=True) + _EPS)).to(x.dtype)
