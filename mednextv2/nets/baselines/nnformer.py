"""nnFormer, a U-shaped transformer with attention in local volumes, from MONAI's parts of Swin transformers."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from monai.networks.blocks.mlp import MLPBlock
from monai.networks.nets.swin_unetr import (
    BasicLayer,
    SwinTransformerBlock,
    WindowAttention,
    compute_mask,
    get_window_size,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn

from mednextv2.nets.baselines.input_sizes import check_input
from mednextv2.nets.metatensor import plain_tensor

_PATCH = 4  # voxels along each axis of a token of the first stage


class NnFormer(nn.Module):
    """nnFormer: `(N, in_channels, X, Y, Z)` to logits `(N, out_channels, X, Y, Z)`.

    Four convolutions embed the image at 1/4 of the resolution. Four encoder stages of two transformer blocks follow,
    with strided convolutions between them. The attention of the first two is within local volumes, every second time
    shifted. That of the last two is within volumes that cover the whole map of a patch of 128³. In the three decoder
    stages, skip attention replaces concatenation: the queries come from the decoder, and keys and values from the
    encoder. In training mode with `deep_supervision`, the output is a list of logits at 1, 1/4 and 1/8 of the
    resolution.

    Parameters: 150.4 million with one input channel and 14 outputs; published: 149 to 150 million.

    Not in the paper, and chosen here: the volumes have 4, 4, 8 and 4 voxels along each axis, as for the authors'
    abdominal CT data; where a map is smaller than a volume, the volume becomes as large as the map; relative position
    biases are those of MONAI's Swin transformer; no dropout and no stochastic depth; heads of deep supervision are
    1×1×1 convolutions; reduction by 4 along all axes, also for thick slices.

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output: classes, or regions.
        width: Channels of the first stage; they double from stage to stage.
        depths: Blocks of the four encoder stages. A decoder stage has as many as the encoder stage of its resolution.
        heads: Attention heads of each.
        windows: Size of the volumes of attention along each axis, for each stage.
        deep_supervision: Whether logits at three scales are returned in training mode.

    Raises:
        ValueError: If an axis of the input is not a multiple of 32.

    Source:
        Zhou et al. 2023, nnFormer, IEEE Transactions on Image Processing 32, section III (arXiv:2109.03201).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        width: int = 192,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (6, 12, 24, 48),
        windows: Sequence[int] = (4, 4, 8, 4),
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        widths = [width * 2**stage for stage in range(len(depths))]
        pairs = list(pairwise(widths))
        self.divisor = _PATCH * 2 ** len(pairs)
        self.embedding = _embedding(in_channels, width)
        self.stages = nn.ModuleList(
            BasicLayer(w, depth, n, (size,) * 3, [0.0] * depth, qkv_bias=True)
            for w, depth, n, size in zip(widths, depths, heads, windows, strict=True)
        )
        self.downs = nn.ModuleList(
            nn.Sequential(_ChannelNorm(fine), nn.Conv3d(fine, coarse, 3, stride=2, padding=1)) for fine, coarse in pairs
        )
        self.norms = nn.ModuleList(_ChannelNorm(w) for w in widths)
        self.ups = nn.ModuleList(
            nn.Sequential(_ChannelNorm(coarse), nn.ConvTranspose3d(coarse, fine, 2, stride=2)) for fine, coarse in pairs
        )
        self.decoder = nn.ModuleList(
            _DecoderStage(w, depth, n, size)
            for w, depth, n, size in zip(widths[:-1], depths, heads, windows, strict=False)
        )
        self.expand = nn.ConvTranspose3d(width, out_channels, _PATCH, stride=_PATCH)
        supervised = widths[:2] if deep_supervision else []
        self.heads = nn.ModuleList(nn.Conv3d(w, out_channels, 1) for w in supervised)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits, in training mode with deep supervision those of every head, full resolution first."""
        check_input(x, self.divisor, "nnFormer")
        x = self.embedding(plain_tensor(x))
        skips: list[Tensor] = []
        for level, stage in enumerate(self.stages):
            x = stage(self.downs[level - 1](x) if level else x)
            skips.append(self.norms[level](x))
        x = skips.pop()
        maps: list[Tensor] = []
        for up, stage in zip(reversed(self.ups), reversed(self.decoder), strict=True):
            x = stage(up(x), skips.pop())
            maps.insert(0, x)
        logits = self.expand(x)
        if not (self.training and self.deep_supervision):
            return logits
        return [logits, *(head(features) for head, features in zip(self.heads, maps, strict=False))]


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each voxel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def _embedding(in_channels: int, width: int) -> nn.Module:
    """Build four convolutions of 3×3×3, with GELU and LayerNorm after all but the last; the first and third halve."""
    layers: list[nn.Module] = []
    half = width // 2
    for before, after, stride in ((in_channels, half, 2), (half, half, 1), (half, width, 2)):
        layers += [nn.Conv3d(before, after, 3, stride, 1), nn.GELU(), _ChannelNorm(after)]
    return nn.Sequential(*layers, nn.Conv3d(width, width, 3, padding=1))


class _CrossWindowAttention(WindowAttention):
    """MONAI's attention within windows, with queries from one map and keys and values from another."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        windows, n, width = x.shape
        split = (windows, n, self.num_heads, width // self.num_heads)
        weights, biases = (p.split([width, 2 * width]) for p in self.qkv.parameters())
        query = F.linear(x, weights[0], biases[0])
        key, value = F.linear(context, weights[1], biases[1]).chunk(2, -1)
        index: Tensor = self.relative_position_index  # type: ignore[assignment]  # a buffer
        table = self.relative_position_bias_table[index[:n, :n].reshape(-1)]
        bias = table.reshape(n, n, -1).permute(2, 0, 1)[None]
        query, key, value = (t.reshape(split).transpose(1, 2) for t in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), scale=self.scale)
        return self.proj(out.transpose(1, 2).reshape(windows, n, width))


