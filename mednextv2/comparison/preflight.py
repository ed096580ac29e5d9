"""What is checked before a comparison writes anything: its settings, and the files of a user's own networks."""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from mednextv2.bundle.build import OVERLAYS, RECIPES
from mednextv2.bundle.network_file import check_parts
from mednextv2.bundle.networks import own_network, read_own
from mednextv2.bundle.overrides import override_problems
from mednextv2.bundle.task import WORKFLOW_FACTS
from mednextv2.comparison.entries import Entry
from mednextv2.errors import InputError, UsageError
from mednextv2.settings import wrong_values
from mednextv2.text_files import parse_yaml

#: The workflows whose settings a comparison takes: networks with weights to start from are trained by the second.
WORKFLOWS = ("train", "finetune", "evaluate")
#: The options of the verb itself, which a misspelt setting may have been meant to be.
_OPTIONS = ("bundle", "epochs", "folds", "initial", "labels_dir", "memory", "minutes", "output", "pretrained", "seeds")
_SOURCE = "mednextv2 run mednextv2_hippocampus train --help, and the same of evaluate"


def workflow_entries(workflow: str) -> dict[str, Any]:
    """Return the entries that a workflow has in every bundle, from the recipes; the task's facts are None."""
    entries: dict[str, Any] = dict.fromkeys(WORKFLOW_FACTS)
    for name in (*RECIPES["train"], workflow) if workflow in OVERLAYS else RECIPES[workflow]:
        file = resources.files("mednextv2.recipes").joinpath(f"{name}.yaml")
        content = parse_yaml(file.read_text(encoding="utf-8"), f"{name}.yaml")
        entries |= {key: value for key, value in content.items() if not key.startswith("+")}  # which adds to an entry
    return entries


def check_names(settings: Mapping[str, Any], own: Sequence[str] = ()) -> None:
    """Raise an error for settings that neither training, fine-tuning nor evaluation has, and for values that cannot be.

    Args:
        settings: The settings of the workflows, by name.
        own: Names that the comparison decides itself, which are no good advice.

    Raises:
        UsageError: For names that do not exist, with similar ones.
        InputError: For values.
    """
    workflows = [workflow_entries(name) for name in WORKFLOWS]
    known = {**dict.fromkeys(_OPTIONS), **{key: value for entries in workflows for key, value in entries.items()}}
    advised = {key: value for key, value in known.items() if key not in own}
    problems = [
        problem
        for key, value in settings.items()
        if all(override_problems(entries, {key: value}) for entries in workflows)
        for problem in override_problems(advised, {key: value}, source=_SOURCE)
    ]
    if problems:
        raise UsageError("\n".join(problems))
    if wrong := wrong_values(settings):
        raise InputError("\n".join(wrong))


def check_networks(entries: Sequence[Entry]) -> None:
    """Raise an InputError if the file of a user's own network names what does not exist.

    Args:
        entries: The networks that are compared.
    """
    problems: dict[str, None] = {}
    for entry in entries:
        if (file := own_network(entry.settings.get("network"))) is None:
            continue
        content = read_own(file)
        for workflow in WORKFLOWS:
            try:
                check_parts(file, content, {**workflow_entries(workflow), **content}, f"{workflow}.yaml")
            except InputError as e:
                problems[str(e)] = None
                break  # the second workflow has the same mistakes
    if problems:
        raise InputError("\n".join(problems))
