"""TransBTS, a 3D CNN with a transformer at its bottom, from MONAI's blocks."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.blocks.segresnet_block import ResBlock
from torch import Tensor, nn

from mednextv2.nets.baselines.grid_transformer import GridTransformer
from mednextv2.nets.baselines.input_sizes import check_input
from mednextv2.nets.metatensor import plain_tensor


class TransBTS(nn.Module):
    """TransBTS: `(N, in_channels, X, Y, Z)` to logits `(N, out_channels, X, Y, Z)`.

    A residual CNN reduces the volume to 1/8. A convolution turns each voxel into a token of 512 channels, four
    transformer layers follow, and a convolution returns to the CNN's channels. The decoder has transposed convolutions
    and concatenated skip connections. The paper does not use deep supervision, so the output is a tensor in training,
    too.

    Parameters: 31.7 million with one input channel and 14 outputs, for patches of 128³; published: 31.6 million in
    MedNeXt's table 2, and 33.0 million in the paper on TransBTS. A smaller patch has fewer position embeddings.

    Not in the paper, and chosen here: 16 channels at full resolution; 1, 2, 2 and 4 residual blocks in the encoder and
    one at each decoder stage; a multilayer perceptron of 4096 channels in each transformer layer, which gives the
    published number of parameters; group normalisation with 8 groups, since batches have few patches; no dropout;
    position embeddings for the patch size of the training, interpolated for others.

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output: classes, or regions.
        patch_size: Size of the training patches, in voxels.
        init_filters: Channels at full resolution, a multiple of 8.
        blocks_down: Residual blocks at 1, 1/2, 1/4 and 1/8 of the resolution.
        width: Size of a token.
        layers: Transformer layers.
        heads: Attention heads of each.
        mlp_width: Hidden channels of each layer's multilayer perceptron.

    Raises:
        ValueError: If an axis of the input is not a multiple of 8.

    Source:
        Wang et al. 2021, TransBTS, MICCAI, section 2 and figure 1 (arXiv:2103.04430).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        patch_size: Sequence[int] = (128, 128, 128),
        init_filters: int = 16,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        width: int = 512,
        layers: int = 4,
        heads: int = 8,
        mlp_width: int = 4096,
    ) -> None:
        super().__init__()
        filters = [init_filters * 2**level for level in range(len(blocks_down))]
        self.stem = _conv(in_channels, filters[0])
        self.stages = nn.ModuleList(
            nn.Sequential(*[_block(f) for _ in range(depth)]) for f, depth in zip(filters, blocks_down, strict=True)
        )
        pairs = list(pairwise(filters))
        self.downs = nn.ModuleList(_conv(fine, coarse, stride=2) for fine, coarse in pairs)
        self.divisor = 2 ** len(pairs)
        self.to_tokens = nn.Sequential(_norm(filters[-1]), nn.ReLU(), _conv(filters[-1], width))
        grid = [max(1, size // self.divisor) for size in patch_size]
        self.transformer = GridTransformer(grid, width, layers, heads, mlp_width)
        self.from_tokens = _conv(width, filters[-1])
        self.ups = nn.ModuleList(_up(coarse, fine) for fine, coarse in pairs)
        self.merges = nn.ModuleList(nn.Sequential(_conv(2 * fine, fine), _block(fine)) for fine, _ in pairs)
        self.head = nn.Conv3d(filters[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        check_input(x, self.divisor, "TransBTS")
        x = self.stages[0](self.stem(plain_tensor(x)))
        skips = []
        for down, stage in zip(self.downs, list(self.stages)[1:], strict=True):
            skips.append(x)
            x = stage(down(x))
        x = self.from_tokens(self.transformer(self.to_tokens(x)))
        for up, merge in zip(reversed(self.ups), reversed(self.merges), strict=True):
            x = merge(torch.cat([up(x), skips.pop()], 1))
        return self.head(x)


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels)


def _conv(before: int, after: int, stride: int = 1) -> nn.Module:
    return Convolution(3, before, after, strides=stride, kernel_size=3, conv_only=True)


def _block(channels: int) -> nn.Module:
    """Normalisation, ReLU and convolution, twice, with a residual."""
    return ResBlock(3, channels, ("group", {"num_groups": 8}))


def _up(coarse: int, fine: int) -> nn.Module:
    return nn.Sequential(nn.Conv3d(coarse, fine, 1), nn.ConvTranspose3d(fine, fine, 2, stride=2))
