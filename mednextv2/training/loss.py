"""The training loss: cross-entropy plus soft Dice at every head."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from monai.data.meta_tensor import MetaTensor
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mednextv2.data.labels import LabelScheme

MEDNEXT_WEIGHTS = (16 / 31, 8 / 31, 4 / 31, 2 / 31, 1 / 31)
_SMOOTH = 1e-5


class SegmentationLoss(nn.Module):
    """Cross-entropy plus soft Dice, summed over the heads of deep supervision.

    With classes, cross-entropy is the unweighted mean over voxels, and Dice is of the softmax, without background. With
    regions, cross-entropy is binary, the mean over voxels and regions, and Dice is of every region's sigmoid. The Dice
    term is one minus the mean of `(2 I + s) / (P + G + s)`, of the intersection `I`, the volumes `P` of the prediction
    and `G` of the label, and `s = 1e-5`. Voxels of the ignore label are left out of all these sums; where no voxel is
    annotated, cross-entropy is 0. The label of a smaller head is the nearest voxel's (`nearest-exact`).

    All is computed in float32 (in float64 for float64 logits), also under autocast.

    MONAI's `DeepSupervisionLoss` of `DiceCELoss` has the same values for classes, but no ignore label, no regions from
    label maps and no batch Dice over processes, and it takes more time and memory.

    Args:
        scheme: What the label's values mean.
        batch_dice: Whether `I`, `P` and `G` are sums over the batch, and over the processes of `torch.distributed`, all
            of which must then compute the loss equally often; else every sample has a Dice of its own.
        weights: Of the heads, full resolution first. Fewer heads take the first of them as they are; a single head
            counts with weight 1.

    Source:
        Isensee et al. 2021, nnU-Net, Nature Methods, online methods; regions and ignore label: documentation of
        nnU-Net v2. The weights of five heads are those of the MedNeXt authors' v1 code.
    """

    def __init__(
        self, scheme: LabelScheme, batch_dice: bool = False, weights: Sequence[float] = MEDNEXT_WEIGHTS
    ) -> None:
        super().__init__()
        self.scheme, self.batch_dice, self.weights = scheme, batch_dice, tuple(weights)

    def forward(self, outputs: Tensor | Sequence[Tensor], label: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            outputs: Logits of the head or the heads, full resolution first, each `(B, outputs, *spatial)`.
            label: Label maps, `(B, 1, *spatial)`, whole numbers of any type.

        Returns:
            Scalar, float32.

        Raises:
            ValueError: When there are more heads than weights, or the number of channels is not the scheme's.
        """
        heads = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        weights = self.weights if len(heads) > 1 else (1.0,)
        if not 1 <= len(heads) <= len(weights):
            raise ValueError(f"{len(heads)} outputs, but {len(weights)} weights of deep supervision")
        for head in heads:
            if head.shape[1] != self.scheme.outputs:
                raise ValueError(f"outputs have {head.shape[1]} channels, but the labels need {self.scheme.outputs}")
        label = _plain(label).float()
        sums = [self._sums(_plain(head), label) for head in heads]
        dice = self._dice_loss(sums)
        return sum(w * (head.entropy + d) for w, head, d in zip(weights, sums, dice, strict=False))

    def _sums(self, logits: Tensor, label: Tensor) -> "_Sums":
        if label.shape[2:] != logits.shape[2:]:
            label = F.interpolate(label, size=logits.shape[2:], mode="nearest-exact")
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        x = logits.flatten(2).contiguous().to(dtype)  # autocast lowers none of the operations from here on
        label = label.flatten(2).to(dtype)
        annotated = self.scheme.valid(label)
        voxels = label.numel()
        if annotated is not None:
            annotated = _as_numbers(annotated, dtype)
            voxels = annotated.sum().clamp(min=1)
        if self.scheme.regions:
            truth = _as_numbers(self.scheme.masks(label, channel_axis=1), dtype)
            entropy, overlap, predicted = _RegionTerms.apply(x, truth, annotated)
            return _Sums(entropy / (voxels * truth.shape[1]), overlap, predicted, truth.sum(2))
        values = torch.arange(x.shape[1], dtype=dtype, device=x.device)[:, None]
        truth = torch.eq(label, values, out=torch.empty_like(x))
        terms = _ClassTerms.apply(x, truth, annotated)
        return _Sums(terms[0] / voxels, *(term[:, 1:] for term in (*terms[1:], truth.sum(2))))

    def _dice_loss(self, heads: Sequence["_Sums"]) -> Tensor:
        """Return one minus the mean Dice of every head, `(heads,)`."""
        sums = torch.stack([torch.stack(head[1:]) for head in heads])  # (heads, 3, B, structures)
        if self.batch_dice:
            sums = sums.sum(2, keepdim=True)
            if dist.is_available() and dist.is_initialized():
                sums = _SumOverProcesses.apply(sums)
        overlap, predicted, labelled = sums.unbind(1)
        return 1 - ((2 * overlap + _SMOOTH) / (predicted + labelled + _SMOOTH)).mean((1, 2))


