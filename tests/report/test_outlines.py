"""Outlines: along the borders of pixels, closed, and enclosing exactly the mask."""

import re

import numpy as np
from report_helpers import corners, fill

from mednextv2.report.outlines import outline

HAND_MADE = np.array(
    [
        [1, 1, 0, 0, 0, 0, 1],
        [1, 0, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0, 1],
        [0, 0, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 1, 0],
    ],
    dtype=bool,
)


def test_outline_of_a_pixel_and_of_a_box():
    assert outline(np.array([[1]])) == "M0 0h1v1h-1z"
    assert outline(np.pad(np.ones((2, 3)), 1)) == "M1 1h3v2h-3z"
    assert outline(np.zeros((3, 3))) == ""


def test_pixels_that_touch_at_a_corner_have_outlines_of_their_own():
    assert outline(np.eye(2)) == "M0 0h1v1h-1zM1 1h1v1h-1z"
    assert outline(np.eye(2)[::-1]) == "M1 0h1v1h-1zM0 1h1v1h-1z"


def test_outline_encloses_exactly_the_mask():
    np.testing.assert_array_equal(fill(outline(HAND_MADE), HAND_MADE.shape), HAND_MADE)
    # five pieces that touch at corners alone, and the hole of the ring; the other one is open at its corner
    assert len(corners(outline(HAND_MADE))) == 5 + 1


def test_outlines_of_random_masks_enclose_them():
    rng = np.random.default_rng(0)
    for n in range(60):
        mask = rng.random((rng.integers(1, 15), rng.integers(1, 15))) < 0.2 + 0.01 * n
        path = outline(mask)
        np.testing.assert_array_equal(fill(path, mask.shape), mask)
        sides = sum(abs(int(step)) for step in re.findall(r"[hv](-?\d+)", path))
        padded = np.pad(mask, 1).astype(int)
        borders = np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
        closing = sum(abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in ((c[0], c[-1]) for c in corners(path)))
        assert sides + closing == borders  # no side twice
