"""Prepared cases as they are read: positions of their structures, and their way to worker processes."""

import pickle

import numpy as np
import pytest
from prepared_helpers import LABELS, SHAPE, all_positions, item, make_store, store_label

from mednextv2.data import LabelScheme

REGIONS = [{"name": "vein", "values": [2], "paint": 2}, {"name": "whole", "values": [1, 2], "paint": 1}]


@pytest.mark.parametrize(
    ("voxels", "kept"), [(0, 0), (1, 1), (9_999, 9_999), (10_000, 10_000), (10_001, 10_000), (1_234_500, 12_345)]
)
def test_number_of_positions_is_that_of_nnunet(tmp_path, voxels, kept):
    label = np.zeros((130, 100, 100), np.uint8)
    label.reshape(-1)[np.random.default_rng(0).permutation(label.size)[:voxels]] = 2
    case = store_label(tmp_path, label)
    assert case.counts == [0, kept]
    flat = np.ravel_multi_index(np.array(all_positions(case, 1), int).reshape(-1, 3).T, label.shape)
    assert len(np.unique(flat)) == kept
    assert (label.reshape(-1)[flat] == 2).all()
    if kept < voxels:  # from everywhere: the mean index is uniform's, to four standard errors
        assert abs(flat.mean() / label.size - 0.5) < 4 / np.sqrt(12 * kept)


def test_positions_are_of_their_class_and_all_of_a_small_one(tmp_path):
    label = np.random.default_rng(0).integers(-1, 3, (7, 3, 5)).astype(np.int16)
    case = store_label(tmp_path, label)
    for structure, value in enumerate((1, 2)):
        assert sorted(all_positions(case, structure)) == [tuple(i) for i in np.argwhere(label == value).tolist()]


@pytest.mark.parametrize("ignore", [None, 3])
def test_positions_are_of_regions_and_last_of_all_that_was_annotated(tmp_path, ignore):
    label = np.random.default_rng(0).integers(-1, 4 if ignore else 3, (7, 3, 5)).astype(np.int16)
    case = store_label(tmp_path, label, LabelScheme(LABELS, REGIONS, ignore))
    masks = [label == 2, (label == 1) | (label == 2)] + ([label != 3] if ignore else [])
    assert case.counts == [mask.sum() for mask in masks]
    for structure, mask in enumerate(masks):
        assert sorted(all_positions(case, structure)) == [tuple(i) for i in np.argwhere(mask).tolist()]


def test_pool_of_annotated_voxels_is_limited_as_the_structures_are(tmp_path):
    label = np.full((30, 30, 30), 3, np.uint8)
    label[:25] = 0
    case = store_label(tmp_path, label, LabelScheme(LABELS, ignore_label=3))
    assert case.counts == [0, 0, 10_000]
    found = np.array(all_positions(case, 2))
    assert found[:, 0].max() == 24


def test_case_of_background_has_no_positions(tmp_path):
    case = store_label(tmp_path, np.zeros(SHAPE, np.uint8))
    assert case.counts == [0, 0]


def test_positions_of_flat_images(tmp_path):
    label = np.random.default_rng(0).integers(0, 3, (7, 5)).astype(np.int16)
    case = store_label(tmp_path, label)
    assert sorted(all_positions(case, 0)) == [tuple(i) for i in np.argwhere(label == 1).tolist()]


def test_pickled_case_has_its_files_names_and_no_arrays(tmp_path):
    (case,) = make_store(tmp_path).prepare([item(tmp_path, "a", (30, 30, 30))])
    unused = len(pickle.dumps(case))
    position = case.position(1, 5)
    assert case.image.nbytes > 10_000
    text = pickle.dumps(case)
    assert len(text) == unused
    other = pickle.loads(text)
    assert isinstance(other.image, np.memmap)
    assert np.array_equal(other.image, case.image)
    assert other.position(1, 5) == position
    assert other.counts == case.counts
