"""The training loss: cross-entropy plus soft Dice at every head."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from monai.data.meta_tensor import MetaTensor
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mednextv2.distributed import sum_over_processes
from mednextv2.errors import InputError
from mednextv2.label_scheme import LabelScheme
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
        nnU-Net v2. The weights of five heads are those of the MedNeXt authors' v1 code.
    """

    def __init__(self, scheme: LabelScheme, batch_dice: bool = False, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.scheme, self.batch_dice = scheme, batch_dice
        self.weights = tuple(MEDNEXT_WEIGHTS if weights is None else _checked(weights))
        self.continued = weights is None
        self._constants: dict[tuple, Tensor] = {}

    def forward(self, outputs: Tensor | Sequence[Tensor], label: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            outputs: Logits of the head or the heads, full resolution first, each `(B, outputs, *spatial)`.
            label: Label maps, `(B, 1, *spatial)`, whole numbers of any type.

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
        dtype = torch.float64 if heads[0].dtype == torch.float64 else torch.float32
        label = _label_of_heads(_plain(label).float(), heads).to(dtype)  # autocast does not lower its precision
        sizes = [head.shape[2:].numel() for head in heads]
        annotated = self.scheme.valid(label)
        sums = self._sums(heads, sizes, label, annotated)
        losses = sums.entropy / self._counts(sizes, label, annotated) + self._dice_loss(sums)
        return (losses * self._constant(weights[: len(heads)], losses)).sum()

    def _weights_of(self, heads: int) -> tuple[float, ...]:
        if heads == 1:
            return (1.0,)
        further = max(0, min(heads, _MOST_HEADS) - len(self.weights)) if self.continued else 0
        return self.weights + tuple(self.weights[-1] / 2**i for i in range(1, further + 1))

    def _sums(self, heads: Sequence[Tensor], sizes: list[int], label: Tensor, annotated: Tensor | None) -> "_Sums":
        if annotated is not None:
            annotated = _as_numbers(annotated, label.dtype)
        if self.scheme.regions:
            target = _as_numbers(self.scheme.masks(label, channel_axis=1), label.dtype)
            terms = _RegionTerms.apply(sizes, target, annotated, *heads)
        else:
            values = torch.arange(self.scheme.outputs, dtype=label.dtype, device=label.device)[:, None]
            target = label.new_empty(len(label), self.scheme.outputs, label.shape[2])
            terms = _ClassTerms.apply(sizes, torch.eq(label, values, out=target), annotated, *heads)
        entropy, overlap, predicted = terms
        return _Sums(entropy, overlap, predicted, _sums_of_heads(target, sizes))

    def _counts(self, sizes: list[int], label: Tensor, annotated: Tensor | None) -> Tensor:
        """Return over how many numbers the cross-entropy of each head is averaged, `(heads,)`."""
        structures = max(1, len(self.scheme.regions))
        if annotated is None:
            return self._constant([n * len(label) * structures for n in sizes], label)
        counts = torch.stack([part.sum() for part in annotated.split(sizes, 2)])
        return (counts.clamp(min=1) * structures).to(label.dtype)

    def _dice_loss(self, sums: "_Sums") -> Tensor:
        """Return one minus the mean Dice of every head, `(heads,)`."""
        volumes = torch.stack([sums.overlap, sums.predicted, sums.labelled])  # (3, heads, B, outputs)
        if not self.scheme.regions:
            volumes = volumes[..., 1:]
        if self.batch_dice:
            volumes = volumes.sum(2, keepdim=True)
            if dist.is_available() and dist.is_initialized():
                volumes = sum_over_processes(volumes)
        overlap, predicted, labelled = volumes.unbind()
        return 1 - ((2 * overlap + _SMOOTH) / (predicted + labelled + _SMOOTH)).mean((1, 2))

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


class _Sums(NamedTuple):
    """Sums over the voxels of each head: cross-entropy `(heads,)`, the others `(heads, B, outputs)`."""

    entropy: Tensor
    overlap: Tensor
    predicted: Tensor
    labelled: Tensor


def _plain(x: Tensor) -> Tensor:
    return x.as_tensor() if isinstance(x, MetaTensor) else x  # every operation on a MetaTensor costs Python time


def _as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return mask.view(torch.uint8).to(dtype)  # PyTorch's CPU kernels take several times as long for booleans


def _label_of_heads(label: Tensor, heads: Sequence[Tensor]) -> Tensor:
    """Return the labels at the voxels of all heads, one head after the other, `(B, 1, voxels of all heads)`.

    Most operations then take all heads at once: on a GPU, the small heads cost as many launches as the large one.
    """
    sizes = [head.shape[2:] for head in heads]
    parts = [label if n == label.shape[2:] else F.interpolate(label, size=n, mode="nearest-exact") for n in sizes]
    return torch.cat([part.flatten(2) for part in parts], 2) if len(parts) > 1 else parts[0].flatten(2)


def _logits_of_heads(heads: Sequence[Tensor], sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return the logits of all heads, one head after the other, `(B, outputs, voxels of all heads)`."""
    x = heads[0].new_empty((*heads[0].shape[:2], sum(sizes)), dtype=dtype)
    for part, head in zip(x.split(sizes, 2), heads, strict=True):
        part.copy_(head.flatten(2))  # type and layout change in one pass
    return x


def _sums_of_heads(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sum `(B, outputs, voxels of all heads)` over the voxels of each head: `(heads, B, outputs)`."""
    return torch.stack([part.sum(2) for part in x.split(sizes, 2)])


class _ClassTerms(Function):
    """Sums over voxels of the cross-entropy, and of each class's probability inside the class and everywhere.

    Autograd would keep five tensors of the size of the logits, and this backward pass needs only two.
    """

    @staticmethod
    def forward(
        ctx: Any, sizes: list[int], target: Tensor, annotated: Tensor | None, *heads: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take one-hot labels, `(B, C, N)`, a mask of annotated voxels, `(B, 1, N)`, and the heads' logits.

        N is the number of voxels of all heads, and `sizes` has that of each head.
        """
        x = _logits_of_heads(heads, sizes, target.dtype)
        p = x.softmax(1)
        product = x * target
        # The largest logit is the log-sum-exp plus the logarithm of the largest probability, which is never 0.
        entropy = x.amax(1, keepdim=True) - product.sum(1, keepdim=True)
        entropy -= p.amax(1, keepdim=True).log_()
        if annotated is not None:
            entropy *= annotated
            p *= annotated  # target is 0 at the other voxels, so they are in no sum and have no gradient
        _remember(ctx, sizes, p, target, heads)
        overlap = torch.mul(p, target, out=product)
        return _entropy_of_heads(entropy, sizes), _sums_of_heads(overlap, sizes), _sums_of_heads(p, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_entropy: Tensor, d_overlap: Tensor, d_predicted: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits.

        If `g` is the gradient of the probabilities `p`, it is `p (g - sum(p g))`; for cross-entropy, it is
        `p - target`.
        """
        grads = []
        for p, target, de, do, dp in _parts(ctx, d_entropy, d_overlap, d_predicted):
            grad = (target * do).add_(dp).mul_(p)
            grad.addcmul_(p, de - grad.sum(1, keepdim=True))
            grads.append(grad.addcmul_(target, de, value=-1))
        return None, None, None, *_as_heads(ctx, grads)


class _RegionTerms(Function):
    """Sums over voxels of the binary cross-entropy, and of each region's probability inside it and everywhere."""

    @staticmethod
    def forward(
        ctx: Any, sizes: list[int], target: Tensor, annotated: Tensor | None, *heads: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take regions (1 inside), `(B, R, N)`; the other arguments are those for classes."""
        x = _logits_of_heads(heads, sizes, target.dtype)
        p = x.sigmoid()
        entropy = F.softplus(torch.addcmul(x, x, target, value=-2))  # softplus(-x) inside, softplus(x) outside
        if annotated is not None:
            entropy *= annotated
            p *= annotated
        _remember(ctx, sizes, p, target, heads)
        overlap = p * target
        return _entropy_of_heads(entropy, sizes), _sums_of_heads(overlap, sizes), _sums_of_heads(p, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_entropy: Tensor, d_overlap: Tensor, d_predicted: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits: that of the probability times `p (1 - p)`, plus `p - target`."""
        grads = []
        for p, target, de, do, dp in _parts(ctx, d_entropy, d_overlap, d_predicted):
            grad = (target * do).add_(dp)
            grad.mul_(torch.addcmul(p, p, p, value=-1))
            grads.append(grad.add_((p - target).mul_(de)))
        return None, None, None, *_as_heads(ctx, grads)


def _entropy_of_heads(entropy: Tensor, sizes: Sequence[int]) -> Tensor:
    return torch.stack([part.sum() for part in entropy.split(sizes, 2)])


def _remember(ctx: Any, sizes: list[int], p: Tensor, target: Tensor, heads: Sequence[Tensor]) -> None:
    ctx.save_for_backward(p, target)
    ctx.sizes, ctx.shapes, ctx.dtypes = sizes, [head.shape for head in heads], [head.dtype for head in heads]


def _parts(ctx: Any, d_entropy: Tensor, d_overlap: Tensor, d_predicted: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the probabilities, the labels and the gradients of the sums, head by head."""
    p, target = ctx.saved_tensors
    voxels = p.split(ctx.sizes, 2), target.split(ctx.sizes, 2)
    return zip(*voxels, d_entropy, d_overlap[..., None], d_predicted[..., None], strict=True)


def _as_heads(ctx: Any, grads: Sequence[Tensor]) -> list[Tensor]:
    return [g.to(t).reshape(shape) for g, t, shape in zip(grads, ctx.dtypes, ctx.shapes, strict=True)]
