"""The encoder of MedNeXt on an image of which some cells are hidden.

Hidden positions take part in nothing: they are zero in front of every depthwise convolution, and every statistic, the
mean and variance of the norm and GRN's norm of expanded channels, is over the visible positions of a sample. Memory is
channels-last, so that a position is a row; between convolutions, only the rows of visible positions exist. A block

1. puts the rows into a feature map of zeros, and convolves it,
2. takes the visible rows of the result,
3. applies `ops.folded_mlp` to them, which takes a sample's visible rows for its whole space.

With three quarters of an image hidden, everything but the convolution thus costs a quarter. Nothing else is masked:
what a convolution writes to hidden positions is never read.

Source:
    Woo et al. 2023 (arXiv:2301.00808) and Tian et al. 2023 (arXiv:2301.03580): sparse convolutions as dense ones of
    masked features; Wald et al. 2025 (arXiv:2410.23132): in three dimensions.
"""

from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mednextv2 import ops
from mednextv2.nets.blocks import MedNeXtBlock, MedNeXtDownBlock
from mednextv2.nets.mednext import MedNeXt
from mednextv2.nets.visible_cells import Level, as_features, as_rows


def encode(network: MedNeXt, image: Tensor, levels: list[Level]) -> list[Tensor]:
    """Apply the stem, the encoder and the bottleneck to the visible cells of an image.

    Args:
        network: The network.
        image: The image, `(N, C, *space)`; what is in hidden cells has no influence.
        levels: The visible positions at the five resolutions, from full resolution down.

    Returns:
        The rows of visible positions at each resolution, `(rows, channels)`: the outputs of the four encoder stages
        and of the bottleneck.
    """
    rows = as_rows(network.stem(as_features(levels[0].gather(image), 1, levels[0].dims)))
    found = []
    for stage, down, fine, coarse in zip(network.encoder, network.down, levels[:-1], levels[1:], strict=True):
        rows = _stage(stage, rows, fine)
        found.append(rows)
        rows = run_block(cast(MedNeXtBlock, down), rows, fine, coarse)
    return [*found, _stage(network.bottleneck, rows, levels[-1])]


def _stage(blocks: torch.nn.Module, rows: Tensor, level: Level) -> Tensor:
    for block in blocks.children():
        rows = run_block(cast(MedNeXtBlock, block), rows, level, level)
    return rows


def run_block(block: MedNeXtBlock, rows: Tensor, before: Level, after: Level) -> Tensor:
    """Apply a standard block or a down block to visible positions.

    Args:
        block: The block.
        rows: The rows of its input's visible positions, `(rows, C)`.
        before: The visible positions of its input.
        after: Those of its output, which are the same for a standard block.

    Returns:
        The rows of its output's visible positions, `(rows, O)`.
    """
    if block.activation_checkpointing and torch.is_grad_enabled():
        drops = block.drop_path_rate > 0.0
        return checkpoint(_whole, block, rows, before, after, use_reentrant=False, preserve_rng_state=drops)
    return _whole(block, rows, before, after)


def _whole(block: MedNeXtBlock, rows: Tensor, before: Level, after: Level) -> Tensor:
    x = before.scatter(rows)
    y, _ = ops.depthwise(x, block.convolution())
    y = after.gather(y)
    if not block.residual:
        return _inside(block, y, None, after)
    if isinstance(block, MedNeXtDownBlock):
        rows = ops.gather_rows(x, _every_second(before, after))
        rows = as_rows(block.shortcut(as_features(rows, 1, after.dims)))
    return _inside(block, y, rows, after)


def _inside(block: MedNeXtBlock, y: Tensor, residual: Tensor | None, level: Level) -> Tensor:
    """Apply everything after the convolution to rows, sample by sample, and add the residual."""
    mlp, settings = block.inside()
    drops = block.drop_path_rate > 0.0 and block.training
    results = []
    for part, *of_residual in level.per_sample(*([y] if residual is None else [y, residual])):
        added = of_residual[0] if of_residual else None
        out = ops.folded_mlp(part, mlp, None if drops else added, settings)
        if drops:
            out = block.drop_path(out) if added is None else added + block.drop_path(out)
        results.append(as_rows(out))
    if not results:  # all of the batch is hidden
        return y.new_zeros(0, block.compress.out_channels)
    return torch.cat(results) if len(results) > 1 else results[0]


def _every_second(fine: Level, coarse: Level) -> Tensor:
    """Return the positions of the fine map, every second along each axis, that coincide with visible coarse ones."""
    coarse_positions = coarse.runs[:, None] * coarse.length + torch.arange(coarse.length, device=coarse.runs.device)
    rest, step = coarse_positions.flatten(), 1
    index = torch.zeros_like(rest)
    for coarse_size, fine_size in zip(coarse.shape[:0:-1], fine.shape[:0:-1], strict=True):
        index = index + 2 * step * (rest % coarse_size)
        rest, step = rest // coarse_size, step * fine_size
    return index + step * rest
