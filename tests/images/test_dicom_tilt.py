"""Slices of a tilted gantry: at right angles for the network, and labels back on the slices."""

import numpy as np
import pytest
from scipy import ndimage

from mednextv2.images.dicom_tilt import is_tilted, straighten, tilt_degrees, to_slices, without_shear

SHAPE = (20, 24, 9)


def sheared(columns=0.0, rows=0.0, spacing=(0.8, 1.1, 2.5)):
    """Return an affine whose slices move aside by these angles in degrees."""
    affine = np.diag([*spacing, 1.0])
    affine[0, 2], affine[1, 2] = (np.tan(np.radians(angle)) * spacing[2] for angle in (columns, rows))
    affine[:3, 3] = -7.0, 11.0, 40.0
    return affine


def places(affine, shape):
    """Return the millimetres of each voxel, `(3, X, Y, Z)`."""
    return np.tensordot(affine[:3, :3], np.indices(shape), axes=1) + affine[:3, 3].reshape(3, 1, 1, 1)


@pytest.mark.parametrize(("columns", "rows"), [(0, 14.0), (0, -14.0), (-20.0, 0), (9.0, 5.0)])
def test_values_lie_where_they_were_measured(columns, rows):
    affine = sheared(columns, rows)
    weights = np.array([3.0, -2.0, 0.5]).reshape(3, 1, 1, 1)
    voxels = (weights * places(affine, SHAPE)).sum(axis=0) + 500  # linear in space, so that interpolation is exact
    straight, found = straighten(voxels.astype(np.float32), affine)
    assert tilt_degrees(found) == pytest.approx(0, abs=1e-9)
    assert straight.dtype == np.float32
    expected = (weights * places(found, straight.shape)).sum(axis=0) + 500
    # where the slices were: one voxel from the border inwards, everything is measured
    back = np.linalg.inv(affine) @ np.concatenate(
        [places(found, straight.shape).reshape(3, -1), np.ones((1, straight.size))]
    )
    limits = np.array(SHAPE[:2]).reshape(2, 1) - 1
    inside = ((back[:2] >= 1) & (back[:2] <= limits - 1)).all(axis=0).reshape(straight.shape)
    outside = ((back[:2] < -1) | (back[:2] > limits + 1)).any(axis=0).reshape(straight.shape)
    np.testing.assert_allclose(straight[inside], expected[inside], atol=0.01)
    np.testing.assert_array_equal(straight[outside], voxels.astype(np.float32).min())
    assert inside.mean() > 0.4
    assert outside.any()


@pytest.mark.parametrize(("columns", "rows"), [(0, 14.0), (-20.0, 0), (9.0, -5.0)])
def test_labels_come_back_to_the_nearest_voxel_of_the_slices(columns, rows):
    affine = sheared(columns, rows)
    straight, found = straighten(np.random.default_rng(0).random(SHAPE, np.float32), affine)
    for axis in (0, 1):  # each voxel of the grid is labelled with its own column or row
        numbers = np.broadcast_to(np.indices(straight.shape)[axis], straight.shape)
        back = to_slices(numbers, affine, SHAPE)
        millimetres = places(affine, SHAPE)[axis]
        there = back * found[axis, axis] + found[axis, 3]
        assert np.abs(there - millimetres).max() <= 0.5 * found[axis, axis] + 1e-6
    slices = to_slices(np.broadcast_to(np.arange(SHAPE[2]), straight.shape), affine, SHAPE)
    assert (slices == np.arange(SHAPE[2])).all()


def test_a_ball_goes_there_and_back():
    affine = sheared(rows=18.0, spacing=(1.0, 1.0, 2.0))
    shape = (40, 40, 16)
    centre = places(affine, shape)[:, 20, 20, 8].reshape(3, 1, 1, 1)
    ball = np.linalg.norm(places(affine, shape) - centre, axis=0) < 9
    straight, found = straighten(ball.astype(np.float32), affine)
    upright = np.linalg.norm(places(found, straight.shape) - centre, axis=0) < 9
    assert 2 * (upright & (straight > 0.5)).sum() / (upright.sum() + (straight > 0.5).sum()) > 0.97
    back = to_slices((straight > 0.5).astype(np.uint8), affine, shape) > 0
    assert 2 * (back & ball).sum() / (back.sum() + ball.sum()) > 0.97
    np.testing.assert_allclose(ndimage.center_of_mass(back), ndimage.center_of_mass(ball), atol=0.2)


def test_right_angles_stay_as_they_are():
    voxels, affine = np.zeros(SHAPE, np.float32), sheared()
    assert straighten(voxels, affine)[0] is voxels
    np.testing.assert_array_equal(without_shear(affine), affine)
    labels = np.random.default_rng(0).integers(0, 3, SHAPE, dtype=np.uint8)
    np.testing.assert_array_equal(to_slices(labels, affine, SHAPE), labels)
    assert not is_tilted(affine)
    assert is_tilted(sheared(rows=0.6))


@pytest.mark.parametrize("angle", [0.6, 14.0, -20.0, 45.0])
def test_the_angle_is_that_of_the_gantry(angle):
    assert tilt_degrees(sheared(rows=angle)) == pytest.approx(abs(angle))
    assert tilt_degrees(sheared(columns=angle)) == pytest.approx(abs(angle))
