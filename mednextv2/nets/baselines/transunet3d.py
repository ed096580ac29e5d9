"""TransUNet in three dimensions, nnU-Net with a vision transformer at its bottom, from MONAI's blocks."""

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetUpBlock
from torch import Tensor, nn

from mednextv2.nets.baselines.grid_transformer import GridTransformer
from mednextv2.nets.baselines.input_sizes import check_input
from mednextv2.nets.metatensor import plain_tensor


class TransUNet3D(nn.Module):
    """3D TransUNet with a transformer encoder: `(N, in_channels, X, Y, Z)` to logits `(N, out_channels, X, Y, Z)`.

    The convolutional encoder and decoder are those of nnU-Net. The voxels of the coarsest feature map are the tokens of
    a vision transformer, and its result goes into the decoder. As in nnU-Net, all resolutions but the coarsest have
    a head: in training mode with `deep_supervision`, the output is a list of logits at 1, 1/2, 1/4 and 1/8 of the
    resolution.

    The paper has three forms. This is the one with the transformer as an encoder only, which it recommends for several
    organs. Those with a transformer decoder predict a set of masks, which are matched with the classes in a loss of
    their own. They could not be trained with the same recipe as other networks.

    Parameters: 102.2 million with one input channel, two outputs and patches of 96³. The papers do not state how many
    the authors' network has, as far as we know.

    Not in the paper, and chosen here: five resolutions of 32, 64, 128, 256 and 320 channels; the size of ViT-B (12
    layers, 768 channels, 12 heads, a multilayer perceptron of 3072); tokens of a single voxel; weights without
    pretraining; position embeddings for the patch size of the training, interpolated for others.

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output: classes, or regions.
        patch_size: Size of the training patches, in voxels.
        filters: Channels at each resolution, from full resolution down.
        width: Size of a token.
        layers: Transformer layers.
        heads: Attention heads of each.
        mlp_width: Hidden channels of each layer's multilayer perceptron.
        deep_supervision: Whether logits at all but the coarsest resolution are returned in training mode.

    Raises:
        ValueError: If an axis of the input is not a multiple of 16.

    Source:
        Chen et al. 2024, TransUNet, Medical Image Analysis 97; 3D TransUNet, section 3 (arXiv:2310.07781). Isensee et
        al. 2021, nnU-Net, Nature Methods 18.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        patch_size: Sequence[int] = (96, 96, 96),
        filters: Sequence[int] = (32, 64, 128, 256, 320),
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp_width: int = 3072,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.divisor = 2 ** (len(filters) - 1)
        self.encoder = nn.ModuleList(
            UnetBasicBlock(3, before, after, 3, 1 if level == 0 else 2, _NORM)
            for level, (before, after) in enumerate(zip([in_channels, *filters], filters, strict=False))
        )
        self.to_tokens = nn.Conv3d(filters[-1], width, 1)
        grid = [max(1, size // self.divisor) for size in patch_size]
        self.transformer = GridTransformer(grid, width, layers, heads, mlp_width)
        self.from_tokens = nn.Conv3d(width, filters[-1], 1)
        self.decoder = nn.ModuleList(UnetUpBlock(3, coarse, fine, 3, 1, 2, _NORM) for fine, coarse in pairwise(filters))
        heads_of = filters[:-1] if deep_supervision else filters[:1]
        self.heads = nn.ModuleList(nn.Conv3d(f, out_channels, 1) for f in heads_of)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits, in training mode with deep supervision those of every head, full resolution first."""
        check_input(x, self.divisor, "3D TransUNet")
        x = plain_tensor(x)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = self.from_tokens(self.transformer(self.to_tokens(skips.pop())))
        maps: list[Tensor] = []
        for up in reversed(self.decoder):
            x = up(x, skips.pop())
            maps.insert(0, x)
        if not (self.training and self.deep_supervision):
            return self.heads[0](x)
        return [head(features) for head, features in zip(self.heads, maps, strict=True)]


_NORM = ("instance", {"affine": True})
