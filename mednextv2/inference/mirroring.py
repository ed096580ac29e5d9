"""Test-time mirroring: each window is also predicted flipped, and the logits averaged."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import combinations
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from mednextv2.errors import InputError
from mednextv2.ops import hold_weights


class MirroringInferer(SlidingWindowInferer):
    """MONAI's sliding window with test-time mirroring: each window is also predicted flipped, and logits averaged.

    Args:
        roi_size: The size of a window in voxels.
        mirror_axes: Spatial axes to flip, with all their combinations: 2^n predictions; empty for none.
        mirroring: Whether to flip at all, as users of MONAI Label set it.
        **kwargs: The arguments of `monai.inferers.SlidingWindowInferer`.

    Raises:
        InputError: If `mirroring` or `overlap` is of another kind, such as a text.

    Source:
        nnU-Net's prediction: the mean of the logits over all combinations of the axes mirrored in training.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        mirror_axes: Sequence[int] = (),
        mirroring: bool = True,
        **kwargs: Any,
    ) -> None:
        if not isinstance(mirroring, bool):
            raise InputError(f"mirroring {mirroring!r}: should be true or false")
        overlaps = kwargs.get("overlap", 0.25)
        for overlap in overlaps if isinstance(overlaps, (list, tuple)) else [overlaps]:
            if isinstance(overlap, bool) or not isinstance(overlap, (int, float)):
                raise InputError(f"overlap {overlap!r}: should be a number from 0 to below 1, such as 0.5")
        super().__init__(roi_size, **kwargs)
        self.mirror_axes = tuple(mirror_axes) if mirroring else ()

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return logits of `inputs`, `(B, C, X, Y, Z)`."""
        with holding_weights_of(network):
            return super().__call__(inputs, self.predictor(network), *args, **kwargs)

    def predictor(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return the network, or a function that averages its logits over all flips."""
        return partial(mirrored, network=network, axes=self.mirror_axes) if self.mirror_axes else network


def holding_weights_of(network: Callable[..., Tensor]) -> AbstractContextManager[None]:
    """Promise that the weights of a network do not change while windows are predicted, unless it may be compiled."""
    own = isinstance(network, nn.Module) and not any(
        isinstance(part, torch._dynamo.OptimizedModule) or part._compiled_call_impl is not None
        for part in network.modules()
    )
    return hold_weights(own)


def one_tensor(logits: Any) -> Tensor:
    """Return the logits of a network.

    Raises:
        ValueError: If the network returned several tensors, or none.
    """
    if not isinstance(logits, Tensor):
        raise ValueError(f"the network should return one tensor of logits, but returned a {type(logits).__name__}")
    return logits


def mirrored(x: Tensor, *args: Any, network: Callable[..., Tensor], axes: Sequence[int], **kwargs: Any) -> Tensor:
    """Average a network's logits over all flips of some axes.

    Args:
        x: The input, `(B, C, X, Y, Z)`.
        *args: Passed on to the network.
        network: The network.
        axes: The spatial axes, counted from 0.
        **kwargs: Passed on to the network.
    """
    total = one_tensor(network(x, *args, **kwargs)).float()
    flips = [[axis + 2 for axis in some] for n in range(1, len(axes) + 1) for some in combinations(axes, n)]
    for dims in flips:
        total += network(x.flip(dims), *args, **kwargs).flip(dims)
    return total / (len(flips) + 1)
