import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

from mednextv2.errors import InputError
from mednextv2.transforms.spatial import (
    RandPlacement,
    draw_centre,
    flat_axis,
    placement_matrix,
)

# placements


@pytest.mark.parametrize("seed", range(4))
def test_matrix_is_the_product_of_rotations_about_the_axes(seed):
    angles = np.random.RandomState(seed).uniform(-3, 3, 3)
    about = [Rotation.from_rotvec(angle * axis).as_matrix() for angle, axis in zip(angles, np.eye(3), strict=True)]
    np.testing.assert_allclose(placement_matrix(angles), about[0] @ about[1] @ about[2], atol=1e-12)
    np.testing.assert_allclose(placement_matrix(angles, 1.3), about[0] @ about[1] @ about[2] * 1.3, atol=1e-12)
    scale = (1.1, 0.8, 1.2)
    np.testing.assert_allclose(
        placement_matrix(angles, scale), about[0] @ about[1] @ about[2] @ np.diag(scale), atol=1e-12
    )


def test_matrix_in_2d_is_the_rotation_about_the_third_axis():
    np.testing.assert_allclose(
        placement_matrix([0.7], (1.5, 0.5)), placement_matrix((0, 0, 0.7), (1.5, 0.5, 1))[:2, :2], atol=1e-12
    )


# random placements


def draws(count=6000, **settings):
    random = RandPlacement(**settings).set_random_state(0)
    return [random.draw() for _ in range(count)]


def parts(matrices):
    """Scales and Euler angles of 3D matrices."""
    matrices = np.stack(matrices)
    scales = np.cbrt(np.linalg.det(matrices))
    return scales, Rotation.from_matrix(matrices / scales[:, None, None]).as_euler("XYZ")


def assert_uniform(found, low, high):
    assert min(found) >= low - 1e-6
    assert max(found) <= high + 1e-6
    assert stats.kstest(found, "uniform", (low, high - low)).pvalue > 0.001


def test_a_fifth_of_patches_is_rotated_and_a_fifth_scaled_independently():
    drawn = draws(patch_size=(64, 64, 64))
    scales, angles = parts([np.eye(3) if m is None else m for m in drawn])
    rotated, scaled = np.abs(angles).max(1) > 1e-9, np.abs(scales - 1) > 1e-9
    assert [m is None for m in drawn] == (~rotated & ~scaled).tolist()
    for part, expected in ((rotated, 0.2), (scaled, 0.2), (rotated & scaled, 0.04)):
        assert stats.binomtest(int(part.sum()), len(part), expected).pvalue > 0.001
    degrees = np.degrees(angles[rotated])
    for axis in range(3):
        assert_uniform(degrees[:, axis], -30, 30)
    assert np.abs(np.corrcoef(degrees.T) - np.eye(3)).max() < 0.12
    assert_uniform(scales[scaled], 0.7, 1.4)


def test_settings_of_rotation_and_scaling_are_followed():
    assert draws(50, patch_size=(8, 8, 8), rotation_prob=0, scale_prob=0) == [None] * 50
    scales, angles = parts(draws(1000, patch_size=(8, 8, 8), rotation_prob=1, scale_prob=0, max_angle=0.2))
    np.testing.assert_allclose(scales, 1)
    assert_uniform(angles[:, 1], -0.2, 0.2)
    scales, angles = parts(draws(1000, patch_size=(8, 8, 8), rotation_prob=0, scale_prob=1, scale_range=(0.9, 1.1)))
    np.testing.assert_allclose(angles, 0, atol=1e-9)
    assert_uniform(scales, 0.9, 1.1)


@pytest.mark.parametrize(("patch", "degrees"), [((64, 64), 180), ((60, 40), 180), ((40, 61), 15), ((61, 40), 15)])
def test_elongated_2d_patches_are_rotated_less(patch, degrees):
    matrices = np.stack(draws(2000, patch_size=patch, rotation_prob=1, scale_prob=0))
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(2), (2000, 2, 2)), atol=1e-9
    )
    assert_uniform(np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])), -degrees, degrees)


