"""The numbers of a report: scores from an evaluation's `cases.csv`, and volumes or areas."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mednextv2.data.sizes import AREA, VOLUME, SizeKind, size_kind_of
from mednextv2.errors import InputError
from mednextv2.report.volumes import measure_sizes
from mednextv2.scores.csv_tables import read_csv
from mednextv2.scores.evaluation import METRICS
from mednextv2.scores.results_json import Results

_LISTED = 10  # number of wrong rows that a message names


@dataclass
class Scores:
    """Scores and sizes (volumes, or areas in 2D images) by case and structure.

    Attributes:
        cases: The names of the cases, in the order of the manifest.
        labels: The names of the structures.
        values: For each name in `METRICS` (in an evaluation) and in `size_kind.columns`, an array
            `(cases, structures)`.
        size_kind: What the sizes are.
    """

    cases: list[str]
    labels: list[str]
    values: dict[str, np.ndarray]
    size_kind: SizeKind = VOLUME

    def mean(self, name: str) -> np.ndarray:
        """Return the mean over a case's structures, without NaN: `(cases,)`; it is NaN if there is no number."""
        values = self.values[name]
        known = ~np.isnan(values)
        total = np.where(known, values, 0).sum(axis=1)
        return np.divide(total, known.sum(axis=1), out=np.full(len(values), np.nan), where=known.any(axis=1))

    def rows(self) -> list[dict]:
        """Return one dict for each case and structure, as in `cases.csv`."""
        return [
            {"case": case, "label": label} | {name: float(values[i, j]) for name, values in self.values.items()}
            for i, case in enumerate(self.cases)
            for j, label in enumerate(self.labels)
        ]


def read_scores(results: Results, folder: Path) -> Scores:
    """Read the scores of an evaluation, and measure the sizes of a prediction, or if the table lacks them.

    Args:
        results: The manifest.
        folder: The folder, with `cases.csv` if it is an evaluation.

    Raises:
        InputError: If the table does not fit the manifest, or a mask cannot be read.
    """
    names = [case.case for case in results.cases]
    values = _read_table(folder / "cases.csv", results) if results.kind == "evaluation" else {}
    kind = size_kind_of(values)
    if kind is None:
        kind, found = measure_sizes(results)
        for n, column in enumerate(kind.columns):
            values[column] = np.array([[found[case, label][n] for label in results.labels] for case in names])
    return Scores(names, list(results.labels), values, kind)


def choose_cases(scores: Scores) -> list[tuple[str, int]]:
    """Choose the best, the median and the worst case of an evaluation.

    Args:
        scores: The scores of at least one case.

    Returns:
        The description and index of each case. The median of an even number is the lower one; equal cases are ordered
        by name. Two cases have no median, and a single case is the only one. Cases without any structure are left out.
    """
    mean = scores.mean("dice")
    order = sorted((i for i in range(len(mean)) if not math.isnan(mean[i])), key=lambda i: (mean[i], scores.cases[i]))
    if not order:
        return []
    if len(order) == 1:
        return [("Only case", order[0])]
    chosen = [("Best case", order[-1]), ("Median case", order[(len(order) - 1) // 2]), ("Worst case", order[0])]
    return chosen if len(order) > 2 else [chosen[0], chosen[2]]


def read_log(file: Path) -> dict[str, np.ndarray]:
    """Read a `training_log.csv`.

    Args:
        file: The table.

    Returns:
        The columns `(epochs,)` by name, including `epoch`, with NaN for epochs without validation.

    Raises:
        InputError: If the file is not such a table.
    """
    rows = _read_csv(file, "the training log")
    if not rows or not {"epoch", "train_loss"} <= set(rows[0]):
        raise InputError(f"{file}: has no columns epoch and train_loss with at least one row; is it a training log?")
    try:
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0] if name}
    except (TypeError, ValueError) as e:
        raise InputError(f"{file}: cannot be read as a training log ({e}); restore it, or remove it") from e


def _read_table(file: Path, results: Results) -> dict[str, np.ndarray]:
    """Return the columns of `cases.csv` as arrays `(cases, structures)`, with NaN for what a case does not annotate."""
    cases, labels = results.cases, results.labels
    again = "run the evaluation again"
    rows = _read_csv(file, "the evaluation's scores")
    missing = [name for name in ("case", "label", *METRICS) if not rows or name not in rows[0]]
    if missing:
        raise InputError(f"{file}: {'lacks the columns ' + ', '.join(missing) if rows else 'has no rows'}; {again}")
    wanted = {
        (case.case, label): (i, j)
        for i, case in enumerate(cases)
        for j, label in enumerate(labels)
        if case.annotated is None or label in case.annotated
    }
    found = [(row["case"], row["label"]) for row in rows]
    count = Counter(found)
    problems = {
        "lacks rows of results.json": [key for key in wanted if key not in count],
        "has rows that are not in results.json": [key for key in count if key not in wanted],
        "has rows twice": [key for key, times in count.items() if times > 1],
    }
    if any(problems.values()):
        lines = [f"- {text}: {_listed([', '.join(key) for key in keys])}" for text, keys in problems.items() if keys]
        raise InputError("\n".join([f"{file}: does not fit to results.json; {again}", *lines]))
    columns = [name for name in (*METRICS, *VOLUME.columns, *AREA.columns) if name in rows[0]]
    values = {name: np.full((len(cases), len(labels)), np.nan) for name in columns}
    for row, key in zip(rows, found, strict=True):
        for name in columns:
            try:
                values[name][wanted[key]] = float(row[name])
            except (TypeError, ValueError) as e:
                raise InputError(f"{file}: {name} of {', '.join(key)} is no number but {row[name]!r}; {again}") from e
    return values


def _read_csv(file: Path, what: str) -> list[dict[str, str]]:
    if not file.is_file():
        raise InputError(f"{file}: there is no such file ({what}); run the evaluation again, or restore it")
    try:
        return read_csv(file)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"{file}: cannot be read ({e}); restore it") from e


def _listed(names: Sequence[str]) -> str:
    more = f"; … and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return "; ".join(names[:_LISTED]) + more
