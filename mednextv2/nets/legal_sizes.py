"""The sizes that the network accepts along an axis, and how others are rounded to them."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

LEVELS = 5  # number of resolutions: full, 1/2, 1/4, 1/8 and the bottleneck's 1/16
DIVISOR = 2 ** (LEVELS - 1)  # an axis is halved once less than there are resolutions; also the smallest legal size


def is_legal(size: int) -> bool:
    """Return whether the network accepts an axis with this number of voxels.

    Args:
        size: The number of voxels, a whole number.
    """
    return size > 0 and size % DIVISOR == 0


def round_up(size: float) -> int:
    """Return the smallest legal size that is not below a size.

    Args:
        size: The number of voxels; a median of sizes may end in .5.
    """
    return DIVISOR * max(1, math.ceil(size / DIVISOR))


def nearest(size: int) -> int:
    """Return the nearest legal size; in the middle between two, the one that is an even multiple.

    Args:
        size: The number of voxels.
    """
    return DIVISOR * max(1, round(size / DIVISOR))


def scaled_patch(patch_size: Sequence[int], context: Any) -> list[int]:
    """Return the size of a patch with more or less context: every axis times a factor, at the nearest legal size.

    Between two legal sizes, the larger one is chosen. With the factor 1, the size is returned as it is. Values that are
    no numbers change nothing here; :func:`mednextv2.settings.check_settings` reports them.

    Args:
        patch_size: The size in voxels, one number an axis.
        context: The factor.

    Example:
        >>> scaled_patch([128, 128, 128], 1.5), scaled_patch([48, 64, 16], 1.5)
        ([192, 192, 192], [80, 96, 32])
    """
    numbers = isinstance(patch_size, (list, tuple)) and all(isinstance(n, int) and n > 0 for n in patch_size)
    fits = isinstance(context, (int, float)) and not isinstance(context, bool) and 0 < context < math.inf
    if not numbers or not fits or context == 1:
        return list(patch_size) if numbers else patch_size  # type: ignore[return-value]
    return [DIVISOR * max(1, math.floor(n * context / DIVISOR + 0.5)) for n in patch_size]


def check_spatial_shape(x: Tensor, spatial_dims: int) -> None:
    """Raise a ValueError that names the axis, its size and the nearest legal sizes, or return.

    Args:
        x: An input of the network.
        spatial_dims: The number of spatial axes of the network.
    """
    if x.dim() != spatial_dims + 2:
        axes = "X, Y, Z" if spatial_dims == 3 else "X, Y"
        raise ValueError(f"MedNeXt expects an input of shape (N, C, {axes}), got {tuple(x.shape)}")
    for axis, size in enumerate(x.shape[2:]):
        if not is_legal(size):
            above = round_up(size)
            legal = [str(s) for s in (above - DIVISOR, above) if s > 0]
            raise ValueError(
                f"MedNeXt halves every axis four times, so each must be a multiple of {DIVISOR}: "
                f"spatial axis {axis} has {size} voxels; the nearest legal "
                f"{'size is' if len(legal) == 1 else 'sizes are'} {' and '.join(legal)}"
            )
