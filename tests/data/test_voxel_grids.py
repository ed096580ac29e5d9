"""Grids of voxels: their spacing, what makes one impossible, and where two differ."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from check_helpers import OBLIQUE, SHAPE, noise, times

from mednextv2.data.check import check_image
from mednextv2.data.voxel_grids import check_affine, compare_grids, oriented_spacing


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_spacing_is_along_right_anterior_superior_whatever_the_order_of_the_axes(axes, signs):
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for voxel_axis, (world, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[world, voxel_axis] = sign * (0.7, 1.5, 4.0)[world]
    assert oriented_spacing(affine) == pytest.approx((0.7, 1.5, 4.0))


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_spacing_of_an_oblique_volume_is_that_of_its_closest_axes(axes):
    assert oriented_spacing(OBLIQUE[:, [*axes, 3]]) == pytest.approx((0.8, 1.1, 2.5))
    reordered = nib.as_closest_canonical(nib.Nifti1Image(noise(), OBLIQUE[:, [*axes, 3]]))
    assert reordered.header.get_zooms() == pytest.approx((0.8, 1.1, 2.5))


def test_spacing_of_two_axes():
    assert oriented_spacing(np.diag([0.5, 2.0, 1, 1]), 2) == (0.5, 2.0)
    assert oriented_spacing(np.diag([0.5, 2.0, 1, 1])[:, [1, 0, 2, 3]], 2) == (0.5, 2.0)


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1, 0, 1, 1.0]),
        np.diag([0, 0, 0, 1.0]),
        np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    ],
    ids=["no length", "nothing", "two parallel axes"],
)
def test_singular_affines_do_not_pass(affine):
    (problem,) = check_image(noise(), affine)
    assert "an affine that is no position in space" in problem


@pytest.mark.parametrize(("degrees", "sound"), [(0.5, True), (1.5, False), (20, False)])
def test_sheared_affines_do_not_pass(degrees, sound):
    affine = np.diag([0.8, 0.9, 2.5, 1.0])
    affine[1, 2] = 2.5 * np.tan(np.radians(degrees))
    problems = check_image(np.arange(60.0).reshape(3, 4, 5), affine)
    assert problems == [] if sound else f"{degrees:.1f}° off right angles" in problems[0]


@pytest.mark.parametrize("side", [1e-3, 400.0])
def test_voxels_that_cannot_be_are_found(side):
    problems = check_image(np.arange(27.0).reshape(3, 3, 3), np.diag([1.0, side, 1.0, 1.0]))
    assert len(problems) == 1
    assert f"{side:.3g}" in problems[0]
    assert "correct the spacing" in problems[0]
    assert check_image(np.arange(27.0).reshape(3, 3, 3), np.diag([0.05, 8.0, 1.0, 1.0])) == []


@pytest.mark.parametrize("affine", [np.eye(4), OBLIQUE, np.diag([-0.05, 8.0, 100.0, 1])])
def test_possible_grids_pass(affine):
    assert check_affine(affine) == []


def test_the_third_axis_of_two_does_not_count():
    affine = np.diag([0.5, 2.0, 0.0, 1.0])
    assert check_affine(affine, 2) == []
    assert len(check_affine(affine)) == 1


def test_a_grid_may_have_two_problems():
    affine = np.diag([0.8, 0.9, 250.0, 1.0])
    affine[1, 2] = 250 * np.tan(np.radians(10))
    shear, size = check_affine(affine)
    assert shear.startswith("has axes that are 10.0° off right angles")
    assert f"0.8 × 0.9 × {250 / np.cos(np.radians(10)):.3g} mm, which cannot be" in size


def where(voxel, affine):
    return affine[:3, :3] @ voxel + affine[:3, 3]


def test_the_distance_of_two_grids_is_that_of_their_farthest_corner():
    turned = OBLIQUE @ nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.05, 0), [0.5, 0, 0])
    corners = [np.array(c) for c in product((0, 8), (0, 7), (0, 6))]
    farthest = max(np.linalg.norm(where(c, OBLIQUE) - where(c, turned)) for c in corners)
    found = compare_grids(("a", SHAPE, OBLIQUE), ("b", SHAPE, turned))
    assert found.startswith(f"b: lies up to {farthest:.3g} mm away from a ")


@pytest.mark.parametrize(("step", "same"), [(0.079, True), (0.081, False)])
def test_grids_may_differ_by_a_tenth_of_the_smallest_side(step, same):
    shifted = OBLIQUE.copy()  # its voxels are 0.8 mm along one axis
    shifted[2, 3] += step
    assert (compare_grids(("a", SHAPE, OBLIQUE), ("b", SHAPE, shifted)) == "") == same


def test_grids_of_other_shapes_and_of_nowhere_differ():
    found = compare_grids(("a", SHAPE, OBLIQUE), ("b", (9, 8, 6), OBLIQUE))
    assert found == f"b: has shape {times(9, 8, 6)}, but a has {times(9, 8, 7)}; resample it to the image"
    assert "mm away" in compare_grids(("a", SHAPE, OBLIQUE), ("b", SHAPE, OBLIQUE * np.nan))


def test_grids_of_two_axes_are_compared_in_their_plane():
    moved = np.eye(4)
    moved[1, 3] = 3
    assert compare_grids(("a", (9, 8), np.eye(4)), ("b", (9, 8), np.eye(4))) == ""
    assert "up to 3 mm" in compare_grids(("a", (9, 8), np.eye(4)), ("b", (9, 8), moved))
