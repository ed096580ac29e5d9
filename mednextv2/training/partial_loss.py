"""Sums over voxels of the terms of the training loss, for samples whose data sets annotate only some of the classes.

A class that a sample's data set does not annotate may be anywhere in its background. The background and these classes
are therefore merged: the probability of the merged class is the sum of theirs.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mednextv2.training.loss_terms import (
    Sums,
    as_heads,
    entropy_of_heads,
    logits_of_heads,
    parts_of_heads,
    remember,
    sums_of_heads,
)


class Group(NamedTuple):
    """Neighbouring samples of a batch with the same annotated classes.

    Attributes:
        rows: The samples.
        kept: The annotated classes, without the background, as runs of neighbours.
        merged: The background and the classes that are not annotated, as runs of neighbours.
    """

    rows: slice
    kept: list[slice]
    merged: list[slice]


def group_samples(structures: Sequence[Sequence[bool]]) -> list[Group]:
    """Group neighbouring samples with the same annotated classes.

    Args:
        structures: For each sample, whether each class but the background is annotated.
    """
    groups, start = [], 0
    for flags, samples in groupby(map(tuple, structures)):
        stop = start + len([*samples])
        runs: dict[bool, list[slice]] = {True: [], False: []}
        for known, run in groupby(enumerate((False, *flags)), lambda pair: bool(pair[1])):
            (first, _), *rest = run
            runs[known].append(slice(first, first + 1 + len(rest)))
        groups.append(Group(slice(start, stop), runs[True], runs[False]))
        start = stop
    return groups


def merged_class_sums(
    heads: Sequence[Tensor], sizes: list[int], label: Tensor, annotated: Tensor | None, groups: Sequence[Group]
) -> Sums:
    """Return the sums for classes, of which each sample has its own that its data set annotates.

    All other classes count as one with the background: its probability is the sum of theirs. Their own sums are 0.

    Args:
        heads: Logits, each `(B, C, *spatial)`.
        sizes: The number of voxels of each head.
        label: The label values at the voxels of all heads, `(B, 1, N)`: those of annotated classes, or 0.
        annotated: 1 at annotated voxels and 0 at others, `(B, 1, N)`; None if all are.
        groups: The classes of the samples: see :func:`group_samples`.
    """
    values = torch.arange(heads[0].shape[1], dtype=label.dtype, device=label.device)[:, None]
    return Sums(*_MergedClassTerms.apply(sizes, label, values, annotated, groups, *heads))


class _MergedClassTerms(Function):
    """The sums of `class_sums`, where the classes that a sample's data set does not annotate count as background.

    The logit of that background is the log-sum-exp of theirs. In the gradient, this is the same as a label that is
    divided among them in proportion to their exponentials, so nothing but the label differs from ordinary classes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        sizes: list[int],
        label: Tensor,
        values: Tensor,
        annotated: Tensor | None,
        groups: Sequence[Group],
        *heads: Tensor,
    ) -> tuple[Tensor, ...]:
        """Take labels, `(B, 1, N)`, the values of the classes, a mask of annotated voxels, and the heads' logits."""
        x = logits_of_heads(heads, sizes, label.dtype)
        p = x.softmax(1)
        entropy = x.amax(1, keepdim=True)
        entropy -= p.amax(1, keepdim=True).log_()
        if annotated is not None:
            p *= annotated
        target = torch.empty_like(x)
        sums = x.new_zeros((3, len(sizes), *x.shape[:2]))
        for rows, kept, merged in groups:
            entropy[rows] -= _divide_label(x[rows], label[rows], values, kept, merged, target[rows])
            for run in kept:
                inside, mine = target[rows, run], p[rows, run]
                for place, what in zip(sums, (mine * inside, mine, inside), strict=True):
                    place[:, rows, run] = sums_of_heads(what, sizes)
        if annotated is not None:
            entropy *= annotated
        remember(ctx, sizes, heads, p, target)
        ctx.groups = groups
        ctx.mark_non_differentiable(sums[2])
        return entropy_of_heads(entropy, sizes), *sums

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_entropy: Tensor, d_overlap: Tensor, d_predicted: Tensor, _: Any
    ) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits."""
        p, target = ctx.saved_tensors
        grads = []
        for part in parts_of_heads(ctx.sizes, (p, target), d_entropy, d_overlap[..., None], d_predicted[..., None]):
            grads.append(torch.empty_like(part[0]))
            for group in ctx.groups:
                _merged_class_gradient(group, grads[-1], *part)
        return None, None, None, None, None, *as_heads(ctx, grads)


def _merged_class_gradient(
    group: Group, grad: Tensor, p: Tensor, target: Tensor, de: Tensor, do: Tensor, dp: Tensor
) -> None:
    """Write the gradient of the logits of a head and a group.

    If `g` is the gradient of the probabilities `p`, which merged classes do not have, it is `p (g - sum(p g))`; for
    cross-entropy, it is `p - target`.
    """
    rows, kept, merged = group
    rest = de
    for run in kept:
        mine = torch.mul(target[rows, run], do[rows, run], out=grad[rows, run])
        rest = rest - mine.add_(dp[rows, run]).mul_(p[rows, run]).sum(1, keepdim=True)
    for run in kept:
        grad[rows, run].addcmul_(p[rows, run], rest)
    for run in merged:
        torch.mul(p[rows, run], rest, out=grad[rows, run])
    grad[rows].addcmul_(target[rows], de, value=-1)


def _divide_label(
    x: Tensor, label: Tensor, values: Tensor, kept: Sequence[slice], merged: Sequence[slice], target: Tensor
) -> Tensor:
    """Write the label of each class, and return the logits of the voxels' own classes, `(b, 1, N)`.

    Args:
        x: Logits, `(b, C, N)`.
        label: The label values, `(b, 1, N)`.
        values: The values of the classes, `(C, 1)`.
        kept: The classes that keep their own label.
        merged: The background, 0, and the others.
        target: `(b, C, N)`, which is filled: 1 at voxels of a kept class; and at voxels of the background, for each of
            the merged classes its part in the background's probability.
    """
    for run in kept:
        torch.eq(label, values[run], out=target[:, run])
    own = reduce(torch.add, ((x[:, run] * target[:, run]).sum(1, keepdim=True) for run in kept))
    if [*merged] == [slice(0, 1)]:
        torch.eq(label, values[:1], out=target[:, :1])
        return own.addcmul_(x[:, :1], target[:, :1])
    background = torch.eq(label, values[0], out=torch.empty_like(label))
    logits = x[:, merged[0]] if len(merged) == 1 else torch.cat([x[:, run] for run in merged], 1)
    part = logits.softmax(1)
    total = logits.amax(1, keepdim=True).sub_(part.amax(1, keepdim=True).log_())  # their log-sum-exp
    own.addcmul_(background, total)
    for run, mine in zip(merged, part.split([run.stop - run.start for run in merged], 1), strict=True):
        torch.mul(mine, background, out=target[:, run])
    return own
