"""From a data set to a task: its fingerprint, the decisions, and the `task.yaml` that a bundle is built from."""

import json
import math
import os
import re
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mednextv2.bundle.task import NAMES_RULE, is_rewritten, read_task
from mednextv2.data.check import check_dataset
from mednextv2.data.dataset import DatasetFolder, read_dataset
from mednextv2.data.findings import dataset_warnings, found_labels
from mednextv2.data.fingerprint import Fingerprint, case_facts, combine
from mednextv2.data.labels import LabelScheme, left_right_pairs
from mednextv2.data.planning import (
    LARGEST_PATCH,
    Decision,
    batch_dice,
    median_shape,
    normalization,
    patch_and_batch,
    resampled_shapes,
    target_spacing,
)
from mednextv2.errors import InputError
from mednextv2.nets.mednext import DIVISOR
from mednextv2.nets.memory import training_memory
from mednextv2.nets.variants import VARIANTS
from mednextv2.paths import prepare_folder, writing

_GIB = 2**30
_MOST_VOXELS = 1e9  # of an image; more than a scanner makes
_REFERENCE = (
    "Roy S. et al. MedNeXt-v2, scaling 3D ConvNeXts for large-scale supervised representation learning for medical "
    "image segmentation. arXiv:2512.17774"
)


@dataclass(frozen=True)
class Plan:
    """What was decided for a data set.

    Attributes:
        dataset: The data set.
        scheme: What its label values mean.
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
        rows = self.rows + [(k, _show(d.value, k), d.reason) for k, d in self.decisions.items()]
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        widths[1] = min(widths[1], 44)
        lines = []
        for name, value, reason in rows:
            values = textwrap.wrap(value, widths[1]) or [""]
            # a path stays whole
            reasons = textwrap.wrap(reason, 60, break_long_words=False, break_on_hyphens=False) or [""]
            for i in range(max(len(values), len(reasons))):
                cells = [
                    name if i == 0 else "",
                    *(column[i] if i < len(column) else "" for column in (values, reasons)),
                ]
                lines.append(f"{cells[0]:<{widths[0]}}  {cells[1]:<{widths[1]}}  {cells[2]}".rstrip())
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings)])


def plan_dataset(
    dataset_dir: str | os.PathLike,
    labels_dir: str | os.PathLike | None = None,
    spacing: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
    batch_size: int | None = None,
    variant: str = "v2_base",
    memory: float = 24.0,
    workers: int | None = None,
) -> Plan:
    """Check a data set, take its fingerprint and decide how to train on it.

    Args:
        dataset_dir: See :func:`mednextv2.data.read_dataset`.
        labels_dir: Likewise.
        spacing: Of the voxels that images are resampled to, mm along right, anterior, superior, instead of the rule's.
        patch_size: Voxels of a patch along the same axes, instead of the rule's.
        batch_size: Patches a step, instead of the rule's.
        variant: Size of the network.
        memory: That a training step may take, GiB.
        workers: Threads that read files; the machine's cores by default.

    Returns:
        The plan.

    Raises:
        InputError: For settings that cannot be, and for every defect of the data.
    """
    _check_overrides(spacing, patch_size, batch_size, variant, memory)
    dataset = read_dataset(dataset_dir, labels_dir)
    scheme = dataset.scheme()
    channels = list(dataset.channels) or ["image"]
    _check_names(dataset, [*channels, *(scheme.labels + scheme.foreground if scheme else [])])
    reports = check_dataset(
        dataset.cases, scheme and scheme.declared, channels, 3, workers or os.cpu_count() or 1, case_facts
    )
    scheme = scheme or LabelScheme(found_labels(dataset, reports))
    fingerprint = combine([report.extra for report in reports])
    decisions = _decide(fingerprint, scheme, channels, spacing, patch_size, batch_size, variant, memory)
    return Plan(
        dataset, scheme, fingerprint, decisions, _facts(dataset, fingerprint),
        dataset_warnings(dataset, reports, scheme.labels) + _warnings(decisions, memory),
    )  # fmt: skip


def _check_overrides(spacing: Any, patch_size: Any, batch_size: Any, variant: str, memory: Any) -> None:
    problems = []
    if spacing is not None and not _is_triple(spacing, lambda s: _is_number(s) and s > 0):
        problems.append(f'--spacing {spacing}: should be millimetres along three axes, such as "[1.0,1.0,1.0]"')
    if patch_size is not None and not _is_triple(patch_size, lambda n: _is_count(n) and n % DIVISOR == 0):
        problems.append(f'--patch_size {patch_size}: should be three multiples of {DIVISOR}, such as "[96,96,96]"')
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


def _is_triple(values: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(values, (list, tuple)) and len(values) == 3 and all(map(fits, values))


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
        target = Decision(tuple(float(s) for s in spacing), "given with --spacing")
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
    sides = left_right_pairs([*scheme.labels, *scheme.foreground])
    mirror = Decision([0, 1, 2], "all axes")
    if sides:
        mirror = Decision([1, 2], f"not left and right, which would swap {' and '.join(sides[0])}")
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
        "mirror_axes": mirror,
    }


def _facts(dataset: DatasetFolder, fingerprint: Fingerprint) -> list[tuple[str, str, str]]:
    import numpy as np

    rows = [
        ("cases", str(fingerprint.cases), str(dataset.path)),
        (
            "median spacing",
            _show(np.median(fingerprint.spacings, axis=0).tolist()),
            "of the files, mm: right, anterior, superior",
        ),
        (
            "median size",
            _show(np.median(fingerprint.shapes, axis=0).tolist()),
            "of the files, without a border of zeros, voxels",
        ),
    ]
    for name, channel in zip(dataset.channels or ["image"], fingerprint.channels, strict=True):
        rows.append(
            (
                f"intensities {name}",
                f"{channel.percentile_0_5:.5g} to {channel.percentile_99_5:.5g}",
                f"percentiles 0.5 and 99.5 of the foreground; mean {channel.mean:.6g}, deviation {channel.std:.6g}",
            )
        )
    return rows


def _warnings(decisions: dict[str, Decision], memory: float) -> list[str]:
    """Say what given values lead to; the rules' own never need it."""
    warnings = []
    patch, median, needed = (decisions[name].value for name in ("patch_size", "median shape", "memory"))
    if float(needed.split()[0]) > memory:
        warnings.append(f"a training step takes about {needed}, more than --memory {memory:g}")
    if math.prod(patch) > LARGEST_PATCH:
        warnings.append(
            f"the patch has more than {LARGEST_PATCH:,} voxels, the largest that MedNeXt-v2 was trained with"
        )
    if large := [n for n, size in zip(patch, median, strict=True) if n >= size + 2 * DIVISOR]:
        warnings.append(f"the patch is larger than the median image, {_show(median)}, along {len(large)} axes")
    if math.prod(median) > _MOST_VOXELS:
        warnings.append(
            f"the median image becomes {_show(median)} voxels at that spacing, {math.prod(median):.2g} in all"
        )
    return warnings


