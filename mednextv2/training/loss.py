"""The training loss: cross-entropy plus soft Dice at every head."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from monai.data.meta_tensor import MetaTensor
from torch import Tensor, nn

from mednextv2.data.partial_labels import PartialLabels
from mednextv2.distributed import sum_over_processes
from mednextv2.errors import InputError
from mednextv2.label_scheme import LabelScheme
from mednextv2.training.loss_terms import Sums, as_numbers, class_sums, label_of_heads, region_sums
from mednextv2.training.partial_loss import group_samples, merged_class_sums
from mednextv2.wording import brief, count

MEDNEXT_WEIGHTS = (16 / 31, 8 / 31, 4 / 31, 2 / 31, 1 / 31)  # weights of the heads, full resolution first
_MOST_HEADS = 12  # of any network; without weights of its own, each further head has half of the one before
_SMOOTH = 1e-5


def _checked(weights: Any) -> Sequence[float]:
    """Return the weights of the heads if they can be: numbers from 0, of which the first counts."""
    numbers = isinstance(weights, (list, tuple)) and all(
        isinstance(w, (int, float)) and 0 <= w < math.inf for w in weights
    )
    if not numbers or not weights or weights[0] == 0:
        raise InputError(
            f"deep_supervision_weights {brief(weights)}: should be numbers from 0, one a head, the first "
            'of them above 0, such as "[1,0.5,0.25,0.125,0.0625]"'
        )
    return weights


class SegmentationLoss(nn.Module):
    """Cross-entropy plus soft Dice, summed over the heads of deep supervision.

    With classes, cross-entropy is the unweighted mean over voxels, and Dice is computed from the softmax, without the
    background. With regions, cross-entropy is binary and the mean over voxels and regions, and Dice is computed from
    the sigmoid of every region. The Dice term is one minus the mean of `(2 I + s) / (P + G + s)`, with the intersection
    `I`, the volume `P` of the prediction, the volume `G` of the label, and `s = 1e-5`. Voxels of the ignore label are
    left out of all these sums; if no voxel is annotated, cross-entropy is 0. The label of a smaller head is that of the
    nearest voxel (`nearest-exact`).

    Of partly annotated labels (:class:`mednextv2.data.PartialLabels`), only what a sample's data set annotates counts.
    A class that it does not annotate is, for that sample, a part of the background: the probability of the background
    is the sum of theirs (the marginal). A region that it does not annotate is left out, and each sample weighs as much
    as one with all regions. Dice is averaged over the structures that a sample annotates, and then over the samples;
    with batch Dice, over the structures that any sample of the batch annotates, each with the sums over these samples.
    If every sample annotates everything, this is the loss for ordinary labels.

    Everything is computed in float32 (in float64 for float64 logits), also under autocast.

    MONAI's `DeepSupervisionLoss` of `DiceCELoss` has the same values for classes, but no ignore label, no regions from
    label maps and no batch Dice over processes, and it takes more time and memory.

    Args:
        scheme: The meaning of the label values.
        batch_dice: Whether `I`, `P` and `G` are sums over the batch and over the processes of `torch.distributed`, all
            of which must then compute the loss equally often. If False, every sample has its own Dice.
        weights: The weights of the heads, full resolution first; None for MedNeXt's, which other networks with more
            heads continue, each half of the one before. With fewer heads, the first weights are used unchanged; a
            single head has weight 1.

    Source:
        Isensee et al. 2021, nnU-Net, Nature Methods, online methods; regions and ignore label: documentation of
        nnU-Net v2. The weights of five heads are those of the MedNeXt authors' v1 code. Marginal probabilities: Shi et
        al. 2021, Marginal loss and exclusion loss for partially supervised multi-organ segmentation, Medical Image
        Analysis.
    """

    def __init__(self, scheme: LabelScheme, batch_dice: bool = False, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.scheme, self.batch_dice = scheme, batch_dice
        self.weights = tuple(MEDNEXT_WEIGHTS if weights is None else _checked(weights))
        self.continued = weights is None
        self._constants: dict[tuple, Tensor] = {}

    def forward(self, outputs: Tensor | Sequence[Tensor], label: Tensor | PartialLabels) -> Tensor:
        """Compute the loss.

        Args:
            outputs: Logits of the head or the heads, full resolution first, each `(B, outputs, *spatial)`.
            label: Label maps, `(B, 1, *spatial)`, whole numbers of any type; or partly annotated ones.

        Returns:
            A scalar, float32.

        Raises:
            InputError: When there are more heads than weights.
            ValueError: When the number of channels is not the scheme's.
        """
        heads = [_plain(head) for head in ([outputs] if isinstance(outputs, Tensor) else outputs)]
        weights = self._weights_of(len(heads))
        if not 1 <= len(heads) <= len(weights):
            raise InputError(
                f"deep_supervision_weights {list(weights)}: {count(len(heads), 'output')}, but "
                f"{count(len(weights), 'weight')} of deep supervision; give one for each output"
            )
        for head in heads:
            if head.shape[1] != self.scheme.outputs:
                raise ValueError(
                    f"outputs have {count(head.shape[1], 'channel')}, but the labels need {self.scheme.outputs}"
                )
        structures = None
        if isinstance(label, PartialLabels):
            structures = self._checked_structures(label.structures, heads[0])
            label = label.label
        dtype = torch.float64 if heads[0].dtype == torch.float64 else torch.float32
        label = label_of_heads(_plain(label).float(), heads).to(dtype)  # autocast does not lower its precision
        sizes = [head.shape[2:].numel() for head in heads]
        annotated = self.scheme.valid(label)
        sums = self._sums(heads, sizes, label, annotated, structures)
        shares = None if structures is None else self._shares(structures, label)
        entropy = sums.entropy
        if self.scheme.regions:  # of each region; those that are not annotated may be infinite
            entropy = entropy if shares is None else torch.where(shares > 0, entropy * shares, 0)
            entropy = entropy.sum((1, 2))
        losses = entropy / self._counts(sizes, label, annotated) + self._dice_loss(sums, shares)
        return (losses * self._constant(weights[: len(heads)], losses)).sum()

    def _checked_structures(self, structures: Tensor, logits: Tensor) -> list[list[bool]]:
        """Return what each sample annotates. It is on the CPU, so that this does not wait for the GPU."""
        expected = (len(logits), len(self.scheme.foreground))
        if tuple(structures.shape) != expected or structures.device.type != "cpu":
            raise ValueError(f"structures should be on the CPU and have the shape {expected}: {structures.shape}")
        flags = structures.tolist()
        if not all(map(any, flags)):
            raise ValueError("a sample has no annotated structure, so that there is nothing to learn from it")
        return flags

    def _shares(self, structures: list[list[bool]], like: Tensor) -> Tensor:
        """Return the weight of each structure of each sample, `(B, S)`: 0, or S over how many the sample annotates."""
        number = len(self.scheme.foreground)
        rows = [self._constant([number / sum(row) if known else 0.0 for known in row], like) for row in structures]
        return torch.stack(rows)

    def _weights_of(self, heads: int) -> tuple[float, ...]:
        if heads == 1:
            return (1.0,)
        further = max(0, min(heads, _MOST_HEADS) - len(self.weights)) if self.continued else 0
        return self.weights + tuple(self.weights[-1] / 2**i for i in range(1, further + 1))

    def _sums(
        self,
        heads: Sequence[Tensor],
        sizes: list[int],
        label: Tensor,
        annotated: Tensor | None,
        structures: list[list[bool]] | None,
    ) -> Sums:
        mask = None if annotated is None else as_numbers(annotated, label.dtype)
        if self.scheme.regions:
            target = as_numbers(self.scheme.masks(label, channel_axis=1), label.dtype)
            return region_sums(heads, sizes, target, mask)
        if structures is None:
            return class_sums(heads, sizes, label, mask)
        return merged_class_sums(heads, sizes, label, mask, group_samples(structures))

    def _counts(self, sizes: list[int], label: Tensor, annotated: Tensor | None) -> Tensor:
        """Return over how many numbers the cross-entropy of each head is averaged, `(heads,)`."""
        structures = max(1, len(self.scheme.regions))
        if annotated is None:
            return self._constant([n * len(label) * structures for n in sizes], label)
        counts = torch.stack([part.sum() for part in annotated.split(sizes, 2)])
        return (counts.clamp(min=1) * structures).to(label.dtype)

    def _dice_loss(self, sums: Sums, shares: Tensor | None) -> Tensor:
        """Return one minus the mean Dice of every head, `(heads,)`."""
        volumes = torch.stack([sums.overlap, sums.predicted, sums.labelled])  # (3, heads, B, outputs)
        if not self.scheme.regions:
            volumes = volumes[..., 1:]
        if shares is not None:
            counted = (shares > 0).to(volumes.dtype).expand(1, *volumes.shape[1:])
            volumes = torch.cat([volumes * counted, counted])
        if self.batch_dice:
            volumes = volumes.sum(2, keepdim=True)
            if dist.is_available() and dist.is_initialized():
                volumes = sum_over_processes(volumes)
        overlap, predicted, labelled = volumes[:3]
        dice = (2 * overlap + _SMOOTH) / (predicted + labelled + _SMOOTH)
        if shares is None:
            return 1 - dice.mean((1, 2))
        known = (volumes[3] > 0).to(dice.dtype)  # of every sample at least one
        return 1 - ((dice * known).sum(2) / known.sum(2)).mean(1)

    def _constant(self, values: Sequence[float], like: Tensor) -> Tensor:
        """Return a tensor of some numbers. It is copied to the device only once, since each copy waits for the GPU."""
        key = (*values, like.dtype, like.device)
        if key in self._constants:
            return self._constants[key]
        with torch.inference_mode(False):
            constant = torch.tensor(values, dtype=like.dtype, device=like.device)
        if not torch.compiler.is_compiling():
            self._constants[key] = constant
        return constant


def _plain(x: Tensor) -> Tensor:
    return x.as_tensor() if isinstance(x, MetaTensor) else x  # every operation on a MetaTensor costs Python time
