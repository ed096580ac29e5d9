"""Filled contours: a pixel is inside if its centre is, which SciPy's and scikit-image's tests of points confirm."""

import numpy as np
import pytest
from skimage.measure import grid_points_in_poly

from mednextv2.images.contour_filling import fill_contours, fill_polygon


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def centres(shape):
    return np.indices(shape).astype(float)


@pytest.mark.parametrize("seed", range(8))
def test_random_polygons_are_filled_as_scikit_image_does(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-5, 35, (rng.integers(3, 40), 2))  # which cross themselves, and leave the image
    shape = (31, 27)
    expected = grid_points_in_poly(shape, corners)  # also even-odd; no corner or edge lies on a centre
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(fill_polygon(corners, shape), expected)
    np.testing.assert_array_equal(fill_polygon(corners[::-1], shape), expected)  # in the other direction


@pytest.mark.parametrize("radius", [1.3, 4.2, 11.7])
def test_an_ellipse_is_the_analytic_one(radius):
    angle = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    corners = np.stack([15.23 + radius * np.cos(angle), 13.71 + 0.6 * radius * np.sin(angle)], axis=1)
    x, y = centres((32, 30))
    inside = ((x - 15.23) / radius) ** 2 + ((y - 13.71) / (0.6 * radius)) ** 2 < 1
    np.testing.assert_array_equal(fill_polygon(corners, (32, 30)), inside)


def test_pixels_that_an_edge_only_touches_are_outside():
    corners = np.array([(2.6, 2.6), (5.4, 2.6), (5.4, 5.4), (2.6, 5.4)])  # of 2.8 pixels, with the centres 3, 4 and 5
    assert fill_polygon(corners, (9, 9)).sum() == 9
    assert fill_polygon(corners * 0 + corners.mean(axis=0), (9, 9)).sum() == 0  # of no area


def test_a_centre_on_a_common_edge_belongs_to_one_of_two_neighbours():
    left = np.array([(1.0, 1.0), (4.0, 1.0), (4.0, 5.0), (1.0, 5.0)])
    right = np.array([(4.0, 5.0), (4.0, 1.0), (8.0, 1.0), (8.0, 5.0)])
    both = np.array([(1.0, 1.0), (8.0, 1.0), (8.0, 5.0), (1.0, 5.0)])
    parts = [fill_polygon(corners, (10, 7)) for corners in (left, right)]
    assert not (parts[0] & parts[1]).any()
    np.testing.assert_array_equal(parts[0] | parts[1], fill_polygon(both, (10, 7)))
    assert fill_polygon(both, (10, 7)).sum() == 7 * 4  # as many as its area


def test_a_keyhole_contour_has_a_hole():
    outer = [(1, 1), (11, 1), (11, 11), (1, 11), (1, 1)]
    inner = [(4, 4), (4, 8), (8, 8), (8, 4), (4, 4)]
    keyhole = np.array([*outer, *inner], float) + 0.5  # from the last corner back to the first, along the same bridge
    x, y = centres((14, 14))
    ring = (x > 1.5) & (x < 11.5) & (y > 1.5) & (y < 11.5) & ~((x > 4.5) & (x < 8.5) & (y > 4.5) & (y < 8.5))
    np.testing.assert_array_equal(fill_polygon(keyhole, (14, 14)), ring)
    on_centres = keyhole - 0.5  # the bridge runs through centres
    assert fill_polygon(on_centres, (14, 14)).sum() == 10 * 10 - 4 * 4


def square(low, high):
    return np.array([(low, low), (high, low), (high, high), (low, high)], float)


def test_contours_in_others_are_holes_and_islands():
    mask, odd = fill_contours([square(6.5, 8.5), square(0.5, 14.5), square(3.5, 11.5)], (16, 16))
    assert odd == 0
    assert mask.sum() == 14**2 - 8**2 + 2**2
    assert mask[7, 7]
    assert not mask[5, 5]
    assert mask[2, 2]


def test_contours_that_overlap_in_part_are_told():
    mask, odd = fill_contours([square(0.5, 4.5), square(2.5, 6.5)], (9, 9))
    assert odd == 4
    assert mask.sum() == 2 * (16 - 4)


def test_contours_outside_of_the_slice_are_nothing():
    mask, odd = fill_contours([square(-9.5, -3.5), square(12.5, 15.5), square(-3.5, 2.5)], (9, 8))
    assert odd == 0
    assert mask.sum() == 9
    assert mask.shape == (9, 8)
    assert not fill_contours([], (3, 2))[0].any()


def test_small_structures_lose_nothing():
    """A rasteriser that takes edge pixels in makes 16 or 25 pixels of these nine."""
    for shift in np.linspace(-0.45, 0.45, 7):
        mask = fill_polygon(square(2.5 + shift * 0.99, 5.5 + shift * 0.99), (9, 9))
        assert mask.sum() == 9
        assert dice(mask, fill_polygon(square(2.5, 5.5), (9, 9))) == 1
