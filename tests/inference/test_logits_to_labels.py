"""From cells of logits to labels on the grid of the image."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from step_helpers import META, Calls
from streaming_helpers import axes_of, scheme_of
from torch.nn import functional as F

from mednextv2.data import LabelScheme
from mednextv2.inference.logits_to_labels import LabelWriter, Target
from mednextv2.inference.window_cells import Axis


def test_taps_are_copied_to_the_device_once():
    axes = [Axis(32, 16, (0, 8, 16)), Axis(32, 16, (0, 8, 16))]
    scheme = LabelScheme(["background", "organ"])
    writer = LabelWriter([Target(axes[0], 50), Target(axes[1], 47, nearest=True)], scheme, META)
    for index in ((0, 0), (1, 1), (2, 2)):
        with Calls() as calls:
            taps = writer._taps(index, META)
            writer._on_target(index, torch.zeros(5, 16, device=META))
        assert taps.keys() == {0}
        assert (calls.waits == []) == (index != (0, 0))


def cells_of(targets):
    """The cells in an order in which each comes after those before it along every axis."""
    return list(product(*(range(target.axis.cells) for target in targets)))


def finish_all(writer, logits, weights, skip=()):
    for index in cells_of(writer.targets):
        edges = [target.axis.edges[i : i + 2] for target, i in zip(writer.targets, index, strict=True)]
        place = tuple(slice(*ends) for ends in edges)
        part = (None, None) if index in skip else (logits[(slice(None), *place)] * weights[place], weights[place])
        writer.finish(index, *part)


def targets_of(sizes, new, nearest=()):
    return [Target(axis, n, i in nearest) for i, (axis, n) in enumerate(zip(axes_of(sizes, 16, 8), new, strict=True))]


@pytest.mark.parametrize("new", [64, 37, 20, 9])
@pytest.mark.parametrize("nearest", [False, True])
def test_each_voxel_is_complete_with_one_cell(new, nearest):
    target = Target(axes_of((37,), 16, 8)[0], new, nearest)
    ranges = [target.range(cell) for cell in range(target.axis.cells)]
    assert (ranges[0].start, ranges[-1].stop) == (0, new)
    assert all(a.stop == b.start for a, b in pairwise(ranges))
    for voxel in range(new):
        low, high = (tap[voxel] for tap in target.taps[:2])
        (cell,) = (c for c, place in enumerate(ranges) if place.start <= voxel < place.stop)
        assert max(low, high) < target.axis.edges[cell + 1]
        assert max(low, high) >= target.axis.edges[cell]


@pytest.mark.parametrize(("size", "nearest", "expected"), [(37, False, False), (50, False, True), (50, True, False)])
def test_only_another_size_is_interpolated_and_not_where_the_nearest_is_taken(size, nearest, expected):
    assert Target(axes_of((37,), 16, 8)[0], size, nearest).interpolated == expected


GRIDS = {
    "same grid": ((32, 30, 29), (32, 30, 29)),
    "finer": ((32, 24, 29), (47, 41, 36)),
    "coarser": ((32, 30, 29), (19, 22, 15)),
    "two axes": ((32, 30), (47, 19)),
}


@pytest.mark.parametrize(("old", "new"), GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("regions", [False, True], ids=["classes", "regions"])
def test_labels_and_probabilities_are_those_of_pytorchs_interpolation_of_all_logits(old, new, regions):
    scheme = scheme_of(3, regions)
    logits, weights = 4 * torch.randn(3, *old), torch.rand(old) + 0.1
    stored = np.zeros((3, *new), np.float32)
    writer = LabelWriter(targets_of(old, new), scheme, torch.device("cpu"), stored)
    finish_all(writer, logits, weights)
    mode = "trilinear" if len(old) == 3 else "bilinear"
    whole = F.interpolate(logits[None], new, mode=mode)[0]
    expected = whole.sigmoid() if regions else whole.softmax(0)
    np.testing.assert_allclose(stored, expected, atol=1e-4)
    assert writer.labels.shape == new
    assert (writer.labels == scheme.decide(whole)[0]).double().mean() > 0.9995  # but for ties within rounding
    assert not writer._faces  # no logits are kept


def test_the_nearest_voxel_is_taken_along_an_axis_of_slices():
    logits = torch.randn(3, 32, 21)
    writer = LabelWriter(targets_of((32, 21), (45, 37), nearest=(1,)), scheme_of(3, False), torch.device("cpu"))
    finish_all(writer, logits, torch.ones(32, 21))
    between = F.interpolate(logits[None], (45, 21), mode="bilinear")
    expected = F.interpolate(between, (45, 37), mode="nearest-exact")[0].argmax(0)
    assert (writer.labels == expected).double().mean() > 0.9995


@pytest.mark.parametrize("regions", [False, True], ids=["classes", "regions"])
@pytest.mark.parametrize("new", [(32, 30), (47, 41)])
def test_cells_without_a_prediction_are_background(regions, new):
    stored = np.full((3, *new), 0.5, np.float32)
    scheme = scheme_of(3, regions)
    writer = LabelWriter(targets_of((32, 30), new), scheme, torch.device("cpu"), stored)
    logits = torch.full((3, 32, 30), -30.0)
    logits[1] = 30  # label 1, or the second region, which is painted as 2
    skipped = {index for index in cells_of(writer.targets) if index[0] < 2}
    finish_all(writer, logits, torch.ones(32, 30), skipped)
    first = writer.targets[0].range(1).stop  # interpolation with what is predicted begins here
    assert writer.labels[:first].eq(0).all()
    assert writer.labels[first + 2 :].eq(2 if regions else 1).all()
    np.testing.assert_allclose(
        stored[:, :first],
        np.array([0 if regions else 1, 0, 0]).reshape(3, 1, 1) + np.zeros((3, first, new[1])),
        atol=1e-6,
    )
