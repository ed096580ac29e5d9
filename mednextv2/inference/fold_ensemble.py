"""The networks of a cross-validation's folds as one network, and where their weights are."""

import copy
import glob
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mednextv2.errors import InputError
from mednextv2.inference.exported_network import ExportedNetwork
from mednextv2.nets.cuda_graph import CudaGraphs
from mednextv2.weights.exported_files import is_exported
from mednextv2.weights.loading import load_weights
from mednextv2.weights.provenance import check_labels, describe_weights

logger = logging.getLogger(__name__)

FINETUNED = "finetune"  # experiment of the workflow finetune: see recipes/finetune.yaml


class FoldEnsemble(nn.Module):
    """The mean of the logits of networks that were trained on different folds, or one network.

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
            _check_trained(Path(path))
        check_labels(self.weights, self.labels)
        first = self.networks[0]
        self.graphs.clear()
        self.networks = nn.ModuleList([self._loaded(first, path, n > 0) for n, path in enumerate(self.weights)])
        for line in describe_choice(self.weights):
            logger.info(line)

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


def find_weights(
    bundle_root: str | os.PathLike,
    fold: int | str | None = None,
    folds: int | str | Sequence[int | str] | None = None,
    experiment: str = "",
) -> list[str]:
    """Return the files of weights that a bundle has.

    Args:
        bundle_root: The bundle's folder.
        fold: The fold whose weights are used if it was trained.
        folds: The folds whose weights are used, each of which must have been trained: a number, `all`, or several.
        experiment: The folder of a training within `models`; empty for trainings without one.

    Returns:
        `models/<experiment>/fold_<fold>/model.pt`; without `fold`, the weights of all folds, an ensemble. Without an
        experiment, the weights of a fine-tuning are used if there are no others, and otherwise `models/model.pt`, the
        weights with which a bundle is published.

    Raises:
        InputError: If one of `folds`, or the fold of an experiment, was not trained.
    """
    models = training_folder(bundle_root, experiment)
    if folds is not None:
        wanted = [folds] if isinstance(folds, (int, str)) else list(folds)
        files = [models / f"fold_{number}" / "model.pt" for number in wanted]
        if missing := [str(number) for number, file in zip(wanted, files, strict=True) if not file.is_file()]:
            there = sorted(file.parent.name.removeprefix("fold_") for file in models.glob("fold_*/model.pt"))
            raise InputError(
                f"folds {', '.join(missing)}: not trained in {models}; trained are {', '.join(there) or 'none'}. "
                "Choose others with --folds, or train them first"
            )
        return [str(file) for file in files]
    found = sorted(models.glob(f"fold_{'*' if fold is None else glob.escape(str(fold))}/model.pt"))
    if experiment and not found:
        which = "no fold" if fold is None else f"no fold {fold}"
        raise InputError(
            f"{models}: holds {which} of the experiment {experiment}; train it first with the workflow train or "
            "finetune and the same --network or --experiment, or give --weights"
        )
    return [str(file) for file in found or [Path(bundle_root) / "models" / "model.pt"]]


def training_folder(bundle_root: str | os.PathLike, experiment: str = "") -> Path:
    """Return the folder of a bundle that holds `fold_0` and further folds of a training.

    Args:
        bundle_root: The bundle's folder.
        experiment: The folder of the training within `models`. If it is empty, that is `models` itself, or `finetune`
            in it, if that holds folds and `models` none.
    """
    models = Path(bundle_root) / "models"
    if experiment or any(models.glob("fold_*/model.pt")) or not any((models / FINETUNED).glob("fold_*/model.pt")):
        return models / experiment
    return models / FINETUNED


def _check_trained(file: Path) -> None:
    """Raise an InputError if a file is the one that a bundle is published with, and the bundle has none."""
    models, root = file.parent, file.parent.parent
    if file.is_file() or (models.name, file.name) != ("models", "model.pt") or not (root / "configs").is_dir():
        return
    trained = sorted(found.parent.name.removeprefix("fold_") for found in training_folder(root).glob("fold_*/model.pt"))
    if trained:
        raise InputError(
            f"{root}: this fold has not been trained; trained are {', '.join(trained)}. Choose one of them with "
            f"--fold, or train this one: mednextv2 run {root} train --dataset_dir DATA --fold NUMBER"
        )
    raise InputError(
        f"{root}: this bundle has no trained weights yet. Train it: mednextv2 run {root} train --dataset_dir DATA "
        f"--fold 0 ({root / 'docs' / 'README.md'} says on which data), or give a file of weights with --weights"
    )


def describe_choice(files: Sequence[str | os.PathLike]) -> list[str]:
    """Say in one line each which weights are used, and in another which weights of the bundle are not.

    Args:
        files: The files of weights that are used.
    """
    lines = [f"weights: {describe_weights(file)}" for file in files]
    folds = [Path(file).parent for file in files if Path(file).parent.name.startswith("fold_")]
    models = {folder for fold in folds for folder in list(fold.parents)[:2] if folder.name == "models"}
    unused = [file for folder in sorted(models) if (file := folder / "model.pt").is_file()]
    if unused:
        lines.append(
            f"the bundle's own weights {unused[0]} are not used, since folds were trained here (--weights {unused[0]})"
        )
    if any(fold.parent.name == "models" and any(fold.parent.glob(f"{FINETUNED}/fold_*/model.pt")) for fold in folds):
        lines.append(f"the fine-tuned weights are not used, since folds were also trained (--experiment {FINETUNED})")
    return lines
