"""The figure of a comparison: Dice of all runs, and of pretrained networks the Dice from scratch beside it. SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from mednextv2.comparison.results import Result
from mednextv2.report.axis import Axis
from mednextv2.report.number_format import number

_CHART, _ROW, _TOP = 400, 34, 52
_CHARACTER = 8  # width of a character of a name, generously
_SQUARE, _LEFT, _HEAD, _BELOW = 420, 64, 74, 70


@dataclass(frozen=True)
class Row:
    """A network in the figure of all runs: positions along the axis, and texts."""

    name: str
    y: float
    mean: float
    low: float
    high: float
    runs: list[float]
    text: str


@dataclass(frozen=True)
class Point:
    """A network in the figure of pretraining: its position, the ends of its deviations, and its texts."""

    name: str
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    text: str


def draw_runs(results: Sequence[Result], title: str) -> str:
    """Return a figure with one row for each network that has runs: its runs, their mean and standard deviation.

    Args:
        results: The results, in the order of the rows.
        title: The title of the figure.
    """
    shown = [r for r in results if r.runs]
    names = 28 + _CHARACTER * max([16, *(len(r.entry.name) for r in shown)])
    axis = _axis([run.dice for r in shown for run in r.runs], names, names + _CHART)
    rows = []
    for n, r in enumerate(shown):
        mean, deviation = r.mean("dice"), r.deviation("dice")
        spread = 0.0 if math.isnan(deviation) else deviation
        text = number(mean) if math.isnan(deviation) else f"{number(mean)} ± {number(deviation)}"
        rows.append(
            Row(
                r.entry.name, _TOP + _ROW * (n + 0.5), axis.at(mean), axis.at(max(axis.low, mean - spread)),
                axis.at(min(axis.high, mean + spread)), [axis.at(run.dice) for run in r.runs], text,
            )
        )  # fmt: skip
    bottom = _TOP + _ROW * len(rows)
    ticks = [(axis.at(tick), f"{tick:.6g}") for tick in axis.ticks()]
    return _template("runs.svg.j2").render(
        title=title, width=names + _CHART + 130, height=bottom + 48, names=names - 12, end=names + _CHART + 12,
        top=_TOP, bottom=bottom, ticks=ticks, rows=rows,
    )  # fmt: skip


def draw_pretraining(pairs: Sequence[tuple[Result, Result]], title: str) -> str:
    """Return a figure with one point for each file of weights: Dice from scratch along x, fine-tuned along y.

    Args:
        pairs: The results of each network from scratch and fine-tuned.
        title: The title of the figure.
    """
    values = [r.mean("dice") + s * _deviation(r) for pair in pairs for r in pair for s in (-1, 0, 1)]
    across = _axis(values, _LEFT, _LEFT + _SQUARE)
    up = Axis(across.low, across.high, _HEAD + _SQUARE, _HEAD)
    points = []
    for scratch, tuned in pairs:
        x, y, dx, dy = scratch.mean("dice"), tuned.mean("dice"), _deviation(scratch), _deviation(tuned)
        points.append(
            Point(
                _point_name(tuned), across.at(x), up.at(y), across.at(max(across.low, x - dx)),
                across.at(min(across.high, x + dx)), up.at(min(up.high, y + dy)), up.at(max(up.low, y - dy)),
                f"{_point_name(tuned)}: {number(x)} from scratch, {number(y)} fine-tuned",
            )
        )  # fmt: skip
    ticks = [(across.at(tick), up.at(tick), f"{tick:.6g}") for tick in across.ticks()]
    return _template("pretraining.svg.j2").render(
        title=title, width=_LEFT + _SQUARE + 190, height=_HEAD + _SQUARE + _BELOW, left=_LEFT, right=_LEFT + _SQUARE,
        top=_HEAD, bottom=_HEAD + _SQUARE, ticks=ticks, points=points,
    )  # fmt: skip


def _point_name(tuned: Result) -> str:
    return tuned.entry.name if tuned.entry.start else tuned.entry.network


def _deviation(r: Result) -> float:
    deviation = r.deviation("dice")
    return 0.0 if math.isnan(deviation) else deviation


def _axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Return an axis that holds all values with a margin, within 0 and 1, and is never of no length."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    margin = 0.1 * (max(known) - min(known)) or 0.02
    return Axis(max(0.0, min(known) - margin), min(1.0, max(known) + margin), start, end)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("mednextv2.comparison", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip


def _template(name: str):
    return _environment().get_template(name)
