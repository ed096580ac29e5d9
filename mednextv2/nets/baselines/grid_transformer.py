"""A transformer over the voxels of a coarse feature map, which TransBTS and TransUNet share."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.blocks.transformerblock import TransformerBlock
from torch import Tensor, nn


class GridTransformer(nn.Module):
    """Transformer layers over all voxels of a feature map: `(N, width, X, Y, Z)` to the same shape.

    Every voxel is a token with a learned position embedding. On a grid other than that of training, the embeddings are
    interpolated linearly.

    Args:
        grid: Voxels of the feature map along each axis, for the table of position embeddings.
        width: Channels, which is the size of a token.
        layers: Number of transformer layers.
        heads: Attention heads of each.
        mlp_width: Hidden channels of each layer's multilayer perceptron.

    Source:
        Dosovitskiy et al. 2021, An image is worth 16×16 words, section 3.1 (arXiv:2010.11929).

    Example:
        >>> GridTransformer((2, 3, 2), width=8, layers=1, heads=2, mlp_width=16)(torch.zeros(1, 8, 2, 3, 2)).shape
        torch.Size([1, 8, 2, 3, 2])
    """

    def __init__(self, grid: Sequence[int], width: int, layers: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, width, *grid))
        nn.init.trunc_normal_(self.positions, std=0.02)
        blocks = [TransformerBlock(width, mlp_width, heads, use_flash_attention=True) for _ in range(layers)]
        for block in blocks:
            block.add_module(
                "norm_cross_attn", nn.Identity()
            )  # MONAI creates it for cross-attention only; it would never be used
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Let the tokens attend to each other."""
        positions: Tensor = self.positions
        if positions.shape[2:] != x.shape[2:]:
            positions = F.interpolate(positions, x.shape[2:], mode="trilinear", align_corners=False)
        tokens = (x + positions).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens).transpose(1, 2).reshape(x.shape)