class _Sums(NamedTuple):
    """What one head contributes: the mean cross-entropy, and sums over space, each `(B, structures)`."""

    entropy: Tensor
    overlap: Tensor
    predicted: Tensor
    labelled: Tensor


def _plain(x: Tensor) -> Tensor:
    return x.as_tensor() if isinstance(x, MetaTensor) else x  # every operation on a MetaTensor costs Python time


def _as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return mask.view(torch.uint8).to(dtype)  # PyTorch's CPU kernels take several times as long for booleans


class _ClassTerms(Function):
    """Sums over voxels: of cross-entropy, and of each class's probability, inside the class and everywhere.

    Autograd would keep five tensors of the size of the logits for what this backward pass does with two.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, truth: Tensor, annotated: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Take logits and one-hot labels, `(B, C, N)`, and 1 where voxels are annotated, `(B, 1, N)`."""
        p = x.softmax(1)
        product = x * truth
        # The largest logit is the log-sum-exp plus the logarithm of the largest probability, which is never 0.
        entropy = x.amax(1, keepdim=True) - product.sum(1, keepdim=True)
        entropy -= p.amax(1, keepdim=True).log_()
        if annotated is not None:
            entropy *= annotated
            p *= annotated  # and truth is 0 there, so that other voxels are in no sum and have no gradient
        ctx.save_for_backward(p, truth)
        return entropy.sum(), torch.mul(p, truth, out=product).sum(2), p.sum(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_entropy: Tensor, d_overlap: Tensor, d_predicted: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits.

        If `g` is that of the probabilities `p`, it is `p (g - sum(p g))`; cross-entropy's is `p - truth`.
        """
        p, truth = ctx.saved_tensors
        grad = (truth * d_overlap[:, :, None]).add_(d_predicted[:, :, None]).mul_(p)
        grad.addcmul_(p, d_entropy - grad.sum(1, keepdim=True))
        return grad.addcmul_(truth, -d_entropy), None, None


class _RegionTerms(Function):
    """Sums over voxels: of binary cross-entropy, and of each region's probability, inside the region and everywhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, truth: Tensor, annotated: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Take logits and regions (1 inside), `(B, R, N)`, and 1 where voxels are annotated, `(B, 1, N)`."""
        p = x.sigmoid()
        entropy = F.softplus(torch.addcmul(x, x, truth, value=-2))  # softplus(-x) inside, softplus(x) outside
        if annotated is not None:
            entropy *= annotated
            p *= annotated
        ctx.save_for_backward(p, truth)
        return entropy.sum(), (p * truth).sum(2), p.sum(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_entropy: Tensor, d_overlap: Tensor, d_predicted: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits: the probability's times `p (1 - p)`, plus cross-entropy's `p - truth`."""
        p, truth = ctx.saved_tensors
        grad = (truth * d_overlap[:, :, None]).add_(d_predicted[:, :, None])
        grad.mul_(torch.addcmul(p, p, p, value=-1))
        return grad.add_((p - truth).mul_(d_entropy)), None, None


class _SumOverProcesses(Function):
    """The sum of a tensor over all processes; `torch.distributed.nn.functional` deprecates its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Take the tensor of this process."""
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the sum of the gradients that all processes have for the result."""
        return _SumOverProcesses.apply(grad)
