"""Logs of trainings: read, and joined with that of the training with smaller kernels that came before."""

import os
from dataclasses import dataclass

import numpy as np

from mednextv2.errors import InputError
from mednextv2.paths import expand
from mednextv2.report.score_reading import read_log
from mednextv2.scores.results_json import FIRST_STAGE, LOG_NAME

#: Columns that count on from one training to the next.
COUNTERS = ("epoch", "steps", "seconds")


@dataclass(frozen=True)
class TrainingCurve:
    """What a training logged.

    Attributes:
        name: The name of the training.
        log: The columns of its log, `(epochs,)`, with those of a training that came before; `steps` and `seconds` are
            NaN where they were not logged.
        joints: The number of epochs after which a training ended that another one continues, and what it was.
    """

    name: str
    log: dict[str, np.ndarray]
    joints: list[tuple[int, str]]


def read_training(place: str | os.PathLike, name: str | None = None) -> TrainingCurve:
    """Read the log of a training, and before it that of a training with smaller kernels, as of the workflow upkern.

    Args:
        place: The folder of a training, or its `training_log.csv`.
        name: The name of the training; by default, that of its folder and the folder above.

    Raises:
        InputError: If there is no such log, or it cannot be read.
    """
    file = expand(place)
    if not file.is_file():
        file = file / LOG_NAME
    if not file.is_file():
        raise InputError(
            f"{place}: holds no {LOG_NAME}; give the folder of a training, such as models/fold_0 in a bundle"
        )
    parts, joints = [], []
    for before in sorted(file.parent.glob(f"{FIRST_STAGE}*/{LOG_NAME}")):
        parts.append(read_log(before))
        joints.append((sum(len(part["epoch"]) for part in parts), before.parent.name.replace("_", " ")))
    parts.append(read_log(file))
    shown = name if name is not None else "/".join(file.absolute().parent.parts[-2:])
    return TrainingCurve(shown, _joined(parts), joints)


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    names = list(dict.fromkeys([*COUNTERS, *(name for part in parts for name in part)]))
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    offsets = dict.fromkeys(COUNTERS, 0.0)
    for part in parts:
        missing = np.full(len(part["epoch"]), np.nan)
        for name in names:
            columns[name].append(part.get(name, missing) + offsets.get(name, 0.0))
        offsets = {name: float(columns[name][-1][-1]) for name in COUNTERS}
    return {name: np.concatenate(found) for name, found in columns.items()}
