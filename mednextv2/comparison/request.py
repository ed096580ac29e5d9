"""What a comparison was asked for: checked, and stored in its folder, so that the same command goes on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mednextv2.bundle.run import check_overrides, read_workflow, workflow_files
from mednextv2.comparison.budget import check_budget, equal_epochs
from mednextv2.comparison.entries import Entry
from mednextv2.comparison.preflight import WORKFLOWS, check_names
from mednextv2.comparison.runs import Job, Run
from mednextv2.errors import InputError, UsageError
from mednextv2.paths import PATHS, absolute, writing
from mednextv2.text_files import read_json
from mednextv2.wording import brief

NAME = "comparison.json"
#: Settings of workflows that a comparison decides itself, and the option to use instead.
_OWN = {
    "bundle_root": "--bundle", "context": "--patch_size", "dataset_dir": "DATASET_DIR", "experiment": "--output",
    "fold": "--folds", "network": "NETWORKS", "output_dir": "--output", "resume": "another --output",
    "seed": "--seeds", "variant": "NETWORKS", "warmup_epochs": "--epochs or --minutes",
    "weights": "--pretrained or --initial",
}  # fmt: skip
_FROM_MINUTES = ("iterations_per_epoch", "val_iterations")


@dataclass(frozen=True)
class Request:
    """A comparison as it was asked for.

    Attributes:
        dataset_dir: The folder of the data set.
        labels_dir: The folder of the label maps, or None.
        entries: The networks.
        seeds: The seeds of the trainings.
        folds: The folds whose cases are scored.
        epochs: The budget of a run in epochs, or None.
        minutes: The budget of a run in minutes, or None.
        settings: Further settings of the workflows, the same for all networks.
    """

    dataset_dir: str
    labels_dir: str | None
    entries: Sequence[Entry]
    seeds: Sequence[int]
    folds: Sequence[int]
    epochs: int | None = None
    minutes: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.settings:
            if name in _OWN:
                raise UsageError(f"--{name}: is decided by the comparison; give {_OWN[name]} instead")
        check_names(self.settings, tuple(_OWN))
        check_budget(self.epochs, self.minutes)
        for name in self.settings:
            if self.minutes is not None and name in _FROM_MINUTES:
                raise UsageError(f"--{name}: follows from --minutes for each network; give --epochs to choose it")

    def content(self) -> dict[str, Any]:
        """Return what must stay the same when the comparison goes on; networks, seeds and folds may be added."""
        paths = {key: str(absolute(value)) for key, value in self.settings.items() if key in PATHS and value}
        return {
            "dataset_dir": str(absolute(self.dataset_dir)),
            "labels_dir": None if self.labels_dir is None else str(absolute(self.labels_dir)),
            "epochs": self.epochs,
            "minutes": self.minutes,
            "settings": {**self.settings, **paths},
            "files": {entry.folder: entry.files for entry in self.entries if entry.files},
        }

    def job(self, run: Run, bundle: Path) -> Job:
        """Return what the process of a run is told."""
        content = self.content()
        workflow = run.entry.workflow
        data = {"dataset_dir": content["dataset_dir"], "labels_dir": content["labels_dir"]}
        shared = {**data, **run.entry.settings, "fold": run.fold, "check_data": False}
        train, evaluate = (self.settings_of(bundle, name) for name in (workflow, "evaluate"))
        if run.entry.pretrained:
            train["pretrained"] = run.entry.pretrained
        return Job(
            run.folder, str(bundle), {**shared, **train, "seed": run.seed}, {**shared, **evaluate}, self.minutes,
            None if self.epochs is None else equal_epochs(self.epochs), workflow,
            str(run.folder.parent.with_name(run.entry.network)),
        )  # fmt: skip

    def settings_of(self, bundle: Path, workflow: str) -> dict[str, Any]:
        """Return those of the further settings that a workflow has.

        Raises:
            InputError: If neither training nor fine-tuning nor evaluation has one of them.
        """
        files = {name: workflow_files(bundle, name) for name in WORKFLOWS}
        configs: dict[str, Any] = {name: read_workflow(found).config for name, found in files.items()}
        settings = self.content()["settings"]
        shared = {key: value for key, value in settings.items() if key.split("::")[0] in configs[workflow]}
        others = {
            key: value for key, value in settings.items() if not any(key.split("::")[0] in c for c in configs.values())
        }
        check_overrides(files[workflow], {**shared, **others}, more=[name for c in configs.values() for name in c])
        return shared


def store_request(output: Path, request: Request) -> None:
    """Write a request into the folder of its comparison, or check that it goes on with the one that is there.

    Raises:
        InputError: If another comparison is there.
    """
    file = output / NAME
    content = request.content()
    if file.is_file():
        before = read_json(file)
        problems = [
            f"{key}: {brief(before.get(key))} before, {brief(content[key])} now"
            for key in content
            if key != "files" and before.get(key) != content[key]
        ]
        for name, digests in content["files"].items():
            if before.get("files", {}).get(name, digests) != digests:
                problems.append(f"{name}: its {' or '.join(digests)} file was changed")
        if problems:
            raise InputError(
                f"{file}: another comparison is there ({'; '.join(problems)}); give the same options as before, or "
                "another --output"
            )
        content["files"] = {**before.get("files", {}), **content["files"]}
    with writing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_numbers(option: str, value: Any) -> list[int]:
    """Return the seeds or folds of an option, which is one whole number or several.

    Raises:
        UsageError: If it is anything else, or a number is given twice.
    """
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
    if not numbers or not whole or len({*numbers}) < len(numbers):
        raise UsageError(f"--{option} {value}: should be different whole numbers from 0, such as 0,1,2")
    return numbers
