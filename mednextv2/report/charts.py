"""Charts as SVG: box plots with single cases, and curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mednextv2.report.markup import number, text

_WIDTH = 400
_NAMES = 120  # for the names of structures
_CHARACTERS = 15  # of a name; the whole one is in its tooltip
_TOOLTIPS = 1500  # cases with a tooltip in a chart; beyond that only the worst of each structure
_WORST = 5
_TALL = 24  # structures from which the axis stands at the top, too
_LOG_FROM = 12.0  # times the median: a distance that far out is shown on a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """Values along a line, linear or as log(1 + value).

    Attributes:
        low: First value.
        high: Last value.
        start: Its place.
        end: The last value's place.
        log: Logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return where a value is."""
        low, high, value = (math.log1p(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values, about five."""
        if self.log:
            return [0.0] + [v for d in range(5) for v in (10.0**d, 3 * 10.0**d) if v <= self.high]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        step *= next(m for m in (1, 2, 2.5, 5, 10) if m * step * 5 >= (self.high - self.low) * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def box_plots(
    title: str, labels: Sequence[str], cases: Sequence[str], values: np.ndarray, unit: str = "", score: bool = False
) -> str:
    """Draw a box plot a structure, with its cases as dots.

    Boxes go from quartile to quartile of the finite values, whiskers to the last value within 1.5 times that length.
    Infinite values stand on a line of their own.

    Args:
        title: What the values are.
        labels: Structures.
        cases: Names, for tooltips.
        values: `(cases, structures)`; NaN is left out.
        unit: Of the values.
        score: The best is 1, the worst 0; else the best is 0.
    """
    row = 44 if len(labels) <= 4 else 30 if len(labels) <= 12 else 19
    finite = values[np.isfinite(values)]
    infinite = bool(np.isinf(values).any())
    axis = _axis(finite, score, _WIDTH - (34 if infinite else 14))
    top = 20 if len(labels) > _TALL else 6
    height = top + row * len(labels) + 22
    parts = [_grid(axis, top, height - 22, number_ticks_above=len(labels) > _TALL)]
    if infinite:
        parts += [_tick(_WIDTH - 14, y, "∞") for y in (height - 8, *([top - 6] if len(labels) > _TALL else []))]
    if axis.log:
        parts.append(_tick(_NAMES - 8, height - 8, "log scale", "end"))
    tooltips = np.count_nonzero(~np.isnan(values)) <= _TOOLTIPS
    for n, label in enumerate(labels):
        y = top + row * (n + 0.5)
        name = f"{text(_shorten(label))}<title>{text(label)}</title>"
        parts.append(f'<text x="{_NAMES - 8}" y="{y + 4:g}" text-anchor="end">{name}</text>')
        column = values[:, n]
        cloud, spots = _dots(axis, column, cases, y, row, unit, score, tooltips)
        parts += [cloud, _box(axis, column[np.isfinite(column)], y, row), spots]
    name = f"{title}: box plots of {len(labels)} structures, {len(cases)} cases"
    return _svg(name, height, parts)


def curves(title: str, x: np.ndarray, lines: Sequence[tuple[str, np.ndarray]]) -> str:
    """Draw one or two curves over epochs.

    Args:
        title: What they are, for readers of the page by ear.
        x: Epochs.
        lines: Name and values of each; NaN is left out.
    """
    height, left, bottom = 214, 46, 34
    known = np.concatenate([y[np.isfinite(y)] for _, y in lines])
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.05 * (abs(high) or 1)
    across = Axis(float(x.min()), float(x.max()) + (x.min() == x.max()), left, _WIDTH - 10)
    up = Axis(low - pad, high + pad, height - bottom, 8)
    parts = []
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{_WIDTH - 10}"/>')
        parts.append(_tick(left - 6, y + 4, f"{tick:g}", "end"))
    parts += [_tick(across.at(tick), height - 17, f"{tick:g}") for tick in across.ticks() if tick == int(tick)]
    parts.append(_tick((left + _WIDTH) / 2, height - 4, "epoch"))
    for kind, (_, y) in reversed(list(zip(("first", "second"), lines, strict=False))):
        there = np.isfinite(y) & np.isfinite(x)
        points = " ".join(f"{across.at(a):.1f},{up.at(b):.1f}" for a, b in zip(x[there], y[there], strict=True))
        if there.sum() == 1:
            a, b = points.split(",")
            parts.append(f'<circle class="{kind}" cx="{a}" cy="{b}" r="2.5"/>')
        elif points:
            parts.append(f'<polyline class="{kind}" points="{points}"/>')
    return _svg(title, height, parts)


def _shorten(name: str) -> str:
    """Leave out the middle of a long name: those of a data set often differ at the end."""
    half = (_CHARACTERS - 1) // 2
    return name if len(name) <= _CHARACTERS else f"{name[:half]}…{name[-half:]}"


def _tick(x: float, y: float, what: str, anchor: str = "middle") -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{what}</text>'


def _axis(finite: np.ndarray, score: bool, end: float) -> Axis:
    if score:
        low = math.floor(10 * float(finite.min())) / 10 if finite.size else 0.0
        return Axis(min(low, 0.9), 1.0, _NAMES + 6, end)
    high = max(float(finite.max()), 1.0) if finite.size else 1.0
    log = bool(finite.size) and high > _LOG_FROM * max(float(np.median(finite)), 0.5)
    return Axis(0.0, high, _NAMES + 6, end, log)


def _grid(axis: Axis, top: float, bottom: float, number_ticks_above: bool) -> str:
    parts = []
    for tick in axis.ticks():
        x = axis.at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {top}V{bottom:g}"/>')
        for y in (bottom + 14, *([top - 6] if number_ticks_above else [])):
            parts.append(_tick(x, y, f"{tick:g}"))
    return "".join(parts)


def _box(axis: Axis, finite: np.ndarray, y: float, row: float) -> str:
    if finite.size < 2:
        return ""
    first, median, third = np.percentile(finite, (25, 50, 75))
    reach = 1.5 * (third - first)
    low, high = finite[finite >= first - reach].min(), finite[finite <= third + reach].max()
    half = 0.36 * row
    a, b, c, d, e = (axis.at(v) for v in (low, first, median, third, high))
    return (
        f'<path class="whisker" d="M{a:.1f} {y:g}H{b:.1f}M{d:.1f} {y:g}H{e:.1f}"/>'
        f'<rect class="box" x="{b:.1f}" y="{y - half:.1f}" width="{max(d - b, 0.5):.1f}" height="{2 * half:.1f}"/>'
        f'<path class="median" d="M{c:.1f} {y - half:.1f}v{2 * half:.1f}"/>'
    )


def _dots(
    axis: Axis, column: np.ndarray, cases: Sequence[str], y: float, row: float, unit: str, score: bool, tooltips: bool
) -> tuple[str, str]:
    """Draw the cases, spread over the box's height so that equal values stay apart: those without tooltip, and with."""
    there = np.flatnonzero(~np.isnan(column))
    places = {
        int(i): (
            axis.at(float(column[i])) if np.isfinite(column[i]) else _WIDTH - 14,
            y + 0.56 * row * ((0.618034 * n) % 1 - 0.5),
        )
        for n, i in enumerate(there)
    }
    worst_first = there[np.argsort(column[there] if score else -column[there], kind="stable")]
    named = there if tooltips else worst_first[:_WORST]
    spots = "".join(
        f'<circle class="dot" cx="{places[i][0]:.1f}" cy="{places[i][1]:.1f}" r="2.6">'
        f"<title>{text(cases[i])}: {number(float(column[i]))}{unit and ' ' + unit}</title></circle>"
        for i in map(int, named)
    )
    rest = "" if tooltips else "".join(f"M{a:.0f} {b:.0f}h0" for a, b in places.values())
    return (f'<path class="dots" d="{rest}"/>' if rest else ""), spots


def _svg(name: str, height: float, parts: Sequence[str]) -> str:
    content = "\n".join(part for part in parts if part)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{text(name)}">\n{content}\n</svg>'
    )
