"""Reading of a `task.yaml`: the facts that a bundle is built from."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mednextv2.bundle.task_kinds import wrong_kinds, wrong_public_kinds
from mednextv2.data.image_split import OBJECTIVE as AUTOENCODING
from mednextv2.errors import InputError
from mednextv2.label_scheme import LabelScheme, is_whole, mirroring_warning
from mednextv2.nets.legal_sizes import DIVISOR, is_legal
from mednextv2.nets.variants import VARIANTS
from mednextv2.text_files import MAX_YAML_BYTES, parse_yaml, read_text
from mednextv2.training.masking import BlockMasks
from mednextv2.transforms.normalize import NormalizeChannelsd
from mednextv2.wording import brief, count

#: Facts of the first document, with which every workflow configuration starts.
WORKFLOW_FACTS = (
    "dataset_name",
    "channels",
    "labels",
    "regions",
    "ignore_label",
    "spacing",
    "patch_size",
    "batch_size",
    "variant",
    "mirror_axes",
    "batch_dice",
    "normalization",
)
#: Facts of the first document of a bundle for masked autoencoding, which has no labels.
AUTOENCODING_FACTS = (
    "dataset_name",
    "channels",
    "spacing",
    "patch_size",
    "batch_size",
    "variant",
    "mirror_axes",
    "normalization",
    "block_size",
    "mask_ratio",
)
#: Facts of the first document, by what a bundle is for: the fact `objective` of the second document.
FACTS_OF = {"segmentation": WORKFLOW_FACTS, AUTOENCODING: AUTOENCODING_FACTS}
#: Facts of the second document, used in metadata.json and the README.
PUBLIC_FACTS = (
    "title",
    "version",
    "changelog",
    "task",
    "description",
    "authors",
    "copyright",
    "modality",
    "intended_use",
    "data_source",
    "data_license",
    "data_description",
    "references",
)
#: Facts of the second document that a task with weights may have: scores of the weights, and how they were measured.
MEASURED_FACTS = ("eval_metrics", "evaluation")
#: Facts of the second document that a task may have, for the README alone: about published data sets.
OPTIONAL_FACTS = (
    "weights",
    "weights_license",
    "data_access",
    "converter",
    "official_split",
    "data_traps",
    "assumptions",
    "reference_scores",
)
#: A fact of the second document that a task may have: overlays besides those of all bundles.
OVERLAYS_FACT = "overlays"

_SHOWN = 20  # largest number of facts in a message
_END = "end_of_the_facts"
_REWRITTEN = ("$", "@", "%")
NAMES_RULE = "names hold no # or :: and do not start with $, @ or %"


@dataclass(frozen=True)
class Task:
    """The facts of one bundle.

    Attributes:
        name: The name of the bundle and its folder.
        text: The first document as it was written, with its comments.
        workflow: The content of the first document.
        public: The content of the second document.
    """

    name: str
    text: str
    workflow: dict[str, Any]
    public: dict[str, Any]

    @property
    def overlays(self) -> list[str]:
        """The overlays that the bundle has besides those of all bundles."""
        return self.public.get(OVERLAYS_FACT, [])

    @property
    def objective(self) -> str:
        """What the bundle's network is trained for: a key of :data:`FACTS_OF`."""
        return str(self.public.get("objective", "segmentation"))

    @property
    def outputs(self) -> int:
        """The number of the network's outputs: a reconstruction has the channels of the image."""
        return len(self.workflow["channels"]) if self.objective == AUTOENCODING else self.scheme().outputs

    def scheme(self) -> LabelScheme:
        """Return the meaning of the label values.

        Raises:
            InputError: If the bundle is for images without labels.
        """
        if self.objective == AUTOENCODING:
            raise InputError(f"bundle {self.name}: is for {AUTOENCODING} of images, and has no labels")
        return LabelScheme(self.workflow["labels"], self.workflow["regions"], self.workflow["ignore_label"])

    def warnings(self) -> list[str]:
        """Return what a user should know before training."""
        if self.objective == AUTOENCODING:
            return []
        axes = self.workflow["mirror_axes"]
        warning = mirroring_warning(self.scheme(), axes)
        return [f"{warning}. Without it: mirror_axes: {[a for a in axes if a != 0]}"] if warning else []


