"""Labels of patches: which of them wins, and which lie outside."""

import numpy as np
import pytest
from sampling_helpers import assert_same, make_case, random_matrix, vote

from mednextv2.transforms.sampling import extract_patch
from mednextv2.transforms.spatial import placement_matrix


@pytest.mark.parametrize("fill", [0, -1, 2])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_labels_have_the_largest_interpolated_indicator(dims, seed, fill):
    shape, patch = (14, 12, 11)[:dims], (12, 10, 13)[:dims]
    matrix = random_matrix(dims, seed)
    centre = [(7, 6, 5), (0, 0, 0), (13, 11, 10), (2, 9, 5)][seed][:dims]
    image, label = make_case(shape, seed=seed)
    expected, lead = vote(label, matrix, centre, patch, fill)
    _, found = extract_patch(image, label, centre, patch, matrix, fill_label=fill)
    assert (lead > 1e-4).mean() > 0.9
    assert_same(found[0][lead > 1e-4], expected[lead > 1e-4])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(range(120), np.int8), (range(0, 250, 5), np.uint8), ([3, 4, 20000], np.int16), ([-300, 4, 100], np.int16)],
)
def test_many_and_large_label_values_are_kept(values, dtype):
    random = np.random.RandomState(0)
    label = random.choice(list(values), (1, 9, 9, 9)).astype(dtype)
    matrix = random_matrix(3, 5)
    expected, lead = vote(label, matrix, (4, 4, 4), (7, 7, 7), -1)
    _, found = extract_patch(label.astype(np.float32), label, (4, 4, 4), (7, 7, 7), matrix, fill_label=-1)
    assert (lead > 1e-4).mean() > 0.9
    assert_same(found[0][lead > 1e-4], expected[lead > 1e-4])


@pytest.mark.parametrize("dims", [2, 3])
def test_lowest_of_equal_indicators_wins(dims):
    random = np.random.RandomState(0)
    label = random.randint(0, 4, (1, *(9,) * dims)).astype(np.int8)
    matrix = np.eye(dims) * 0.5  # weights of 1, 1/2, 1/4 and 1/8 are exact
    expected, lead = vote(label, matrix, (4,) * dims, (8,) * dims, -1)
    _, found = extract_patch(label.astype(np.float32), label, (4,) * dims, (8,) * dims, matrix, fill_label=-1)
    assert (lead == 0).mean() > 0.1
    assert_same(found[0], expected)


@pytest.mark.parametrize("fill", [0, 1, -1])
@pytest.mark.parametrize("centre", [(6, 6, 6), (0, 6, 11), (40, 40, 40)])
def test_volumes_of_one_label_differ_from_it_only_outside(fill, centre):
    label = np.ones((1, 12, 12, 12), np.int8)
    matrix = random_matrix(3, 4)
    _, found = extract_patch(label.astype(np.float32), label, centre, (5, 6, 7), matrix, fill_label=fill)
    expected, lead = vote(label, matrix, centre, (5, 6, 7), fill)
    assert_same(found[0][lead > 1e-4], expected[lead > 1e-4])


def test_fill_label_may_lie_outside_the_range_of_small_labels():
    image, label = make_case((8, 8))
    _, found = extract_patch(image, label, (0, 0), (6, 6), placement_matrix([1.0]), fill_label=300)
    assert found.unique().tolist()[-1] == 300
    inside = np.pad(label, [(0, 0), (20, 20), (20, 20)], constant_values=2)
    _, found = extract_patch(inside * 1.0, inside, (24, 24), (6, 6), placement_matrix([1.0]), fill_label=300)
    assert 300 not in found
