"""Sums over voxels of the terms of the training loss, each with a backward pass of its own.

All heads of deep supervision are computed together, one after the other along one axis of voxels, since on a GPU the
small heads cost as many launches as the large one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class Sums(NamedTuple):
    """Sums over the voxels of each head.

    Attributes:
        entropy: Of the cross-entropy: `(heads,)` for classes, `(heads, B, outputs)` for regions.
        overlap: Of each output's probability inside its structure, `(heads, B, outputs)`.
        predicted: Of each output's probability, `(heads, B, outputs)`.
        labelled: Of each structure, `(heads, B, outputs)`.
    """

    entropy: Tensor
    overlap: Tensor
    predicted: Tensor
    labelled: Tensor


def class_sums(heads: Sequence[Tensor], sizes: list[int], label: Tensor, annotated: Tensor | None) -> Sums:
    """Return the sums for classes, with one output for each label value.

    Args:
        heads: Logits, each `(B, C, *spatial)`.
        sizes: The number of voxels of each head.
        label: The label values at the voxels of all heads, `(B, 1, N)`: see :func:`label_of_heads`.
        annotated: 1 at annotated voxels and 0 at others, `(B, 1, N)`; None if all are.
    """
    classes = heads[0].shape[1]
    values = torch.arange(classes, dtype=label.dtype, device=label.device)[:, None]
    target = torch.eq(label, values, out=label.new_empty(len(label), classes, label.shape[2]))
    entropy, overlap, predicted = _ClassTerms.apply(sizes, target, annotated, *heads)
    return Sums(entropy, overlap, predicted, sums_of_heads(target, sizes))


def region_sums(heads: Sequence[Tensor], sizes: list[int], target: Tensor, annotated: Tensor | None) -> Sums:
    """Return the sums for regions, each of which has an output of its own.

    Args:
        heads: Logits, each `(B, R, *spatial)`.
        sizes: The number of voxels of each head.
        target: 1 inside of a region and 0 outside, `(B, R, N)`.
        annotated: As in :func:`class_sums`.
    """
    entropy, overlap, predicted = _RegionTerms.apply(sizes, target, annotated, *heads)
    return Sums(entropy, overlap, predicted, sums_of_heads(target, sizes))


def as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask as zeros and ones."""
    return mask.view(torch.uint8).to(dtype)  # PyTorch's CPU kernels take several times as long for booleans


def label_of_heads(label: Tensor, heads: Sequence[Tensor]) -> Tensor:
    """Return the labels at the voxels of all heads, one head after the other, `(B, 1, N)`.

    Args:
        label: Label maps, `(B, 1, *spatial)`, floating point.
        heads: The heads, each `(B, outputs, *spatial)`; one of another size gets the label of the nearest voxel.
    """
    sizes = [head.shape[2:] for head in heads]
    parts = [label if n == label.shape[2:] else F.interpolate(label, size=n, mode="nearest-exact") for n in sizes]
    return torch.cat([part.flatten(2) for part in parts], 2) if len(parts) > 1 else parts[0].flatten(2)


