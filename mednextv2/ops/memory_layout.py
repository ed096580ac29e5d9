"""The memory layout of features in the operators: dtypes, channels-last memory, and rows of voxels."""

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of means, variances and norms of `x`: float32 for half precision, else that of `x`."""
    return torch.float32 if x.dtype in HALF else x.dtype


def autocast(x: Tensor) -> Tensor:
    """Cast `x` as autocast would for a convolution; outside autocast, return it unchanged."""
    return x.to(autocast_dtype(x))


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that autocast gives `x` in a convolution; outside autocast, its own."""
    device = x.device.type
    if device == "meta":  # the meta device has no autocast
        return x.dtype
    if x.is_floating_point() and x.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def no_autocast(x: Tensor) -> torch.autocast:
    """Switch autocast off inside an operator, which decides for itself what is computed in half precision."""
    return torch.autocast(x.device.type if x.device.type != "meta" else "cuda", enabled=False)


def channels_last(x: Tensor) -> Tensor:
    """Return `x` in channels-last memory, as a view if it already is."""
    return x.contiguous(memory_format=torch.channels_last_3d if x.dim() == 5 else torch.channels_last)


def rows(x: Tensor) -> Tensor:
    """View a channels-last `(N, C, *spatial)` tensor as `(N, voxels, C)`."""
    return x.movedim(1, -1).flatten(1, -2)


def from_rows(x: Tensor, like: Tensor) -> Tensor:
    """View `(N, voxels, O)` rows as a channels-last `(N, O, *spatial of like)` tensor."""
    return x.unflatten(1, like.shape[2:]).movedim(-1, 1)
