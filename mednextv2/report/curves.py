"""Curves over epochs: what they draw, and where."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mednextv2.report.axis import WIDTH, Axis


@dataclass(frozen=True)
class Line:
    """A curve: its name, and its points `(x, y)` in the chart."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Curves:
    """Curves over epochs.

    Attributes:
        name: What they are, for readers of the page by ear.
        width: Of the chart; all places are in this unit.
        height: Of the chart.
        left: Where lines of the grid start.
        right: Where they end.
        epochs: Place and value of each number along the epochs.
        values: Likewise along the values, one a line of the grid.
        lines: The curves, the one in front first.
    """

    name: str
    width: float
    height: float
    left: float
    right: float
    epochs: list[tuple[float, float]]
    values: list[tuple[float, float]]
    lines: list[Line]


def curves(name: str, x: np.ndarray, lines: Sequence[tuple[str, np.ndarray]]) -> Curves:
    """Lay out one or two curves over epochs.

    Args:
        name: What they are, for readers of the page by ear.
        x: Epochs.
        lines: Name and values of each; NaN is left out.
    """
    height, left, right, bottom = 214, 46, WIDTH - 10, 34
    known = np.concatenate([y[np.isfinite(y)] for _, y in lines])
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.05 * (abs(high) or 1)
    across = Axis(float(x.min()), float(x.max()) + (x.min() == x.max()), left, right)
    up = Axis(low - pad, high + pad, height - bottom, 8)
    drawn = []
    for line, y in lines:
        there = np.isfinite(y) & np.isfinite(x)
        points = zip(x[there].tolist(), y[there].tolist(), strict=True)
        drawn.append(Line(line, [(across.at(a), up.at(b)) for a, b in points]))
    return Curves(
        name=name,
        width=WIDTH,
        height=height,
        left=left,
        right=right,
        epochs=[(across.at(tick), tick) for tick in across.ticks() if tick == int(tick)],
        values=[(up.at(tick), tick) for tick in up.ticks()],
        lines=drawn,
    )
