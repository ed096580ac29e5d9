"""What turns windows into logits: test-time mirroring and fold ensembles."""

import copy
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from mednextv2.nets.cuda_graph import CudaGraphs
from mednextv2.ops import hold_weights
from mednextv2.weights.loading import load_weights

logger = logging.getLogger(__name__)


class MirroringInferer(SlidingWindowInferer):
    """MONAI's sliding window with test-time mirroring: each window is also predicted flipped, and logits averaged.

    Args:
        roi_size: Voxels of a window.
        mirror_axes: Spatial axes to flip, with all their combinations: 2^n predictions; empty for none.
        **kwargs: As `monai.inferers.SlidingWindowInferer`.

    Source:
        nnU-Net's prediction: the mean of the logits over all combinations of the axes mirrored in training.
    """

    def __init__(self, roi_size: Sequence[int] | int, mirror_axes: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(roi_size, **kwargs)
        self.mirror_axes = tuple(mirror_axes)

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return logits of `inputs`, `(B, C, X, Y, Z)`."""
        with holding_weights_of(network):
            return super().__call__(inputs, self.predictor(network), *args, **kwargs)

    def predictor(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return the network, or what averages its logits over all flips."""
        return partial(mirrored, network=network, axes=self.mirror_axes) if self.mirror_axes else network


def holding_weights_of(network: Callable[..., Tensor]) -> AbstractContextManager[None]:
    """Promise that the weights of a network do not change while windows are predicted, unless it may be compiled."""
    own = isinstance(network, nn.Module) and not any(
        isinstance(part, torch._dynamo.OptimizedModule) or part._compiled_call_impl is not None
        for part in network.modules()
    )
    return hold_weights(own)


def mirrored(x: Tensor, *args: Any, network: Callable[..., Tensor], axes: Sequence[int], **kwargs: Any) -> Tensor:
    """Average a network's logits over all flips of some axes.

    Args:
        x: `(B, C, X, Y, Z)`.
        *args: Passed on to the network.
        network: The predictor.
        axes: Spatial axes, from 0.
        **kwargs: Passed on to the network.
    """
    total = network(x, *args, **kwargs).float()
    flips = [[axis + 2 for axis in some] for n in range(1, len(axes) + 1) for some in combinations(axes, n)]
    for dims in flips:
        total += network(x.flip(dims), *args, **kwargs).flip(dims)
    return total / (len(flips) + 1)


class FoldEnsemble(nn.Module):
    """The mean of the logits of networks that were trained on different folds, or one network.

    Args:
        network: The network, on its device.
        weights: Files of weights, or one.
        cuda_graph: Replay windows of a shape that comes again from a CUDA graph of all networks together, see
            :class:`mednextv2.nets.cuda_graph.CudaGraphs`; elsewhere than on a CUDA device this changes nothing.
    """

    def __init__(
        self, network: nn.Module, weights: str | os.PathLike | Sequence[str | os.PathLike], cuda_graph: bool = True
    ) -> None:
        super().__init__()
        self.graphs = CudaGraphs(cuda_graph)
        self.weights = [weights] if isinstance(weights, (str, os.PathLike)) else list(weights)
        self.networks = nn.ModuleList([network])

    def load(self) -> None:
        """Load the weights.

        Raises:
            InputError: See :func:`mednextv2.weights.load_weights`.
        """
        first = self.networks[0]
        self.graphs.clear()
        self.networks = nn.ModuleList([first, *(copy.deepcopy(first) for _ in self.weights[1:])])
        for network, path in zip(self.networks, self.weights, strict=True):
            load_weights(network, path)
        logger.info("Weights: %s", ", ".join(map(str, self.weights)))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, `(B, outputs, X, Y, Z)`."""
        return self.graphs(self, x, self._mean)

    def _mean(self, x: Tensor) -> Tensor:
        first, *others = self.networks
        if not others:
            return first(x)
        total = first(x).float()
        for network in others:  # the layout of the first stays, which a stack would lose
            total = total + network(x).float()
        return total / len(self.networks)


def find_weights(bundle_root: str | os.PathLike, fold: int | str | None = None) -> list[str]:
    """Return the files of weights that a bundle has.

    Args:
        bundle_root: The bundle's folder.
        fold: The weights of a training on this fold, if there are any.

    Returns:
        `models/fold_<fold>/model.pt`; without `fold` those of all folds, an ensemble; where there are none,
        `models/model.pt`, the weights that a bundle is published with.
    """
    models = Path(bundle_root) / "models"
    folds = sorted(models.glob(f"fold_{'*' if fold is None else fold}/model.pt"))
    return [str(file) for file in folds or [models / "model.pt"]]