class _SkipAttention(nn.Module):
    """A transformer block whose queries come from the decoder, and keys and values from the encoder; channels last."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = (window,) * 3
        self.norm_query, self.norm_skip, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.attention = _CrossWindowAttention(width, heads, self.window, qkv_bias=True)
        self.mlp = MLPBlock(width, 4 * width, act="GELU")

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        size = x.shape[1:4]
        window = get_window_size(size, self.window)
        missing = [-n % w for n, w in zip(size, window, strict=True)]
        padding = (0, 0, 0, missing[2], 0, missing[1], 0, missing[0])
        padded = [F.pad(t, padding) for t in (self.norm_query(x), self.norm_skip(skip))]
        query, context = (window_partition(t, window) for t in padded)
        out = self.attention(query, context).reshape(-1, *window, x.shape[-1])
        out = window_reverse(out, window, padded[0].shape[:4])
        x = x + out[:, : size[0], : size[1], : size[2]]
        return x + self.mlp(self.norm_mlp(x))


class _DecoderStage(nn.Module):
    """Skip attention, then blocks of self-attention, every second time in shifted volumes."""

    def __init__(self, width: int, depth: int, heads: int, window: int) -> None:
        super().__init__()
        self.window, self.shift = (window,) * 3, (window // 2,) * 3
        self.skip = _SkipAttention(width, heads, window)
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(width, heads, self.window, (0,) * 3 if i % 2 else self.shift) for i in range(depth - 1)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x, skip = x.movedim(1, -1), skip.movedim(1, -1)
        x = self.skip(x, skip)
        window, shift = get_window_size(x.shape[1:4], self.window, self.shift)
        padded = [-(-n // w) * w for n, w in zip(x.shape[1:4], window, strict=True)]
        mask = compute_mask(padded, window, shift, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x.movedim(-1, 1).contiguous()