def logits_of_heads(heads: Sequence[Tensor], sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return the logits of all heads, one head after the other, `(B, outputs, voxels of all heads)`."""
    x = heads[0].new_empty((*heads[0].shape[:2], sum(sizes)), dtype=dtype)
    for part, head in zip(x.split(sizes, 2), heads, strict=True):
        part.copy_(head.flatten(2))  # type and layout change in one pass
    return x


def sums_of_heads(x: Tensor, sizes: Sequence[int]) -> Tensor:
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
        entropy, p, overlap = _class_terms(logits_of_heads(heads, sizes, target.dtype), target, annotated)
        remember(ctx, sizes, heads, p, target)
        return entropy_of_heads(entropy, sizes), sums_of_heads(overlap, sizes), sums_of_heads(p, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_entropy: Tensor, d_overlap: Tensor, d_predicted: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits."""
        p, target = ctx.saved_tensors
        parts = parts_of_heads(ctx.sizes, (p, target), d_entropy, d_overlap[..., None], d_predicted[..., None])
        return None, None, None, *as_heads(ctx, [_class_gradient(*part) for part in parts])


def _class_terms(x: Tensor, target: Tensor, annotated: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross-entropy of each voxel, the probabilities, and those of the voxel's own class."""
    p = x.softmax(1)
    product = x * target
    # The largest logit is the log-sum-exp plus the logarithm of the largest probability, which is never 0.
    entropy = x.amax(1, keepdim=True) - product.sum(1, keepdim=True)
    entropy -= p.amax(1, keepdim=True).log_()
    if annotated is not None:
        entropy *= annotated
        p *= annotated  # target is 0 at the other voxels, so they are in no sum and have no gradient
    return entropy, p, torch.mul(p, target, out=product)


def _class_gradient(p: Tensor, target: Tensor, de: Tensor, do: Tensor, dp: Tensor) -> Tensor:
    """Return the gradient of the logits of a head.

    If `g` is the gradient of the probabilities `p`, it is `p (g - sum(p g))`; for cross-entropy, it is `p - target`.
    """
    grad = (target * do).add_(dp).mul_(p)
    grad.addcmul_(p, de - grad.sum(1, keepdim=True))
    return grad.addcmul_(target, de, value=-1)


class _RegionTerms(Function):
    """Sums over voxels of the binary cross-entropy, and of each region's probability inside it and everywhere."""

    @staticmethod
    def forward(
        ctx: Any, sizes: list[int], target: Tensor, annotated: Tensor | None, *heads: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take regions (1 inside), `(B, R, N)`; the other arguments are those for classes."""
        x = logits_of_heads(heads, sizes, target.dtype)
        p = x.sigmoid()
        entropy = F.softplus(torch.addcmul(x, x, target, value=-2))  # softplus(-x) inside, softplus(x) outside
        if annotated is not None:
            entropy *= annotated
            p *= annotated
        remember(ctx, sizes, heads, p, target)
        return sums_of_heads(entropy, sizes), sums_of_heads(p * target, sizes), sums_of_heads(p, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_entropy: Tensor, d_overlap: Tensor, d_predicted: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits: that of the probability times `p (1 - p)`, plus `p - target`."""
        grads = []
        sums = (d[..., None] for d in (d_entropy, d_overlap, d_predicted))
        for p, target, de, do, dp in parts_of_heads(ctx.sizes, ctx.saved_tensors, *sums):
            grad = (target * do).add_(dp)
            grad.mul_(torch.addcmul(p, p, p, value=-1))
            grads.append(grad.add_((p - target).mul_(de)))
        return None, None, None, *as_heads(ctx, grads)


def entropy_of_heads(entropy: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sum `(B, 1, N)` over the samples and the voxels of each head: `(heads,)`."""
    return torch.stack([part.sum() for part in entropy.split(sizes, 2)])


def remember(ctx: Any, sizes: list[int], heads: Sequence[Tensor], *tensors: Tensor) -> None:
    """Keep tensors for the backward pass, with the sizes and types of the heads."""
    ctx.save_for_backward(*tensors)
    ctx.sizes, ctx.shapes, ctx.dtypes = sizes, [head.shape for head in heads], [head.dtype for head in heads]


def parts_of_heads(sizes: list[int], voxels: Sequence[Tensor], *sums: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the parts of tensors of voxels and the gradients of the sums, head by head."""
    return zip(*(x.split(sizes, 2) for x in voxels), *sums, strict=True)


def as_heads(ctx: Any, grads: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of the heads, `(B, outputs, voxels)` each, in the shape and type of the heads."""
    return [g.to(t).reshape(shape) for g, t, shape in zip(grads, ctx.dtypes, ctx.shapes, strict=True)]
