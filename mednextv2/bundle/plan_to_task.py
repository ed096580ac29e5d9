"""From a plan to the `task.yaml` that a bundle is built from."""

import itertools
import json
import os
import re
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mednextv2.bundle.plan import Plan
from mednextv2.bundle.task import read_task
from mednextv2.data.cases import DatasetFolder
from mednextv2.errors import InputError
from mednextv2.nets.legal_sizes import DIVISOR
from mednextv2.paths import expand, new_folder, writing
from mednextv2.wording import count

_REFERENCE = (
    "Roy S. et al. MedNeXt-v2, scaling 3D ConvNeXts for large-scale supervised representation learning for medical "
    "image segmentation. arXiv:2512.17774"
)


def default_folder(dataset: DatasetFolder) -> Path:
    """Return the default folder of a plan: `bundles/mednextv2_<name>`, named after the data set or its folder."""
    name = dataset.about.get("name") or re.sub(r"^(Task|Dataset)\d+_", "", dataset.path.resolve().name)
    name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "task"
    return Path("bundles") / f"mednextv2_{name}".replace("_v", "-v")  # MONAI cuts names at _v


def write_task(plan: Plan, folder: str | os.PathLike) -> Path:
    """Write a plan as the `task.yaml` and `fingerprint.json` of a new bundle.

    Args:
        plan: The plan.
        folder: The folder of the bundle; its name becomes the bundle's name.

    Returns:
        The path of the `task.yaml`.

    Raises:
        InputError: If there already is a task, or the folder cannot be written.
    """
    folder = check_folder(folder)
    text = _task_text(plan, folder.resolve().name)
    with tempfile.TemporaryDirectory() as scratch:  # a task that cannot be built is found before anything is written
        draft = Path(scratch) / "task" / "task.yaml"
        draft.parent.mkdir()
        draft.write_text(text, encoding="utf-8")
        read_task(draft)
    facts = json.dumps(plan.fingerprint.to_dict(), indent=1) + "\n"
    with (
        new_folder(folder, "output"),
        writing(folder / "fingerprint.json") as fingerprint,
        writing(folder / "task.yaml") as task,
    ):
        fingerprint.write_text(facts, encoding="utf-8")
        task.write_text(text, encoding="utf-8")
    return folder / "task.yaml"


def check_folder(folder: str | os.PathLike) -> Path:
    """Return the folder of a new bundle.

    Raises:
        InputError: If it already contains a task, cannot be written, or has a name that MONAI would cut.
    """
    folder = expand(folder)
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
        (f"# Planned for {plan.dataset.path.resolve().name}, {count(plan.fingerprint.cases, 'case')}.", None, ""),
        (
            "dataset_name",
            plan.dataset.path.resolve().name,
            "name of the folder in MEDNEXTV2_DATA; --dataset_dir replaces it",
        ),
        ("channels", _distinct(plan.dataset.channels) or ["image"], ""),
        ("labels", scheme.labels, "list index = voxel value"),
        ("regions", regions, "structures that consist of several labels; each is one output of the network"),
        ("ignore_label", scheme.ignore_label, "value of voxels that were not annotated"),
        (
            "spacing",
            [round(s, 6) for s in facts["spacing"].value],
            f"mm, axes in RAS order: {facts['spacing'].reason}",
        ),
        (
            "patch_size",
            list(facts["patch_size"].value),
            f"voxels, each a multiple of {DIVISOR}: {facts['patch_size'].reason}",
        ),
        ("batch_size", facts["batch_size"].value, f"patches in a training step: {facts['batch_size'].reason}"),
        (
            "variant",
            facts["variant"].value,
            f"size of the network; a training step takes about {facts['memory'].value}",
        ),
        ("mirror_axes", facts["mirror_axes"].value, facts["mirror_axes"].reason),
        ("batch_dice", facts["batch_dice"].value, f"Dice loss over the whole batch: {facts['batch_dice'].reason}"),
        ("normalization", facts["normalization"].value, facts["normalization"].reason),
    ]
    first = []
    for key, value, comment in lines:
        if key.startswith("#"):
            first.append(key)
            continue
        # comments are put above, since they may be long; MONAI's parser never sees them
        first += [f"# {line}" for line in textwrap.wrap(comment, 116)] if comment else []
        first.append(_yaml({key: value}))
    return "\n".join(first) + "\n\n--- # information for readers and for MONAI's Model Zoo\n" + _public_text(plan, name)


def _distinct(names: Sequence[str]) -> list[str]:
    """Number names that occur several times, such as nnU-Net's `CT`, which says how a channel is normalised."""
    found: list[str] = []
    for name in names:
        numbered = (name if i == 1 else f"{name} {i}" for i in itertools.count(1))
        found.append(next(candidate for candidate in numbered if candidate not in found))
    return found


def _yaml(content: dict[str, Any]) -> str:
    """Write one fact per line, lists and mappings in brackets, and a list of mappings with one mapping per line."""
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
    # no text may begin with characters that MONAI would run as an expression
    about = {key: text.strip().lstrip("$@% ") for key, text in plan.dataset.about.items()}
    title = about.get("name") or name.lstrip("$@% ") or "task"
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
            "weights": "none",
        }
    )
    return f"{facts}\nreferences:\n- {_REFERENCE}\n"
