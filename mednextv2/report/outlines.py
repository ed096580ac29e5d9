"""Outlines of masks along the borders of their pixels."""

import numpy as np


def outline(mask: np.ndarray) -> str:
    """Return the outline of a mask as an SVG path.

    Args:
        mask: A boolean mask, `(rows, columns)`.

    Returns:
        Closed loops along the borders of pixels, in pixels: x is the left border of a column and y the upper border of
        a row. The mask is to the right of the path's direction, so either fill rule fills it. Pixels that touch only at
        a corner are separate. The path of an empty mask is empty.
    """
    return "".join(_as_path(loop) for loop in _loops(_borders(np.asarray(mask, dtype=bool))))


def _borders(mask: np.ndarray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the pixels' sides between inside and outside: steps `(dy, dx)` by their first corner `(y, x)`."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = (  # the neighbour beyond the side, the corner where it starts, the step
        (padded[:-2, 1:-1], (0, 0), (0, 1)),
        (padded[1:-1, 2:], (0, 1), (1, 0)),
        (padded[2:, 1:-1], (1, 1), (0, -1)),
        (padded[1:-1, :-2], (1, 0), (-1, 0)),
    )
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for neighbour, (y, x), step in sides:
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            steps.setdefault((row + y, column + x), []).append(step)
    return steps


def _loops(steps: dict[tuple[int, int], list[tuple[int, int]]]) -> list[list[tuple[int, int]]]:
    """Join the sides into closed loops of corners `(y, x)`, with straight runs in one piece."""
    loops = []
    for start in sorted(steps):  # the uppermost corner of a loop is a bend, and each loop is found only once
        if start not in steps:
            continue
        place, before, corners = start, None, []
        while before is None or place != start:
            step = _next(steps[place], before)
            steps[place].remove(step)
            if not steps[place]:
                del steps[place]
            if step != before:
                corners.append(place)
            place, before = (place[0] + step[0], place[1] + step[1]), step
        loops.append(corners)
    return loops


def _next(choices: list[tuple[int, int]], before: tuple[int, int] | None) -> tuple[int, int]:
    """Choose the next step; where two pixels touch at a corner, turn right, around the same pixel."""
    if before is not None and len(choices) > 1:
        right = (before[1], -before[0])
        return right if right in choices else choices[0]
    return choices[0]


def _as_path(corners: list[tuple[int, int]]) -> str:
    (y, x), path = corners[0], f"M{corners[0][1]} {corners[0][0]}"
    for v, u in corners[1:]:
        path += f"h{u - x}" if v == y else f"v{v - y}"
        y, x = v, u
    return path + "z"
