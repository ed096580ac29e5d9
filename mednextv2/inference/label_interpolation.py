"""Labels between voxels of logits: the result of linear interpolation of all logits and then a decision.

If all voxels around a place have the same decision, so has every mixture of them, so logits are interpolated only
between different decisions. On a CPU, one pass of C++ does this (`ops/native/labels_avx2.cpp`) without storing what it
interpolates.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mednextv2.inference.window_cells import is_channels_last
from mednextv2.label_scheme import LabelScheme
from mednextv2.ops import implementations
from mednextv2.transforms.spline_resize import corners_of, following

Taps = Mapping[int, tuple[Tensor, Tensor, Tensor]]  # by interpolated axis: two voxels and the weight of the second

_NUMBERS = 2**20  # number of logits that are interpolated at a time
_MOST_REGIONS = 31  # largest number of regions that the C++ pass can tell apart


def labels_between(sums: Tensor, weights: Tensor, taps: Taps, scheme: LabelScheme) -> Tensor:
    """Decide the labels of a grid from logits on another grid.

    Args:
        sums: Weighted logits, `(C, ...)`, 2D or 3D, float32 or float16.
        weights: The sums of the weights, by which the logits are divided, `(...)`, float32, above 0.
        taps: The taps of each axis that is interpolated, as returned by
            :func:`mednextv2.transforms.spline_resize.linear_taps`. Along the other axes, the labels have the voxels of
            the sums.
        scheme: The meaning of the logits.

    Returns:
        Labels of the scheme's `dtype`.
    """
    if _fit_for_native(sums, scheme) and (taps or is_channels_last(sums)):
        return _native(sums, weights, taps, scheme)
    return _plain(sums, weights, taps, scheme) if taps else scheme.decide(sums)[0]


def _fit_for_native(sums: Tensor, scheme: LabelScheme) -> bool:
    return (
        sums.device.type == "cpu"
        and sums.dtype in (torch.float32, torch.float16)
        and len(scheme.regions) <= _MOST_REGIONS
        and implementations.choose("cpu", torch.float32).name == implementations.NATIVE
    )


def _native(sums: Tensor, weights: Tensor, taps: Taps, scheme: LabelScheme) -> Tensor:
    flat = 4 - sums.ndim  # a 2D image is a volume with one plane
    rows = sums.movedim(0, -1).contiguous()  # copies if channels are first, which is still faster than gathering them
    weights = weights.contiguous()
    for _ in range(flat):
        rows, weights = rows[None], weights[None]
    low, high, share = [], [], []
    for axis, size in enumerate(weights.shape):
        same = torch.arange(size)
        first, second, part = taps.get(axis - flat, (same, same, torch.zeros(size)))
        low.append(first.contiguous())
        high.append(second.contiguous())
        share.append(part.contiguous())
    paint, wide = [region.paint for region in scheme.regions], scheme.dtype != torch.uint8
    labels = torch.ops.mednextv2_native.labels(rows, weights, low, high, share, paint, wide)
    return labels[0] if flat else labels


def _plain(sums: Tensor, weights: Tensor, taps: Taps, scheme: LabelScheme) -> Tensor:
    decided = scheme.decide(sums)[0]
    mixed = _mixed(sums, decided, taps, scheme)
    for axis, (low, _, _) in taps.items():
        decided, mixed = decided.index_select(axis, low), mixed.index_select(axis, low)
    decided = decided.contiguous()
    winners = decided.view(-1)
    for voxels in mixed.reshape(-1).nonzero()[:, 0].split(max(1, _NUMBERS // len(sums))):
        corners, shares = corners_of(voxels, weights.shape, decided.shape, taps)
        winners[voxels] = scheme.decide(_logits_at(corners, shares, sums, weights))[0]
    return decided


def _mixed(sums: Tensor, decided: Tensor, taps: Taps, scheme: LabelScheme) -> Tensor:
    """Return where a voxel and the voxels after it do not all have the same decision in every output."""
    decisions = (sums > 0) if scheme.regions else decided[None]
    mixed = torch.zeros_like(decided, dtype=torch.bool)
    for axis in taps:
        mixed |= following(mixed, axis)
        for decision in decisions:
            mixed |= decision != following(decision, axis)
    return mixed


def logits_between(sums: Tensor, weights: Tensor, taps: Taps) -> Tensor:
    """Interpolate logits to `(C, ...)`, float32, on the CPU. It takes the arguments of :func:`labels_between`."""
    shape = [len(taps[axis][0]) if axis in taps else n for axis, n in enumerate(weights.shape)]
    logits = torch.empty(len(sums), math.prod(shape))
    for voxels in torch.arange(math.prod(shape), device=sums.device).split(max(1, _NUMBERS // len(sums))):
        corners, shares = corners_of(voxels, weights.shape, torch.Size(shape), taps)
        logits[:, voxels.cpu()] = _logits_at(corners, shares, sums, weights).cpu()
    return logits.reshape(len(sums), *shape)


def _logits_at(corners: Tensor, shares: Tensor, sums: Tensor, weights: Tensor) -> Tensor:
    """Return the interpolated logits of some voxels, `(C, N)`."""
    shares = shares / weights.reshape(-1)[corners]
    last = is_channels_last(sums)
    table = sums.movedim(0, -1).reshape(-1, len(sums)) if last else sums.reshape(len(sums), -1)

    def part(corner: Tensor, share: Tensor) -> Tensor:
        return table.index_select(0 if last else 1, corner).float().mul_(share[:, None] if last else share)

    logits = part(corners[0], shares[0])
    for corner, share in zip(corners[1:], shares[1:], strict=True):
        logits.add_(part(corner, share))
    return logits.T if last else logits
