"""The networks of a cross-validation's folds as one network."""

import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mednextv2.inference.exported_network import ExportedNetwork
from mednextv2.inference.weights_choice import check_trained, describe_choice
from mednextv2.nets.cuda_graph import CudaGraphs
from mednextv2.weights.file_kinds import is_exported
from mednextv2.weights.loading import load_weights
from mednextv2.weights.provenance import check_labels

logger = logging.getLogger(__name__)


class FoldEnsemble(nn.Module):
    """The mean of the logits of networks that were trained on different folds, or one network.

    The tensors of a single network have the names that they have in the network itself, so that whoever sets weights in
    memory, such as :class:`monai.fl.client.MonaiAlgo`, finds them. Those of several begin with `networks.0.`,
    `networks.1.` and so on.

    Args:
        network: The network, on its device.
        weights: One or several files of weights, or of the network exported to another format: see
            :class:`mednextv2.inference.exported_network.ExportedNetwork`.
        cuda_graph: Whether windows of a repeated shape are replayed from a CUDA graph of all networks together, see
            :class:`mednextv2.nets.cuda_graph.CudaGraphs`; on other devices, this changes nothing.
        labels: The meaning of the network's outputs, with which that of the weights is compared if they record it: see
            :func:`mednextv2.weights.provenance.recorded_labels`.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: str | os.PathLike | Sequence[str | os.PathLike],
        cuda_graph: bool = True,
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.labels = labels
        self.graphs = CudaGraphs(cuda_graph)
        several = [weights] if isinstance(weights, (str, os.PathLike)) else weights
        self.weights = [os.fspath(file) for file in several]
        self.networks = nn.ModuleList([network])

    def load(self) -> None:
        """Load the weights.

        Raises:
            InputError: If the bundle has no weights yet, or they are for other labels; otherwise see
                :func:`mednextv2.weights.load_weights`.
        """
        for path in self.weights:
            check_trained(Path(path))
        check_labels(self.weights, self.labels)
        first = self.networks[0]
        self.graphs.clear()
        self.networks = nn.ModuleList([self._loaded(first, path, n > 0) for n, path in enumerate(self.weights)])
        for line in describe_choice(self.weights):
            logger.info(line)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tensors by name, as `torch.nn.Module.state_dict` does."""
        if len(self.networks) == 1:
            return self.networks[0].state_dict(*args, **kwargs)
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Set the tensors by name, as `torch.nn.Module.load_state_dict` does."""
        self.graphs.clear()
        if len(self.networks) == 1:
            return self.networks[0].load_state_dict(*args, **kwargs)
        return super().load_state_dict(*args, **kwargs)

    def _loaded(self, network: nn.Module, path: str, copied: bool) -> nn.Module:
        if is_exported(path):
            self.graphs.enabled = False  # a graph records kernels of PyTorch only
            parameter = next(network.parameters(), None)
            device = torch.device("cpu") if parameter is None else parameter.device
            named = len(self.labels or ())  # the background is one of the names, but no output if there are regions
            return ExportedNetwork(path, device, (named, named - 1) if named else ())
        return load_weights(copy.deepcopy(network) if copied else network, path)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, `(B, outputs, X, Y, Z)`."""
        return self.graphs(self, x, self._mean)

    def _mean(self, x: Tensor) -> Tensor:
        first, *others = self.networks
        if not others:
            return first(x)
        total = first(x).float()
        for network in others:  # this keeps the layout of the first, which a stack would lose
            total = total + network(x).float()
        return total / len(self.networks)
