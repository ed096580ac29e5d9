"""The runs of a comparison: which there are, where their files are, and what became of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mednextv2.comparison.budget import Schedule
from mednextv2.comparison.entries import Entry
from mednextv2.paths import prepare_folder, writing
from mednextv2.text_files import read_json

JOB, OUTCOME, PROGRESS, TRIAL, LOG = "job.json", "outcome.json", "progress.json", "trial.json", "log.txt"


@dataclass(frozen=True)
class Run:
    """A training and its evaluation.

    Attributes:
        entry: The network.
        fold: The fold whose cases are scored.
        seed: The seed of the training.
        folder: The folder of the run.
    """

    entry: Entry
    fold: int
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """The name for people."""
        return f"{self.entry.name}, fold {self.fold}, seed {self.seed}"

    def outcome(self) -> dict[str, Any]:
        """Return what became of the run: an empty dictionary if it has not ended."""
        file = self.folder / OUTCOME
        return read_json(file) if file.is_file() else {}

    @property
    def done(self) -> bool:
        """Whether the run is complete."""
        return self.outcome().get("status") == "done"


@dataclass(frozen=True)
class Job:
    """What the process of a run is told.

    Attributes:
        folder: The folder of the run.
        bundle: The folder of the bundle.
        train: The settings of its workflow train.
        evaluate: The settings of its workflow evaluate.
        minutes: The time of the training, or None.
        schedule: The length of the training, or None if it follows from the time.
        workflow: The workflow that trains: `train`, or `finetune` from weights.
        trials: The folder with the trial of the network, which all runs from whatever weights share, so that they make
            the same number of steps; by default, that of the run's own network.
    """

    folder: Path
    bundle: str
    train: dict[str, Any]
    evaluate: dict[str, Any]
    minutes: float | None = None
    schedule: Schedule | None = None
    workflow: str = "train"
    trials: str | None = None

    @property
    def trial(self) -> Path:
        """The file of the trial."""
        return Path(self.trials or self.folder.parent) / TRIAL

    def write(self) -> Path:
        """Write the job into the run's folder, and return the file."""
        content = {
            "bundle": self.bundle, "train": self.train, "evaluate": self.evaluate, "minutes": self.minutes,
            "schedule": None if self.schedule is None else self.schedule.settings(), "workflow": self.workflow,
            "trials": self.trials,
        }  # fmt: skip
        file = prepare_folder(self.folder, "output") / JOB
        with writing(file) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return file


def read_job(file: Path) -> Job:
    """Return the job in a file."""
    content = read_json(file)
    schedule = content.pop("schedule")
    return Job(file.parent, **content, schedule=None if schedule is None else Schedule(**schedule))


def list_runs(output: Path, entries: Sequence[Entry], folds: Sequence[int], seeds: Sequence[int]) -> list[Run]:
    """Return the runs in the order in which they are made: every network with the first seed, then with the next."""
    return [
        Run(entry, fold, seed, output / "runs" / entry.folder / f"fold_{fold}_seed_{seed}")
        for seed in seeds
        for fold in folds
        for entry in entries
    ]
