"""The README of a bundle: the template of the recipes, filled with the facts of the task."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from mednextv2.bundle.task import Task
from mednextv2.bundle.task_kinds import METRICS
from mednextv2.nets.legal_sizes import DIVISOR
from mednextv2.nets.training_memory import training_memory

_NO_WEIGHTS = """**This bundle has no trained weights yet.** Training it on the data described below gives it some: see
[Training](#training). Until then, evaluation and inference end with a message that says so."""
_PRETRAINING = """The overlay `configs/pretrain.yaml` has the settings of the pretraining, which takes 1500 epochs. The comment at its
top says what is known of the paper's pretraining, and what was chosen here:

```
python -m monai.bundle run --config_file "['configs/train.yaml','configs/pretrain.yaml']" --bundle_root . \\
  --dataset_dir collections/cads.yaml --fold 0
torchrun --standalone --nproc_per_node=4 -m monai.bundle run --bundle_root . --dataset_dir collections/cads.yaml \\
  --config_file "['configs/train.yaml','configs/pretrain.yaml','configs/multi_gpu_train.yaml']"
```"""  # noqa: E501, lines of the README
_CHECKOUT = (
    "The script is in the repository of mednextv2, where `docs/converting.md` describes it. `SOURCE` is the folder "
    "with the data as downloaded, and `TARGET` is a new folder, which training and evaluation take as `--dataset_dir`:"
)


def readme_text(task: Task, template: str) -> str:
    """Return the README of a bundle.

    Args:
        task: The facts. Sections about facts that the task does not have are left out.
        template: The README of the recipes, with a `$name` for each fact.
    """
    facts, public, scheme = task.workflow, task.public, task.scheme()
    weights = public.get("weights")
    filled = Template(template).substitute(
        {key: value for key, value in public.items() if isinstance(value, str)},
        name=task.name,
        dataset=facts["dataset_name"],
        variant=facts["variant"],
        channels=", ".join(facts["channels"]),
        labels="\n".join(f"| {value} | {label} |" for value, label in enumerate(facts["labels"])),
        regions=_regions(task),
        weights_note=_NO_WEIGHTS if weights == "none" else weights or "",
        weights_file="models/fold_0/model.pt" if weights == "none" else "models/model.pt",
        other_weights="OTHER_BUNDLE/models/fold_0/model.pt" if weights == "none" else "models/model.pt",
        fallback=_fallback(weights),
        mirroring=_mirroring(facts["mirror_axes"]),
        several_channels=_several_channels(facts["channels"]),
        structure="region" if scheme.regions else "class",
        loss="binary cross-entropy of each region" if scheme.regions else "cross-entropy",
        spacing=" × ".join(f"{s:g}" for s in facts["spacing"]),
        patch_size=" × ".join(map(str, facts["patch_size"])),
        batch_size=facts["batch_size"],
        memory=_memory(task),
        performance=_performance(task),
        one_window=_shape(1, facts),
        two_windows=_shape(2, facts),
        dynamic_axes=_dynamic_axes(facts["patch_size"]),
        default_data=_default_data(facts["dataset_name"]),
        pretraining=_PRETRAINING if "pretrain" in task.overlays else "",
        about_data=_about_data(public, facts["dataset_name"]),
        scores=_scores(public.get("reference_scores", [])),
        references="\n".join(f"{i}. {text}" for i, text in enumerate(public["references"], 1)),
    )
    return re.sub(r"\n{3,}", "\n\n", filled)  # a fact that is left out leaves empty lines


def _default_data(name: str) -> str:
    return name if name.endswith(".yaml") else f"$MEDNEXTV2_DATA/{name}"


def autoencoding_readme(task: Task, template: str) -> str:
    """Return the README of a bundle for masked autoencoding; the arguments are those of :func:`readme_text`."""
    facts, public = task.workflow, task.public
    spacing = facts["spacing"]
    ratio = facts["mask_ratio"]
    filled = Template(template).substitute(
        {key: value for key, value in public.items() if isinstance(value, str)},
        name=task.name,
        dataset=facts["dataset_name"],
        variant=facts["variant"],
        spacing="keep their spacing"
        if spacing is None
        else f"are resampled to {' × '.join(f'{s:g}' for s in spacing)} mm",
        patch_size=" × ".join(map(str, facts["patch_size"])),
        batch_size=facts["batch_size"],
        block_size=facts["block_size"],
        mask_ratio=f"{ratio[0]:g} to {ratio[1]:g}" if isinstance(ratio, list) else f"{ratio:g}",
        memory=_memory(task),
        performance=_performance(task),
        assumptions=_bullets(public.get("assumptions", [])),
        references="\n".join(f"{i}. {text}" for i, text in enumerate(public["references"], 1)),
    )
    return re.sub(r"\n{3,}", "\n\n", filled)


def _shape(windows: int, facts: Mapping[str, Any]) -> str:
    """Return the shape of some windows as MONAI's export commands take it."""
    return f"[{','.join(map(str, [windows, len(facts['channels']), *facts['patch_size']]))}]"


def _dynamic_axes(patch_size: Sequence[int]) -> str:
    """Return the axes of a window that may vary in an ONNX file: those on which more than one voxel is left."""
    variable = [f"{axis}:'{name}'" for axis, (name, size) in enumerate(zip("xyz", patch_size, strict=False), 2)
                if size > DIVISOR]  # fmt: skip
    return f"{{{','.join(['0:' + repr('n'), *variable])}}}"


def _fallback(weights: str | None) -> str:
    if weights == "none":
        return (
            "The predictions of all trained folds are averaged. Until a fold has been trained, there are no weights\n"
            "to predict with."
        )
    return (
        "The weights in `models/model.pt` are used. `--folds 0,1` averages the predictions of folds that you trained;\n"
        "`mednextv2 promote` puts their weights in the place of `models/model.pt`."
    )


def _memory(task: Task) -> str:
    """Return the memory of a training step in GiB, estimated as `mednextv2 plan` does."""
    facts = task.workflow
    needed = training_memory(
        facts["variant"], facts["patch_size"], facts["batch_size"], len(facts["channels"]), task.outputs
    )
    return f"{needed / 2**30:.1f}"


def _performance(task: Task) -> str:
    """Return the measured scores of the weights, or that there are none."""
    public = task.public
    if "eval_metrics" not in public:
        return "No scores of this bundle have been recorded yet."
    rows = [f"| {METRICS[name]} | {value:g} |" for name, value in public["eval_metrics"].items()]
    return "\n".join([_wrapped(public["evaluation"]), "", "| metric | score |", "| --- | --- |", *rows])


def _mirroring(axes: Sequence[int]) -> str:
    if not axes:
        return "Images are not mirrored at test time, since training does not mirror them either."
    return '`--test_mirror_axes "[]"` switches test-time mirroring off, which saves most of the time.'


def _several_channels(channels: Sequence[str]) -> str:
    if len(channels) == 1:
        return ""
    numbered = "; ".join(f"`CASE_{number:04d}.nii.gz` is {name}" for number, name in enumerate(channels))
    return _wrapped(f"The channels of a case are files in one folder, named by their numbers: {numbered}.")


def _regions(task: Task) -> str:
    """Return the table of regions, or nothing for a task of classes."""
    scheme = task.scheme()
    if not scheme.regions:
        return ""
    rows = [
        f"| {region.name} | {', '.join(scheme.labels[value] for value in region.values)} | {region.paint} |"
        for region in scheme.regions
    ]
    return "\n".join(
        [
            "- **Regions.** The network has one output for each region, and regions may overlap. In a mask, a voxel",
            "  has the value of the last region of this table that it belongs to:",
            "",
            "| region | consists of | voxel value in masks |",
            "| --- | --- | --- |",
            *rows,
        ]
    )


def _about_data(public: dict[str, Any], dataset: str) -> str:
    """Return the sections about getting, converting and splitting the data, and what to know about them."""
    sections = []
    if "data_access" in public:
        sections.append("### Getting the data\n\n" + _wrapped(public["data_access"]))
    if "converter" in public:
        command = f"python scripts/convert/{public['converter']}.py SOURCE TARGET"
        sections.append(
            f"### Converting the data\n\n{_wrapped(_CHECKOUT)}\n\n```\n{command}\n```\n\n"
            f"If `TARGET` is `$MEDNEXTV2_DATA/{dataset}`, `--dataset_dir` is not needed."
        )
    if "official_split" in public:
        sections.append("### Official split\n\n" + _wrapped(public["official_split"]))
    for key, heading in (("data_traps", "Known defects and traps"), ("assumptions", "Unknown, and chosen here")):
        if public.get(key):
            sections.append(f"### {heading}\n\n" + _bullets(public[key]))
    return "\n\n".join(sections)


def _bullets(texts: Sequence[str]) -> str:
    return "\n".join(_wrapped(text, "- ") for text in texts)


def _wrapped(text: str, bullet: str = "") -> str:
    # names, addresses and commands stay whole
    return textwrap.fill(
        text, 120, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _scores(scores: Sequence[dict[str, str]]) -> str:
    """Return the section of scores from the literature, or nothing if there are none."""
    if not scores:
        return ""
    columns = ("method", "score", "source", "comparable")
    cells = [[entry[column].replace("|", "\\|") for column in columns] for entry in scores]
    return "\n".join(
        [
            "## Scores in the literature",
            "",
            "None of these scores was reached with this bundle.",
            "",
            "| method | score | source | comparable with an evaluation of this bundle? |",
            "| --- | --- | --- | --- |",
            *(f"| {' | '.join(row)} |" for row in cells),
        ]
    )
