"""The tables of a report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mednextv2.report.number_format import NONE, digits, mean_sd, number
from mednextv2.report.score_reading import Scores
from mednextv2.scores.evaluation import METRICS, summarise

#: The title, digits and unit of each metric.
TITLES = {
    "dice": ("Dice", 3, ""),
    "surface_dice_1mm": ("Surface Dice (1 mm)", 3, ""),
    "hd95_mm": ("HD95 (mm)", 2, "mm"),
}
_FEW = 6  # up to this many structures, every score of a case has a column


@dataclass(frozen=True)
class Row:
    """A row: its header, the other cells, and the structure whose colour it has, if any."""

    head: str
    cells: list[str]
    structure: int | None = None


@dataclass(frozen=True)
class HeadCell:
    """A header cell of a table: over one column, or over a group of columns, which has no number.

    Attributes:
        text: The text of the cell.
        column: The number of its column, or None for a group.
        columns: The number of columns that it spans.
        rows: The number of rows that it spans.
    """

    text: str
    column: int | None
    columns: int = 1
    rows: int = 1


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: The text that says what is in the table.
        groups: The columns: the name of each group and the names in it. A group of one column with an empty name has
            just that name. The first column contains the headers of the rows.
        rows: The rows of the body.
        foot: A row that always stays at the end, or None.
    """

    caption: str
    groups: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[Row]
    foot: Row | None = None

    @property
    def head(self) -> list[list[HeadCell]]:
        """The header rows of the table: groups and columns, or only columns if no group has a name."""
        grouped = any(name for name, _ in self.groups)
        upper: list[HeadCell] = []
        lower: list[HeadCell] = []
        column = 0
        for name, columns in self.groups:
            if name:
                upper.append(HeadCell(name, None, columns=len(columns)))
            for title in columns:
                alone = grouped and not name
                (upper if alone else lower).append(HeadCell(title, column, rows=2 if alone else 1))
                column += 1
        return [upper, lower] if grouped else [lower]


def class_table(scores: Scores) -> Table:
    """Return the table of an evaluation with one row for each structure."""
    *rows, mean = summarise(scores.rows(), scores.labels)
    groups = [("", ["Class"])]
    groups += [
        (title, ["mean ± sd", "median", *(["infinite"] if metric == "hd95_mm" else [])])
        for metric, (title, _, _) in TITLES.items()
    ]
    groups += [("", ["Cases"]), (f"{_size_title(scores)}, mean ± sd", ["prediction", "reference"])]
    body = []
    for n, row in enumerate(rows):
        cells = []
        for metric, (_, after, _) in TITLES.items():
            values = [number(row[f"{metric}_{statistic}"], after) for statistic in ("mean", "std", "median")]
            cells += [mean_sd(*values[:2]), values[2]]
            cells += [str(row[f"{metric}_infinite"])] if metric == "hd95_mm" else []
        cells += [str(row["dice_cases"]), *(size_mean(scores.values[name][:, n]) for name in scores.size_kind.columns)]
        body.append(Row(row["label"], cells, n))
    last = [number(mean[f"{metric}_mean"], after) for metric, (_, after, _) in TITLES.items()]
    foot = Row("Mean of the classes", [last[0], "", last[1], "", last[2], "", "", "", "", ""])
    caption = f"Scores and {scores.size_kind.name.lower()}s of each class"
    return Table(caption, groups, body, foot if len(rows) > 1 else None)


def size_table(scores: Scores) -> Table:
    """Return the table of a prediction with one row for each structure: its sizes over the cases."""
    columns = ["Class", "Cases with it", "mean ± sd", "median", "smallest", "largest"]
    body = []
    for n, label in enumerate(scores.labels):
        values = scores.values[scores.size_kind.columns[0]][:, n]
        cells = [str(int((values > 0).sum())), size_mean(values)]
        cells += [digits(float(function(values))) for function in (np.median, np.min, np.max)]
        body.append(Row(label, cells, n))
    caption = f"{scores.size_kind.name} of each class in {scores.size_kind.unit}, over all cases"
    return Table(caption, [("", columns[:2]), (_size_title(scores), columns[2:])], body)


def case_table(scores: Scores) -> Table:
    """Return the table with one row for each case: scores of an evaluation, or sizes of a prediction."""
    if "dice" not in scores.values:
        groups = [("", ["Case"]), (_size_title(scores), scores.labels)]
        sizes = scores.values[scores.size_kind.columns[0]].tolist()
        rows = [Row(case, [digits(size) for size in sizes[i]]) for i, case in enumerate(scores.cases)]
        return Table("All cases; click a column to sort", groups, rows)
    means = {metric: scores.mean(metric) for metric in METRICS}
    few = len(scores.labels) <= _FEW
    groups = [("", ["Case"]), ("Mean of the classes", [title for title, _, _ in TITLES.values()])]
    if few:
        names = [
            *(title for title, _, _ in TITLES.values()),
            _size_title(scores),
            f"Reference ({scores.size_kind.unit})",
        ]
        groups += [(label, names) for label in scores.labels]
    else:
        groups += [("", ["Lowest Dice"]), ("Dice", scores.labels)]
    rows = []
    for i, case in enumerate(scores.cases):
        cells = [number(means[metric][i], after) for metric, (_, after, _) in TITLES.items()]
        cells += _every_score(scores, i) if few else _dice_only(scores, i)
        rows.append(Row(case, cells))
    return Table("All cases; click a column to sort", groups, rows)


def _size_title(scores: Scores) -> str:
    return f"{scores.size_kind.name} ({scores.size_kind.unit})"


def size_mean(values: np.ndarray) -> str:
    """Return the mean and standard deviation of sizes; NaN is left out."""
    known = values[~np.isnan(values)]
    mean = float(known.mean()) if known.size else math.nan
    return mean_sd(digits(mean), digits(float(known.std()), like=mean)) if known.size else NONE


def _every_score(scores: Scores, i: int) -> list[str]:
    cells = []
    for j in range(len(scores.labels)):
        cells += [number(scores.values[metric][i, j], after) for metric, (_, after, _) in TITLES.items()]
        cells += [digits(scores.values[name][i, j]) for name in scores.size_kind.columns]
    return cells


def _dice_only(scores: Scores, i: int) -> list[str]:
    dice: Sequence[float] = scores.values["dice"][i]
    lowest = scores.labels[int(np.nanargmin(dice))] if not np.isnan(dice).all() else NONE
    return [lowest, *(number(value) for value in dice)]
