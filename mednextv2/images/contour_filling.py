"""Closed contours in the plane of a slice, filled: a voxel belongs to a structure if its centre lies inside.

Libraries that draw polygons for pictures also fill the pixels that an edge touches. A structure then grows by half a
pixel all around, which costs small structures up to 0.4 of their Dice. Libraries that test whether points are inside
need as many steps as pixels times corners, and may count a centre on the edge of two neighbours for both.
"""

from collections.abc import Iterable, Sequence

import numpy as np


def fill_polygon(corners: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return which pixel centres lie inside a polygon, by the even-odd rule.

    A centre that lies exactly on an edge is inside if the polygon is on the side of larger columns, or, on a horizontal
    edge, of larger rows. Of two polygons that share an edge, exactly one therefore contains it, and an edge that is
    passed in both directions, as the bridge of a keyhole contour, has no effect.

    Args:
        corners: `(N, 2)`, column and row; pixel centres are at whole numbers. The last corner is joined to the first.
        shape: The number of columns and rows.

    Returns:
        A mask, `(columns, rows)`.

    Example:
        >>> fill_polygon(np.array([(0.5, 0.5), (2.5, 0.5), (2.5, 1.5), (0.5, 1.5)]), (4, 3)).astype(int).T
        array([[0, 0, 0, 0],
               [0, 1, 1, 0],
               [0, 0, 0, 0]])
    """
    columns, rows = shape
    start, end = corners, np.roll(corners, -1, axis=0)
    down = (start[:, 1] <= end[:, 1])[:, None]
    low, high = np.where(down, start, end), np.where(down, end, start)  # the same numbers in both directions
    first = np.clip(np.ceil(low[:, 1]), 0, rows).astype(int)
    last = np.clip(np.ceil(high[:, 1]), 0, rows).astype(int)
    number = last - first  # of the rows that an edge crosses
    edge = np.repeat(np.arange(len(corners)), number)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(number) - number, number) + first[edge]
    (x0, y0), (x1, y1) = low[edge].T, high[edge].T
    crossing = x0 + (row - y0) * ((x1 - x0) / (y1 - y0))
    column = np.clip(np.ceil(crossing), 0, columns).astype(int)
    crossed = np.bincount(row * (columns + 1) + column, minlength=rows * (columns + 1))
    inside = np.cumsum(crossed.reshape(rows, columns + 1), axis=1) % 2 == 1
    return inside[:, :columns].T


def fill_contours(contours: Iterable[np.ndarray], shape: Sequence[int]) -> tuple[np.ndarray, int]:
    """Fill the contours of one structure on one slice: one within another is a hole, and one within a hole an island.

    Args:
        contours: Polygons as of :func:`fill_polygon`, none of which is there twice.
        shape: The number of columns and rows.

    Returns:
        The mask `(columns, rows)`; and the number of pixels where contours overlap of which none lies within the other.
        They are left out of the mask, as DICOM's even-odd rule demands.
    """
    mask = np.zeros(tuple(shape), bool)
    filled = []
    for corners in contours:
        low = np.clip(np.floor(corners.min(axis=0)), 0, shape).astype(int)
        high = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, shape).astype(int)
        if (high > low).all():
            filled.append((low, high, fill_polygon(corners - low, high - low)))
    odd = 0
    for low, high, part in sorted(filled, key=lambda found: -int(found[2].sum())):
        box = mask[low[0] : high[0], low[1] : high[1]]
        both = int(np.count_nonzero(box & part))
        if both and both < np.count_nonzero(part):
            odd += both
        box ^= part
    return mask, odd
