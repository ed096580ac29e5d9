"""Connected components against scikit-image and MONAI, and the steps that remove them."""

import numpy as np
import pytest
from monai.transforms import KeepLargestConnectedComponent
from postprocessing_helpers import (
    largest_by_definition,
    step_by_definition,
    strip,
    text,
)
from skimage import measure

from mednextv2.inference.components import apply_steps, bounding_box, bounding_boxes, keep_largest, removed_by


@pytest.mark.parametrize("shape", [(31, 24), (13, 11, 9)])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.25, 0.6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_largest_component_is_that_of_scikit_image_with_full_connectivity(shape, density, seed):
    mask = np.random.default_rng(seed).random(shape) < density
    assert np.array_equal(keep_largest(mask), largest_by_definition(mask))


@pytest.mark.parametrize("dims", [2, 3])
def test_voxels_that_touch_at_a_corner_are_connected(dims):
    mask = np.zeros((6,) * dims, bool)
    mask[(0,) * dims] = mask[(1,) * dims] = True
    mask[(4,) * dims] = True
    expected = mask.copy()
    expected[(4,) * dims] = False
    assert np.array_equal(keep_largest(mask), expected)


def test_all_components_of_the_largest_size_are_kept_where_monai_keeps_one():
    mask = strip("11.1.11") > 0
    assert text(keep_largest(mask).astype(int)) == "11...11"
    assert KeepLargestConnectedComponent(is_onehot=False)(mask[None].astype(np.uint8)).sum() == 2


def test_without_ties_it_is_monais_component():
    mask = np.random.default_rng(5).random((14, 12, 10)) < 0.12
    sizes = sorted(r.area for r in measure.regionprops(measure.label(mask)))
    assert len(sizes) > 5
    assert sizes[-1] > sizes[-2]
    theirs = KeepLargestConnectedComponent(is_onehot=False)(mask[None].astype(np.uint8))[0]
    assert np.array_equal(keep_largest(mask), np.asarray(theirs) > 0)


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks_stay(value):
    mask = np.full((4, 5, 6), value)
    kept = keep_largest(mask)
    assert np.array_equal(kept, mask)
    assert kept is not mask


def test_mask_may_have_any_order_of_axes_and_is_not_changed():
    mask = np.random.default_rng(3).random((12, 10, 8)) < 0.1
    expected = largest_by_definition(mask)
    given = mask.copy()
    given.flags.writeable = False
    assert np.array_equal(keep_largest(given), expected)
    assert np.array_equal(keep_largest(np.asfortranarray(mask)), expected)
    assert np.array_equal(keep_largest(mask[::-1, :, ::-1]), expected[::-1, :, ::-1])
    assert np.array_equal(given, mask)


@pytest.mark.parametrize(
    ("given", "steps", "expected"),
    [
        ("11.1.22", [], "11.1.22"),
        ("11.1.22", [[1]], "11...22"),
        ("11.1.22", [[2]], "11.1.22"),
        ("112.1.2", [[1, 2]], "112...."),
        ("11.1222", [[1, 2], [1]], "...1222"),  # the same two steps
        ("11.1222", [[1], [1, 2]], "....222"),  # in the other order
        ("13.1.2", [[1, 3]], "13...2"),  # 2 is between them, but not a member
        ("12.1.2", [[3], [9]], "12.1.2"),
        ("......", [[1], [1, 2]], "......"),
        ("1233.23.3.1", [[1, 2, 3]], "1233......."),
        ("1233.2.3.1", [[2, 3]], "1233.....1"),  # the region is 2 and 3; 1 around it stays
        ("1223.33", [[1, 2, 3], [3]], "1223..."),
        ("1223.33", [[3], [1, 2, 3]], "122...."),
    ],
)
def test_each_step_leaves_the_largest_component_of_its_union_and_removed_voxels_become_background(
    given, steps, expected
):
    assert text(apply_steps(strip(given), steps)) == expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(17, 12), (9, 8, 7)])
def test_steps_are_those_of_the_definition_one_after_the_other(seed, shape):
    rng = np.random.default_rng(seed)
    label_map = rng.choice(6, shape, p=[0.85, 0.03, 0.03, 0.03, 0.03, 0.03])
    steps = [rng.permutation(np.arange(1, 6))[: rng.integers(1, 6)].tolist() for _ in range(3)]
    expected = label_map
    for values in steps:
        expected = step_by_definition(expected, values)
    assert np.array_equal(apply_steps(label_map, steps), expected)
    assert not np.array_equal(expected, label_map)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "i8", "f4", "f8"])
def test_label_map_keeps_its_type_and_is_not_changed(dtype):
    given = strip("11.1.22").astype(dtype)
    given.flags.writeable = False
    found = apply_steps(given, [[1]])
    assert found.dtype == given.dtype
    assert np.array_equal(found, strip("11...22"))
    assert np.array_equal(given, strip("11.1.22"))
    assert apply_steps(given, []) is not given


# --- boxes ------------------------------------------------------------------------------------------------------------


def box_by_definition(mask):
    where = np.nonzero(mask)
    return tuple(slice(int(n.min()), int(n.max()) + 1) for n in where) if where[0].size else None


@pytest.mark.parametrize("shape", [(17, 12), (9, 8, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_boxes_are_the_smallest_around_each_value(shape, dtype):
    label_map = np.random.default_rng(2).choice(5, shape, p=[0.93, 0.03, 0.0, 0.02, 0.02]).astype(dtype)
    found = bounding_boxes(label_map)
    assert found == [box_by_definition(label_map == value) for value in range(1, 5)]
    assert found[1] is None  # a value in between that is not there
    assert bounding_box(label_map > 0) == box_by_definition(label_map > 0)


def test_nothing_has_no_box():
    assert bounding_box(np.zeros((4, 5, 6), bool)) is None
    assert bounding_boxes(np.zeros((4, 5, 6), np.uint8)) == []


@pytest.mark.parametrize("values", [[1], [2, 3], [1, 3], [4]])
def test_what_a_step_removes_is_inside_the_box_of_its_union(values):
    label_map = np.random.default_rng(4).choice(5, (12, 11, 10), p=[0.84, 0.04, 0.04, 0.04, 0.04]).astype(np.uint8)
    box, removed = removed_by(label_map, values, bounding_boxes(label_map))
    assert box == box_by_definition(np.isin(label_map, values))
    everywhere = np.zeros(label_map.shape, bool)
    everywhere[box] = removed
    assert np.array_equal(everywhere, label_map != step_by_definition(label_map, values))
    assert everywhere.any()


@pytest.mark.parametrize("values", [[3], [7, 9]])
def test_values_that_are_not_there_remove_nothing(values):
    label_map = strip("11.1.22")
    assert removed_by(label_map, values, bounding_boxes(label_map)) is None