def test_2d_patches_are_scaled_on_both_axes():
    matrices = np.stack(draws(2000, patch_size=(32, 32), rotation_prob=0, scale_prob=1))
    np.testing.assert_allclose(matrices, matrices[:, :1, :1] * np.eye(2))
    assert_uniform(matrices[:, 0, 0], 0.7, 1.4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flat_patches_are_rotated_and_scaled_in_their_plane_only(axis):
    patch = [64] * 3
    patch[axis] = 16
    drawn = [m for m in draws(patch_size=patch, flat_axis=axis) if m is not None]
    assert stats.binomtest(len(drawn), 6000, 1 - 0.8**2).pvalue > 0.001
    matrices = np.stack(drawn)
    kept = np.broadcast_to(np.eye(3)[axis], (len(drawn), 3))
    assert (matrices[:, axis] == kept).all()
    assert (matrices[:, :, axis] == kept).all()
    a, b = (i for i in range(3) if i != axis)
    scales = np.hypot(matrices[:, a, a], matrices[:, b, a])
    angles = np.degrees(np.arctan2(matrices[:, b, a], matrices[:, a, a]))
    np.testing.assert_allclose(np.linalg.det(matrices), scales**2)
    assert_uniform(angles[np.abs(angles) > 1e-9], -180, 180)
    assert_uniform(scales[np.abs(scales - 1) > 1e-9], 0.7, 1.4)


def test_equal_seeds_draw_equal_placements():
    first, second = (RandPlacement((8, 8, 8), 0.5, 0.5).set_random_state(3) for _ in range(2))
    for _ in range(20):
        a, b = first.draw(), second.draw()
        assert (a is None and b is None) or np.array_equal(a, b)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"patch_size": (8,)}, "patch_size"),
        ({"rotation_prob": 1.5}, "rotation_prob"),
        ({"scale_prob": -0.1}, "scale_prob"),
        ({"scale_range": (1.4, 0.7)}, "scale_range"),
        ({"scale_range": (0, 1)}, "scale_range"),
        ({"scale_range": (1,)}, "scale_range"),
        ({"flat_axis": 3}, "flat_axis"),
        ({"flat_axis": 0, "patch_size": (8, 8)}, "flat_axis"),
    ],
)
def test_settings_out_of_range_are_named(settings, named):
    with pytest.raises(InputError, match=named):
        RandPlacement(**{"patch_size": (8, 8, 8), **settings})


@pytest.mark.parametrize(
    ("patch", "spacing", "axis"),
    [
        ((20, 256, 256), (5, 0.7, 0.7), 0),
        ((256, 256, 20), (0.7, 0.7, 5), 2),
        ((61, 20, 20), (1, 5, 1), 1),
        ((60, 20, 20), (1, 5, 1), None),  # exactly three times as long
        ((128, 128, 128), (1, 1, 3), None),
        ((64, 200, 20), (3, 1, 1), 0),  # short along another axis than the coarsest
        ((64, 128, 20), (3, 1, 1), None),
        ((256, 20), (1, 5), None),
    ],
)
def test_flat_axis_is_the_coarsest_where_the_patch_is_short(patch, spacing, axis):
    assert flat_axis(patch, spacing) == axis


# centres


def starts(shape, patch, voxel=None, count=2000):
    random = np.random.RandomState(0)
    centres = np.array([draw_centre(random, shape, patch, voxel) for _ in range(count)])
    return centres - np.asarray(patch) // 2


@pytest.mark.parametrize("patch", [(4, 5), (5, 4)])
def test_free_patches_start_anywhere_inside_with_equal_chance(patch):
    found = starts((9, 10), patch)
    for axis, highest in enumerate((9 - patch[0], 10 - patch[1])):
        counts = np.bincount(found[:, axis], minlength=highest + 1)
        assert len(counts) == highest + 1
        assert stats.chisquare(counts).pvalue > 0.001
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.1


@pytest.mark.parametrize(("length", "patch", "start"), [(6, 10, -2), (5, 10, -2), (6, 9, -1), (10, 10, 0), (1, 8, -3)])
def test_short_volumes_lie_in_the_middle_of_free_patches(length, patch, start):
    assert (starts((length, length, 30), (patch, patch, 8), count=50)[:, :2] == start).all()


@pytest.mark.parametrize(
    ("voxel", "start"),
    [
        ((10, 10, 10), (7, 7, 6)),
        ((0, 2, 3), (0, 0, 0)),  # moved up to start with the volume
        ((19, 19, 19), (16, 16, 15)),  # runs past the far border
    ],
)
def test_forced_patches_are_centred_on_their_voxel_and_limited_from_below(voxel, start):
    assert (starts((20, 20, 20), (6, 7, 8), voxel, count=5) == start).all()


@pytest.mark.parametrize(("voxel", "start"), [(0, -2), (3, -2), (4, -1), (5, 0)])
def test_forced_patches_start_at_most_half_the_missing_voxels_before_a_short_volume(voxel, start):
    assert (starts((6, 6), (10, 10), (voxel, voxel), count=5) == start).all()


def test_centres_are_plain_numbers_and_repeat_with_the_seed():
    first, second = (draw_centre(np.random.RandomState(4), (30, 30), (8, 8)) for _ in range(2))
    assert first == second
    assert all(type(c) is int for c in (*first, *draw_centre(np.random, (9, 9), (4, 4), np.array([3, 4]))))
