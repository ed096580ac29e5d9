"""From a data set to a plan: its fingerprint, and the decisions that follow from it, with reasons."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mednextv2.bundle.plan_table import facts_about, show, table
from mednextv2.bundle.task import NAMES_RULE, is_rewritten
from mednextv2.data.cases import DatasetFolder
from mednextv2.data.check import check_dataset, find_dimensions
from mednextv2.data.check_warnings import dataset_warnings, found_labels
from mednextv2.data.dataset import read_dataset
from mednextv2.data.fingerprint import Fingerprint, case_facts, combine
from mednextv2.data.planning_rules import (
    LARGEST_PATCH,
    Decision,
    batch_dice,
    median_shape,
    normalization,
    patch_and_batch,
    resampled_shapes,
    target_spacing,
)
from mednextv2.data.splits import split_dataset
from mednextv2.errors import InputError
from mednextv2.label_scheme import LabelScheme, opposite_pairs
from mednextv2.machine import usable_cpus
from mednextv2.nets.legal_sizes import DIVISOR, is_legal
from mednextv2.nets.training_memory import training_memory
from mednextv2.nets.variants import VARIANTS
from mednextv2.wording import count

_DIRECTIONS = ("left and right", "anterior and posterior", "superior and inferior")
_GIB = 2**30
_MOST_VOXELS = 1e9  # largest number of voxels of an image; more than a scanner produces


@dataclass(frozen=True)
class Plan:
    """The decisions for a data set.

    Attributes:
        dataset: The data set.
        scheme: The meaning of its label values.
        fingerprint: Its fingerprint.
        decisions: Values and reasons, by the names of the task's facts.
        rows: Further lines of the table: name, value, reason.
        warnings: What a user should know before training.
    """

    dataset: DatasetFolder
    scheme: LabelScheme
    fingerprint: Fingerprint
    decisions: dict[str, Decision]
    rows: list[tuple[str, str, str]]
    warnings: list[str]

    def table(self) -> str:
        """Return the decisions and their reasons for people."""
        rows = self.rows + [(k, show(d.value, k), d.reason) for k, d in self.decisions.items()]
        return "\n".join([table(rows), *(f"warning: {w}" for w in self.warnings)])


def plan_dataset(
    dataset_dir: str | os.PathLike,
    labels_dir: str | os.PathLike | None = None,
    spacing: Sequence[float] | float | None = None,
    patch_size: Sequence[int] | None = None,
    batch_size: int | None = None,
    variant: str = "v2_base",
    memory: float = 24.0,
    workers: int | None = None,
) -> Plan:
    """Check a data set, take its fingerprint and decide how to train on it.

    Args:
        dataset_dir: The folder of the data set: see :func:`mednextv2.data.read_dataset`.
        labels_dir: The folder of the label maps: see :func:`mednextv2.data.read_dataset`.
        spacing: The spacing to which images are resampled, in mm along right, anterior, superior, instead of the
            rule's; one number for all axes, or, for 2D images, along the two axes of the plane.
        patch_size: The patch size in voxels along the same axes, instead of the rule's.
        batch_size: Number of patches in a step, instead of the rule's.
        variant: The variant of the network.
        memory: The memory that a training step may use, in GiB.
        workers: Number of threads that read files, each holding a whole case; by default one per processor, at most 8.

    Returns:
        The plan.

    Raises:
        InputError: If a setting is impossible or the data have defects, all of which are named.
    """
    dataset = read_dataset(dataset_dir, labels_dir)
    spatial_dims = find_dimensions(dataset)
    if isinstance(spacing, (int, float)):
        spacing = [spacing] * spatial_dims
    _check_overrides(spacing, patch_size, batch_size, variant, memory, spatial_dims)
    scheme = dataset.scheme()
    channels = list(dataset.channels) or ["image"]
    _check_names(dataset, [*channels, *(scheme.labels + scheme.foreground if scheme else [])])
    reports = check_dataset(
        dataset.cases, scheme.declared if scheme else None, channels, spatial_dims, workers or min(8, usable_cpus()),
        case_facts,
    )  # fmt: skip
    scheme = scheme or LabelScheme(found_labels(dataset, reports))
    fingerprint = combine([report.extra for report in reports])
    decisions = _decide(fingerprint, scheme, channels, spacing, patch_size, batch_size, variant, memory)
    rows = facts_about(dataset, fingerprint)
    if len(dataset.cases) > 1:
        rows.append(("split", "", split_dataset(dataset).source))
    return Plan(
        dataset, scheme, fingerprint, decisions, rows,
        dataset_warnings(dataset, reports, scheme.labels) + _warnings(decisions, memory),
    )  # fmt: skip


def _check_overrides(
    spacing: Any, patch_size: Any, batch_size: Any, variant: str, memory: Any, spatial_dims: int
) -> None:
    problems = []
    number = {2: "two", 3: "three"}[spatial_dims]
    if spacing is not None and not _is_list(spacing, spatial_dims, lambda s: _is_number(s) and s > 0):
        such = ",".join(["1.0"] * spatial_dims)
        problems.append(f'--spacing {spacing}: should be millimetres along {number} axes, such as "[{such}]"')
    if patch_size is not None and not _is_list(patch_size, spatial_dims, lambda n: _is_count(n) and is_legal(n)):
        such = ",".join(["96"] * spatial_dims)
        problems.append(f'--patch_size {patch_size}: should be {number} multiples of {DIVISOR}, such as "[{such}]"')
    if batch_size is not None and not _is_count(batch_size):
        problems.append(f"--batch_size {batch_size}: should be a whole number from 1")
    if variant not in list(VARIANTS):
        problems.append(f"--variant {variant}: is none of {', '.join(VARIANTS)}")
    if not _is_number(memory) or memory <= 0:
        problems.append(f"--memory {memory}: should be GiB, such as 24")
    if problems:
        raise InputError("\n".join(problems))


def _check_names(dataset: DatasetFolder, names: Sequence[str]) -> None:
    folder = dataset.path.resolve().name
    problems = [f"{dataset.path}: the folder should have another name: {NAMES_RULE}"] * is_rewritten(folder)
    if wrong := sorted({name for name in names if is_rewritten(name)}):
        problems.append(f"{dataset.path / 'dataset.json'}: rename {', '.join(wrong)}: {NAMES_RULE}")
    if problems:
        raise InputError("\n".join(problems))


def _is_list(values: Any, length: int, fits: Callable[[Any], bool]) -> bool:
    return isinstance(values, (list, tuple)) and len(values) == length and all(map(fits, values))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _decide(
    fingerprint: Fingerprint,
    scheme: LabelScheme,
    channels: Sequence[str],
    spacing: Sequence[float] | None,
    patch_size: Sequence[int] | None,
    batch_size: int | None,
    variant: str,
    memory: float,
) -> dict[str, Decision]:
    target = target_spacing(fingerprint.spacings, fingerprint.shapes)
    if spacing is not None:
        target = Decision(tuple(map(float, spacing)), "given with --spacing")
    shapes = resampled_shapes(fingerprint.spacings, fingerprint.shapes, target.value)
    median = median_shape(shapes)

    def memory_of(patch: Sequence[int], batch: int) -> float:
        return training_memory(variant, patch, batch, len(channels), scheme.outputs)

    voxels = math.prod(median) * fingerprint.cases
    if patch_size is None:
        patch, batch = patch_and_batch(median, target.value, voxels, memory_of, memory * _GIB)
    else:
        patch = Decision(tuple(patch_size), "given with --patch_size")
        batch = Decision(2, "the smallest batch, since the patch was given")
    if batch_size is not None:
        batch = Decision(batch_size, "given with --batch_size")
    schemes = normalization(channels, fingerprint)
    needed = memory_of(patch.value, batch.value)
    return {
        "spacing": target,
        "median shape": Decision(median, "of the cases at that spacing, voxels"),
        "normalization": Decision([d.value for d in schemes], "; ".join(d.reason for d in schemes)),
        "variant": Decision(variant, f"{VARIANTS[variant].init_filters} filters; on a CPU take v2_tiny or v2_small"),
        "patch_size": patch,
        "batch_size": batch,
        "memory": Decision(f"{needed / _GIB:.1f} GiB", "estimate for a training step in half precision"),
        "batch_dice": batch_dice(patch.value, median, target.value),
        "mirror_axes": _mirror_axes([*scheme.labels, *scheme.foreground], len(median)),
    }


def _mirror_axes(names: Sequence[str], axes: int) -> Decision:
    """Mirror all axes but those along which two labels are each other's mirror image, by their names.

    In a plane, only left and right are looked for, since its other axis has no known direction.
    """
    swapped = {axis: pairs[0] for axis in range(axes if axes == 3 else 1) if (pairs := opposite_pairs(names, axis))}
    if not swapped:
        return Decision([*range(axes)], "all axes")
    reasons = [f"not {_DIRECTIONS[axis]}, which would swap {' and '.join(pair)}" for axis, pair in swapped.items()]
    return Decision([axis for axis in range(axes) if axis not in swapped], "; ".join(reasons))


def _warnings(decisions: dict[str, Decision], memory: float) -> list[str]:
    """Say what the given values lead to; the values of the rules need no warning."""
    warnings = []
    patch, median, needed = (decisions[name].value for name in ("patch_size", "median shape", "memory"))
    if float(needed.split()[0]) > memory:
        warnings.append(f"a training step takes about {needed}, more than --memory {memory:g}")
    if math.prod(patch) > LARGEST_PATCH:
        warnings.append(
            f"the patch has more than {LARGEST_PATCH:,} voxels, the largest that MedNeXt-v2 was trained with"
        )
    if large := [n for n, size in zip(patch, median, strict=True) if n >= size + 2 * DIVISOR]:
        warnings.append(
            f"the patch is larger than the median image, {show(median)}, along {count(len(large), 'axis', 'axes')}"
        )
    if math.prod(median) > _MOST_VOXELS:
        warnings.append(
            f"the median image becomes {show(median)} voxels at that spacing, {math.prod(median):.2g} in all"
        )
    return warnings