def _show(value: Any, name: str = "") -> str:
    if name == "mirror_axes":
        return str(value)
    if isinstance(value, (list, tuple)) and value and all(_is_number(v) for v in value):
        return " × ".join(f"{v:.6g}" for v in value)
    if isinstance(value, (list, tuple)):
        return "; ".join(_show(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(str(v) if k == "scheme" else f"{k} {_show(v)}" for k, v in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def default_folder(dataset: DatasetFolder) -> Path:
    """Return where a plan goes by default: `bundles/mednextv2_<name>`, after the data set's name or folder."""
    name = dataset.about.get("name") or re.sub(r"^(Task|Dataset)\d+_", "", dataset.path.resolve().name)
    name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "task"
    return Path("bundles") / f"mednextv2_{name}".replace("_v", "-v")  # MONAI cuts names at _v


def write_task(plan: Plan, folder: str | os.PathLike) -> Path:
    """Write a plan as the `task.yaml` and `fingerprint.json` of a new bundle.

    Args:
        plan: The plan.
        folder: Of the bundle; its name becomes the bundle's.

    Returns:
        The `task.yaml`.

    Raises:
        InputError: When there is a task already, or the folder cannot be written.
    """
    folder = check_folder(folder)
    text = _task_text(plan, folder.resolve().name)
    with tempfile.TemporaryDirectory() as scratch:  # what cannot be built is found before anything is written
        draft = Path(scratch) / "task" / "task.yaml"
        draft.parent.mkdir()
        draft.write_text(text, encoding="utf-8")
        read_task(draft)
    prepare_folder(folder, "output")
    with writing(folder / "fingerprint.json") as temporary:
        temporary.write_text(json.dumps(plan.fingerprint.to_dict(), indent=1) + "\n", encoding="utf-8")
    with writing(folder / "task.yaml") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / "task.yaml"


def check_folder(folder: str | os.PathLike) -> Path:
    """Return the folder of a new bundle.

    Raises:
        InputError: When it holds a task already, cannot be written, or has a name that MONAI would cut.
    """
    folder = Path(folder).expanduser()
    if (folder / "task.yaml").exists():
        raise InputError(f"{folder / 'task.yaml'}: exists already; give another --output, or move that folder away")
    if "_v" in folder.resolve().name:
        raise InputError(f'--output {folder}: the name holds "_v", where MONAI cuts names; call it mednextv2_<organ>')
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        reason = "cannot be written" if above.is_dir() else "is a file"
        raise InputError(f"--output {folder}: {above} {reason}; choose another folder with --output")
    return folder


def _task_text(plan: Plan, name: str) -> str:
    facts, scheme = plan.decisions, plan.scheme
    regions = [{"name": r.name, "values": list(r.values), "paint": r.paint} for r in scheme.regions]
    lines = [
        (f"# Planned for {plan.dataset.path.resolve().name}, {plan.fingerprint.cases} cases.", None, ""),
        ("dataset_name", plan.dataset.path.resolve().name, "folder name inside MEDNEXTV2_DATA; or give --dataset_dir"),
        ("channels", list(plan.dataset.channels) or ["image"], ""),
        ("labels", scheme.labels, "list index = voxel value"),
        ("regions", regions, "structures of several labels, each an output of its own"),
        ("ignore_label", scheme.ignore_label, "value of voxels that were not annotated"),
        (
            "spacing",
            [round(s, 6) for s in facts["spacing"].value],
            f"mm, along right, anterior, superior: {facts['spacing'].reason}",
        ),
        (
            "patch_size",
            list(facts["patch_size"].value),
            f"voxels, each a multiple of {DIVISOR}: {facts['patch_size'].reason}",
        ),
        ("batch_size", facts["batch_size"].value, f"patches a step: {facts['batch_size'].reason}"),
        (
            "variant",
            facts["variant"].value,
            f"size of the network; a training step takes about {facts['memory'].value}",
        ),
        ("mirror_axes", facts["mirror_axes"].value, facts["mirror_axes"].reason),
        ("batch_dice", facts["batch_dice"].value, f"Dice loss of the whole batch: {facts['batch_dice'].reason}"),
        ("normalization", facts["normalization"].value, facts["normalization"].reason),
    ]
    first = []
    for key, value, comment in lines:
        if key.startswith("#"):
            first.append(key)
            continue
        # comments stand above, since they may be long; MONAI's parser never sees them
        first += [f"# {line}" for line in textwrap.wrap(comment, 116)] if comment else []
        first.append(_yaml({key: value}))
    return "\n".join(first) + "\n\n--- # what people and the Model Zoo need to know\n" + _public_text(plan, name)


def _yaml(content: dict[str, Any]) -> str:
    """Write facts one a line, lists and mappings in brackets; a list of mappings has one a line."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{key}:", *(f"- {_flow(entry)}" for entry in value)]
        elif isinstance(value, str) and len(value) > 90:
            lines += [f"{key}: >-", *(f"  {line}" for line in textwrap.wrap(" ".join(value.split()), 116))]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines)


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()


def _public_text(plan: Plan, name: str) -> str:
    about = {key: text.strip() for key, text in plan.dataset.about.items()}
    title = about.get("name") or name
    structures = ", ".join(plan.scheme.foreground)
    modality = ", ".join(plan.dataset.channels) or "not stated"
    facts = _yaml(
        {
            "title": f"{title} with MedNeXt-v2",
            "version": "0.1.0",
            "changelog": {"0.1.0": "first version"},
            "task": f"Segmentation of {structures}",
            "description": about.get("description") or f"MedNeXt-v2 for {structures}",
            "authors": "not stated",
            "copyright": "Copyright (c) the authors",
            "modality": modality,
            "intended_use": "Research. Not a medical device.",
            "data_source": about.get("reference") or "not stated",
            "data_license": about.get("licence") or "not stated",
            "data_description": f"{plan.fingerprint.cases} labelled cases.",
        }
    )
    return f"{facts}\nreferences:\n- {_REFERENCE}\n"