def read_task(path: str | os.PathLike) -> Task:
    """Read and check a `task.yaml`.

    Args:
        path: The file, in a folder with the name of the bundle.

    Returns:
        The facts.

    Raises:
        InputError: If the file is missing or is not two YAML documents, or a fact is missing, unknown or impossible.
    """
    path = Path(path)
    first, separator, second = read_text(path, MAX_YAML_BYTES).partition("\n---")
    workflow = parse_yaml(first, path)
    public = parse_yaml(second.partition("\n")[2], path, first.count("\n") + 3)
    if not separator or not isinstance(workflow, dict) or not isinstance(public, dict):
        raise InputError(f"{path}: should be two YAML documents with a line --- between them")
    objective = public.get("objective", "segmentation")
    if not isinstance(objective, str) or objective not in FACTS_OF:
        raise InputError(f"{path}: objective {brief(objective)} is none of {', '.join(FACTS_OF)}")
    documents: list[tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = [
        (workflow, FACTS_OF[objective], ()),
        (public, PUBLIC_FACTS, (*MEASURED_FACTS, *OPTIONAL_FACTS, OVERLAYS_FACT, "objective")),
    ]
    for facts, expected, optional in documents:
        missing = [k for k in expected if k not in facts]
        unknown = [k for k in facts if k not in (*expected, *optional)]
        if missing or unknown:
            lists = [
                f"{word} facts: {', '.join(str(key)[:60] for key in keys[:_SHOWN])}"
                for word, keys in (("missing", missing), ("unknown", unknown))
                if keys
            ]
            raise InputError(f"{path}: {'; '.join(lists)}")
    if parse_yaml(f"{first}\n{_END}: true\n", path) != {**workflow, _END: True}:
        raise InputError(f"{path}: the recipes cannot follow its first document; write its facts one below the other")
    _check(path, workflow, public)
    return Task(path.resolve().parent.name, first.rstrip() + "\n", workflow, public)


def _check(path: Path, workflow: dict[str, Any], public: dict[str, Any]) -> None:
    if wrong := [*wrong_kinds(workflow), *wrong_public_kinds(public)]:
        raise InputError(f"{path}: {'; '.join(wrong)}")
    patch = workflow["patch_size"]
    problems = []
    try:
        if "labels" in workflow:
            LabelScheme(workflow["labels"], workflow["regions"], workflow["ignore_label"])
        elif all(map(is_whole, patch)):
            BlockMasks(patch, workflow["block_size"], workflow["mask_ratio"])
        NormalizeChannelsd("image", workflow["normalization"])
    except InputError as e:
        problems.append(str(e))
    if "labels" not in workflow and (len(workflow["channels"]) != 1 or len(patch) != 3):
        problems.append(f"a bundle for {AUTOENCODING} has one channel, and a patch_size of three numbers")
    if len(workflow["normalization"]) != len(workflow["channels"]):
        problems.append(
            f"{count(len(workflow['channels']), 'channel')}, but normalization has "
            f"{count(len(workflow['normalization']), 'entry', 'entries')}"
        )
    if "_v" in path.resolve().parent.name:
        problems.append('the folder\'s name holds "_v", where MONAI cuts names: call it mednextv2_<organ>')
    if len(patch) not in (2, 3) or not all(is_whole(n) and is_legal(n) for n in patch):
        problems.append(f"patch_size {brief(patch)} should be two or three whole numbers, each a multiple of {DIVISOR}")
    if workflow["spacing"] is not None and len(workflow["spacing"]) != len(patch):
        problems.append(f"spacing {workflow['spacing']} and patch_size {patch} have different numbers of axes")
    elif any(axis >= len(patch) for axis in workflow["mirror_axes"]):
        problems.append(f"mirror_axes {workflow['mirror_axes']} are more than the axes of patch_size {patch}")
    if workflow["variant"] not in list(VARIANTS):
        problems.append(f"variant {workflow['variant']} is none of {', '.join(VARIANTS)}")
    if "labels" in workflow and workflow["labels"][0] != "background":
        problems.append("labels should start with background")
    for key, value in workflow.items():
        if changed := [name for name in texts_in(value) if is_rewritten(name)]:
            problems.append(f"{key}: MONAI reads more than a name into {', '.join(map(brief, changed))}: {NAMES_RULE}")
    for key, value in public.items():
        if changed := [text for text in texts_in(value) if text.startswith(_REWRITTEN)]:
            problems.append(f"{key}: MONAI reads more than a text into {brief(changed[0])}: begin it with a word")
    if ("eval_metrics" in public) != ("evaluation" in public):
        problems.append("eval_metrics and evaluation, which says how they were measured, belong together")
    elif "eval_metrics" in public and public.get("weights") == "none":
        problems.append("eval_metrics are scores of weights, but weights is none")
    if public["version"] not in public["changelog"]:
        problems.append(f"the changelog has no entry for the version {brief(public['version'])}")
    if problems:
        raise InputError(f"{path}: {'; '.join(problems)}")


def is_rewritten(name: str) -> bool:
    """Return whether MONAI's configuration parser would read a name as an expression, a reference or a path."""
    return "#" in name or "::" in name or name.startswith(_REWRITTEN)


def texts_in(content: Any) -> Iterator[str]:
    """Yield every text in a value that may be nested lists and dictionaries."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, (dict, list)):
        for part in content.values() if isinstance(content, dict) else content:
            yield from texts_in(part)
