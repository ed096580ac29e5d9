"""Curves over epochs: their content and its positions."""

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
        name: The name of the curves, for screen readers.
        width: The width of the chart; all positions are in this unit.
        height: The height of the chart.
        left: The position at which the grid lines start.
        right: The position at which they end.
        epochs: The position and value of each number along the epochs.
        values: The position and value of each grid line along the values.
        lines: The curves, the one in front first.
        joints: The position of the end of a training that the next continues, and what it was.
    """

    name: str
    width: float
    height: float
    left: float
    right: float
    epochs: list[tuple[float, float]]
    values: list[tuple[float, float]]
    lines: list[Line]
    joints: list[tuple[float, str]]


def curves(
    name: str, x: np.ndarray, lines: Sequence[tuple[str, np.ndarray]], joints: Sequence[tuple[int, str]] = ()
) -> Curves:
    """Lay out one or two curves over epochs.

    Args:
        name: The name of the curves, for screen readers.
        x: The epochs.
        lines: The name and the values of each curve; NaN is left out.
        joints: The epoch at which a training ended that the next continues, and what it was.
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
        joints=[(across.at(epoch), text) for epoch, text in joints],
    )
