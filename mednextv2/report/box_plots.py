"""Box plots with single cases: their content and its positions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mednextv2.report.axis import WIDTH, Axis
from mednextv2.report.number_format import number

_NAMES = 120  # width for the names of structures
_CHARACTERS = 15  # number of characters of a name that are shown; its tooltip has all of it
_MANY = 24  # from this many structures, the axis is also shown at the top
_TOOLTIPS = 1500  # most cases with a tooltip in a chart; with more, only the worst of each structure have one
_WORST = 5
_LOG_FROM = 12.0  # if a distance is more than this many times the median, the axis is logarithmic


@dataclass(frozen=True)
class Box:
    """Positions along the axis: the ends of the whiskers, the quartiles, the median."""

    low: float
    first: float
    median: float
    third: float
    high: float


@dataclass(frozen=True)
class Dot:
    """A case that has a tooltip: its position, its name and its value as text."""

    x: float
    y: float
    case: str
    value: str


@dataclass(frozen=True)
class BoxRow:
    """One structure of a box plot.

    Attributes:
        label: The name of the structure.
        short: The name, shortened to fit.
        y: The middle of its row.
        box: The box; None for fewer than two finite values.
        cloud: All cases as an SVG path with one point each, if they are too many for tooltips; else empty.
        dots: The cases that have a tooltip.
    """

    label: str
    short: str
    y: float
    box: Box | None
    cloud: str
    dots: list[Dot]


@dataclass(frozen=True)
class BoxPlots:
    """One box plot for each structure.

    Attributes:
        title: The name of the values.
        unit: The unit of the values.
        cases: The number of cases.
        width: The width of the chart; all positions are in this unit.
        height: The height of the chart.
        names_end: The position at which the names of structures end.
        row_height: The height of the row of a structure.
        top: The position at which the grid lines start.
        bottom: The position at which they end.
        ticks: The position and value of each line.
        log: Whether the axis is logarithmic.
        infinite: The position of infinite values, or None if there are none.
        rows: The structures.
        many: Whether there are so many structures that the chart scrolls by itself and also has the axis at the top.
    """

    title: str
    unit: str
    cases: int
    width: float
    height: float
    names_end: float
    row_height: float
    top: float
    bottom: float
    ticks: list[tuple[float, float]]
    log: bool
    infinite: float | None
    rows: list[BoxRow]
    many: bool


def box_plots(
    title: str, labels: Sequence[str], cases: Sequence[str], values: np.ndarray, unit: str = "", score: bool = False
) -> BoxPlots:
    """Lay out one box plot for each structure, with its cases as dots.

    Boxes go from quartile to quartile of the finite values, whiskers to the last value within 1.5 times that length.
    Infinite values are on a separate line.

    Args:
        title: The name of the values.
        labels: The names of the structures.
        cases: The names of the cases, for tooltips.
        values: The values, `(cases, structures)`; NaN is left out.
        unit: The unit of the values.
        score: Whether the best value is 1 and the worst 0; otherwise, the best is 0.
    """
    row_height = 44 if len(labels) <= 4 else 30 if len(labels) <= 12 else 19
    many = len(labels) > _MANY
    infinite = WIDTH - 14 if np.isinf(values).any() else None
    axis = _value_axis(values[np.isfinite(values)], score, WIDTH - 14 if infinite is None else WIDTH - 34)
    top = 20 if many else 6
    bottom = top + row_height * len(labels)
    tooltips = np.count_nonzero(~np.isnan(values)) <= _TOOLTIPS
    rows = []
    for n, label in enumerate(labels):
        column, y = values[:, n], top + row_height * (n + 0.5)
        box = _box(axis, column[np.isfinite(column)])
        places = _spread(axis, infinite, column, y, 0.56 * row_height)
        named = list(places) if tooltips else _worst(column, score)
        dots = [Dot(*places[i], cases[i], number(float(column[i]))) for i in named]
        cloud = "" if tooltips else "".join(f"M{a:.0f} {b:.0f}h0" for a, b in places.values())
        rows.append(BoxRow(label, _shorten(label), y, box, cloud, dots))
    return BoxPlots(
        title=title,
        unit=unit,
        cases=len(cases),
        width=WIDTH,
        height=bottom + 22,
        names_end=_NAMES - 8,
        row_height=row_height,
        top=top,
        bottom=bottom,
        ticks=[(axis.at(tick), tick) for tick in axis.ticks()],
        log=axis.log,
        infinite=infinite,
        rows=rows,
        many=many,
    )


def _value_axis(finite: np.ndarray, score: bool, end: float) -> Axis:
    if score:
        low = math.floor(10 * float(finite.min())) / 10 if finite.size else 0.0
        return Axis(min(low, 0.9), 1.0, _NAMES + 6, end)
    high = max(float(finite.max()), 1.0) if finite.size else 1.0
    log = bool(finite.size) and high > _LOG_FROM * max(float(np.median(finite)), 0.5)
    return Axis(0.0, high, _NAMES + 6, end, log)


def _box(axis: Axis, finite: np.ndarray) -> Box | None:
    if finite.size < 2:
        return None
    first, median, third = np.percentile(finite, (25, 50, 75))
    reach = 1.5 * (third - first)
    low, high = finite[finite >= first - reach].min(), finite[finite <= third + reach].max()
    return Box(*(axis.at(float(value)) for value in (low, first, median, third, high)))


def _worst(column: np.ndarray, score: bool) -> list[int]:
    there = np.flatnonzero(~np.isnan(column))
    order = np.argsort(column[there] if score else -column[there], kind="stable")
    return there[order[:_WORST]].tolist()


def _shorten(name: str) -> str:
    """Leave out the middle of a long name, since the names in a data set often differ at the end."""
    half = (_CHARACTERS - 1) // 2
    return name if len(name) <= _CHARACTERS else f"{name[:half]}…{name[-half:]}"


def _spread(
    axis: Axis, infinite: float | None, column: np.ndarray, y: float, height: float
) -> dict[int, tuple[float, float]]:
    """Return the positions of cases by index, spread over the box's height so that equal values stay apart."""
    places = {}
    for n, i in enumerate(np.flatnonzero(~np.isnan(column))):
        x = axis.at(float(column[i])) if np.isfinite(column[i]) else infinite
        if x is not None:
            places[int(i)] = (x, y + height * ((0.618034 * n) % 1 - 0.5))
    return places
