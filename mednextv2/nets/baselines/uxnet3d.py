"""3D UX-Net, a U-shaped network with large depthwise kernels, from MONAI's blocks."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks.dynunet_block import UnetOutBlock
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

from mednextv2.nets.baselines.input_sizes import check_input
from mednextv2.nets.metatensor import plain_tensor


class UXNet3D(nn.Module):
    """3D UX-Net: `(N, in_channels, X, Y, Z)` to logits `(N, out_channels, X, Y, Z)`.

    The encoder imitates a Swin transformer with convolutions: a depthwise convolution of 7×7×7 takes the place of
    window attention, and two depthwise 1×1×1 convolutions, which widen each channel four times and narrow it again,
    that of the multilayer perceptron. The decoder is that of Swin UNETR, with residual blocks on every skip connection.
    The paper does not use deep supervision, so the output is a tensor in training, too.

    Parameters: 53.01 million with one input channel and 14 outputs; published: 53.0 million.

    Not in the paper, and chosen here: depthwise convolutions of 1×1×1 with a bias; LayerNorm before each downsampling
    and after each stage, as in ConvNeXt; no stochastic depth; ConvNeXt's layer scale with initial value 1e-6.

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output: classes, or regions.
        features: Channels of the four encoder stages, at 1/2, 1/4, 1/8 and 1/16 of the resolution.
        depths: Blocks of each.
        hidden_channels: Channels of the bottleneck at 1/16.
        kernel_size: Size of the depthwise kernels along each axis.

    Raises:
        ValueError: If an axis of the input is not a multiple of 16.

    Source:
        Lee et al. 2023, 3D UX-Net, ICLR, section 3 and figure 2 (arXiv:2209.15076).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (48, 96, 192, 384),
        depths: Sequence[int] = (2, 2, 2, 2),
        hidden_channels: int = 768,
        kernel_size: int = 7,
    ) -> None:
        super().__init__()
        stem = nn.Conv3d(in_channels, features[0], 7, stride=2, padding=3)
        reductions: list[nn.Module] = [stem]
        for fine, coarse in pairwise(features):
            reductions.append(nn.Sequential(_ChannelNorm(fine), nn.Conv3d(fine, coarse, 2, stride=2)))
        self.reductions = nn.ModuleList(reductions)
        self.stages = nn.ModuleList(
            nn.Sequential(*[_Block(width, kernel_size) for _ in range(depth)])
            for width, depth in zip(features, depths, strict=True)
        )
        self.norms = nn.ModuleList(_ChannelNorm(width) for width in features)
        after = [*features, hidden_channels]  # channels of the skip connections, from full resolution down
        self.skips = nn.ModuleList(
            UnetrBasicBlock(3, before, width, 3, 1, "instance", res_block=True)
            for before, width in zip([in_channels, *features], after, strict=True)
        )
        self.ups = nn.ModuleList(
            UnetrUpBlock(3, coarse, fine, 3, 2, "instance", res_block=True) for fine, coarse in pairwise(after)
        )
        self.last = UnetrBasicBlock(3, features[0], features[0], 3, 1, "instance", res_block=True)
        self.head = UnetOutBlock(3, features[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        check_input(x, 2 ** len(self.stages), "3D UX-Net")
        x = plain_tensor(x)
        skips = [self.skips[0](x)]
        levels = zip(self.reductions, self.stages, self.norms, list(self.skips)[1:], strict=True)
        for reduction, stage, norm, skip in levels:
            x = stage(reduction(x))
            skips.append(skip(norm(x)))
        out = skips.pop()
        for up in reversed(self.ups):
            out = up(out, skips.pop())
        return self.head(self.last(out))


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each voxel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _Block(nn.Module):
    """Depthwise convolution, LayerNorm, and two depthwise 1×1×1 convolutions with GELU between, with a residual."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv3d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.norm = _ChannelNorm(width)
        self.widen = nn.Conv3d(width, 4 * width, 1, groups=width)
        self.narrow = nn.Conv3d(4 * width, width, 1, groups=width)
        self.scale = nn.Parameter(torch.full((width, 1, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.widen(self.norm(self.depthwise(x))))
        return x + self.scale * self.narrow(hidden)
