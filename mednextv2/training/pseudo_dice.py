"""The score that decides on the best weights: hard Dice of validation patches, averaged over epochs."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.data.meta_tensor import MetaTensor
from monai.handlers import from_engine
from torch import Tensor

from mednextv2.data.partial_labels import PartialLabels
from mednextv2.label_scheme import LabelScheme


class PseudoDice(Metric):
    """Dice of an epoch's validation patches as if they were one image, averaged over epochs.

    Overlaps and volumes of each structure are summed over the patches of an epoch, and over the processes of
    `torch.distributed`, before they are divided; voxels of the ignore label are left out. Of partly annotated labels,
    only what a patch's data set annotates counts. A structure that occurs in
    neither labels nor predictions is NaN and left out of the epoch's mean. The metric's value is the moving average of
    these means, because random patches make them noisy. An epoch without any structure does not change it.

    The engine's metrics contain more than this value: `val_mean_dice`, the epoch's own mean, and the Dice of each
    structure.

    MONAI's `MeanDice` averages over images, but patches are not images: a patch with a few voxels of a structure would
    count as much as one that is full of it.

    Args:
        scheme: The meaning of labels and outputs. Each region is scored separately, as it is before painting.
        prefix: The prefix of the structures' names in the engine's metrics.
        momentum: The weight of earlier epochs in the moving average.
        output_transform: Turns the engine's output into the prediction and the label: see `update`.
        device: The device of the sums; with several processes, it must be one on which they can communicate.

    Source:
        Isensee et al. 2021, nnU-Net, Nature Methods: the foreground Dice monitored while training.
    """

    def __init__(
        self,
        scheme: LabelScheme,
        prefix: str = "val_dice_",
        momentum: float = 0.9,
        output_transform: Callable = from_engine(["pred", "label"]),  # noqa: B008, the default has no state
        device: str | torch.device = "cpu",
    ) -> None:
        self.scheme, self.prefix, self.momentum = scheme, prefix, momentum
        self._average: float | None = None  # including the epoch that was computed last
        super().__init__(output_transform, device)

    def reset(self) -> None:
        """Start an epoch; the moving average of earlier epochs is kept."""
        self._before = self._average
        self._sums = torch.zeros(3, len(self.scheme.foreground), dtype=torch.int64, device=self._device)

    def update(self, output: Sequence[Any]) -> None:
        """Add patches.

        Args:
            output: Logits of the network, `(B, outputs, *spatial)`, and label maps, `(B, 1, *spatial)`, or partly
                annotated ones (:class:`mednextv2.data.PartialLabels`); or lists of logits and label maps, decollated,
                without the axis B.
        """
        logits, label = output
        structures = None
        if isinstance(label, PartialLabels):
            label, structures = label
        if not isinstance(logits, Tensor):
            for pair in zip(logits, label, strict=True):
                self.update([x[None] for x in pair])
            return
        logits, label = (x.as_tensor() if isinstance(x, MetaTensor) else x for x in (logits.detach(), label))
        if self.scheme.regions:
            predicted = logits > 0  # sigmoid(x) > 0.5
        else:
            predicted = self.scheme.masks(self.scheme.decide(logits, channel_axis=1), channel_axis=1)
        labelled = self.scheme.masks(label, channel_axis=1)
        valid = self.scheme.valid(label)
        if valid is not None:  # the structures of the label contain no ignored voxels
            predicted &= valid
        masks = (predicted & labelled, predicted, labelled)
        if structures is None:
            sums = torch.stack([mask.flatten(2).sum((0, 2)) for mask in masks])
        else:
            each = torch.stack([mask.flatten(2).sum(2) for mask in masks])
            sums = (each * structures.to(each.device, non_blocking=True)).sum(1)
        self._sums += sums.to(self._device)

    def structures(self) -> Tensor:
        """Return the Dice of each structure in the epoch so far, NaN where it is absent.

        Every process must call it.
        """
        sums = self._sums.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        overlap, predicted, labelled = sums.cpu().double()
        return 2 * overlap / (predicted + labelled)  # 0 / 0 is NaN

    def compute(self) -> float:
        """Return the moving average that ends with this epoch, or 0 if no epoch had a structure."""
        return self._follow(self.structures())

    def _follow(self, dice: Tensor) -> float:
        mean = float(dice.nanmean())
        if math.isnan(mean) or self._before is None:
            self._average = self._before if math.isnan(mean) else mean
        else:
            self._average = self.momentum * self._before + (1 - self.momentum) * mean
        return 0.0 if self._average is None else self._average

    def completed(self, engine: Engine, name: str) -> None:
        """Write the scores into the engine's metrics: the moving average as `name`, and the scores of the epoch.

        Args:
            engine: The evaluator.
            name: The name of the moving average.
        """
        dice = self.structures()
        engine.state.metrics["val_mean_dice"] = float(dice.nanmean())
        for structure, value in zip(self.scheme.foreground, dice.tolist(), strict=True):
            engine.state.metrics[f"{self.prefix}{structure}"] = value
        engine.state.metrics[name] = self._follow(dice)

    def state_dict(self) -> OrderedDict[str, Any]:
        """Return the moving average."""
        return OrderedDict(average=self._average)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a moving average."""
        self._average = self._before = state_dict["average"]
