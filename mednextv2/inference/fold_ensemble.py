"""The networks of a cross-validation's folds as one network, and where their weights are."""

import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from mednextv2.nets.cuda_graph import CudaGraphs
from mednextv2.weights.loading import load_weights

logger = logging.getLogger(__name__)


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
