"""Cells of an image under a sliding window: which windows cover them, and how many wait."""

from itertools import product

import numpy as np
import pytest
import torch
from streaming_helpers import axes_of

from mednextv2.inference.window_cells import Axis, Cells, is_channels_last, most_waiting, shift, window_order, zeros


@pytest.mark.parametrize(("sizes", "step"), [((64, 64, 76), 8), ((40, 30, 50), 8), ((64, 64, 70), 12)])
def test_cells_never_take_more_memory_than_waits_at_most(sizes, step):
    axes = axes_of(sizes, 16, step)
    cells, logits, weights = Cells(axes, torch.float32, torch.device("cpu")), torch.zeros(2, 16, 16, 16), torch.ones(16)
    peak = 0
    for window in window_order(axes):
        for index in cells.add(window, logits, weights.expand(16, 16, 16)):
            cells.give_back(*cells.take(index))
        held = [*cells._weights.values(), *(weights for free in cells._free.values() for _, weights in free)]
        peak = max(peak, sum(tensor.numel() for tensor in held))
    assert 0.9 * most_waiting(axes) < peak <= most_waiting(axes)


@pytest.mark.parametrize(("sizes", "patch", "step"), [((37, 41, 29), 16, 8), ((16, 50, 33), 16, 12), ((20, 20), 8, 8)])
def test_every_voxel_lies_in_one_cell_that_all_its_windows_cover(sizes, patch, step):
    axes = axes_of(sizes, patch, step)
    for axis in axes:
        assert axis.edges[0] == 0
        assert axis.edges[-1] == axis.size
        for voxel in range(axis.size):
            cell = next(i for i in range(axis.cells) if axis.edges[i] <= voxel < axis.edges[i + 1])
            windows = [w for w, start in enumerate(axis.starts) if start <= voxel < start + patch]
            assert [w for w in range(len(axis.starts)) if cell in axis.covered(w)] == windows
            assert axis.windows[cell] == len(windows)


def test_cells_are_given_away_once_and_each_after_those_before_it():
    axes = axes_of((37, 41, 29), 16, 8)
    cells, seen = Cells(axes, torch.float32, torch.device("cpu")), []
    for window in window_order(axes):
        done = cells.add(window, torch.ones(2, 16, 16, 16), torch.ones(16, 16, 16))
        for index in done:
            before = {tuple(i - (a == b) for b, i in enumerate(index)) for a in range(3) if index[a]}
            assert before <= set(seen)
            seen.append(index)
            sums, weights = cells.take(index)
            assert (sums == weights).all()
            assert (weights == np.prod([axis.windows[i] for axis, i in zip(axes, index, strict=True)])).all()
    assert len(set(seen)) == len(seen) == np.prod([axis.cells for axis in axes])
    assert not cells._sums


@pytest.mark.parametrize("sizes", [(64, 64, 96), (30, 80, 44)])
def test_no_more_is_kept_than_said(sizes):
    axes = axes_of(sizes, 16, 8)
    cells, most = Cells(axes, torch.float32, torch.device("cpu")), 0
    for window in window_order(axes):
        done = cells.add(window, torch.zeros(1, 16, 16, 16), torch.ones(16, 16, 16))
        most = max(most, sum(s.numel() for s in cells._sums.values()))
        for index in done:
            cells.take(index)
    assert most == most_waiting(axes)
    # half a window of the cross-section, and the row of windows at work; the whole volume is many times that
    assert most < 0.55 * 16 * np.prod(sorted(sizes)[:2]) + 16 * 16 * max(sorted(sizes)[:2])


def test_shifted_logits_have_the_same_softmax_and_fit_into_half_precision():
    logits = torch.randn(5, 1000) * 40 + 500
    shifted = shift(logits)
    assert torch.allclose(shifted.softmax(0), logits.softmax(0), atol=1e-5)
    assert shifted.max() == 0
    assert torch.isfinite(27 * shift(torch.tensor([[0.0], [-1e9]])).half()).all()


def covers(axes, window):
    """The voxels of a window, as a mask of the image."""
    mask = np.zeros([axis.size for axis in axes], bool)
    mask[tuple(slice(axis.starts[w], axis.starts[w] + axis.patch) for axis, w in zip(axes, window, strict=True))] = True
    return mask


@pytest.mark.parametrize(("sizes", "step"), [((37, 41, 29), 8), ((16, 50, 33), 12), ((20, 26), 8)])
def test_all_windows_come_once_and_none_before_one_that_is_as_low_in_all_axes(sizes, step):
    axes = axes_of(sizes, 16, step)
    order = window_order(axes)
    assert sorted(order) == list(product(*(range(len(axis.starts)) for axis in axes)))
    for place, window in enumerate(order):
        assert not [w for w in order[place + 1 :] if all(a <= b for a, b in zip(w, window, strict=True))]


@pytest.mark.parametrize(("sizes", "step"), [((37, 41, 29), 8), ((20, 50), 12), ((16, 16, 16), 8)])
def test_what_waits_is_counted_voxel_by_voxel(sizes, step):
    axes = axes_of(sizes, 16, step)
    order = window_order(axes)
    total, seen, most = sum(covers(axes, w).astype(int) for w in order), np.zeros(sizes, int), 0
    assert (total > 0).all()
    for window in order:
        mask = covers(axes, window)
        # those that this window completes are given away after it
        most = max(most, int((((seen > 0) & (seen < total)) | mask).sum()))
        seen += mask
    assert most_waiting(axes) == most


def test_an_image_shorter_than_a_window_is_one_cell():
    axis = Axis(10, 16, (-3,))
    assert (axis.edges, axis.cells, axis.windows, list(axis.covered(0))) == ([0, 10], 1, [1], [0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shifted", [False, True])
def test_sums_are_those_of_all_windows_at_once(dtype, shifted):
    axes = axes_of((21, 30), 16, 7)
    weight = torch.rand(16, 16) + 0.5
    logits = {window: torch.randn(3, 16, 16) for window in window_order(axes)}
    sums, weights = torch.zeros(3, 21, 30), torch.zeros(21, 30)
    for window, values in logits.items():
        place = tuple(slice(axis.starts[w], axis.starts[w] + 16) for axis, w in zip(axes, window, strict=True))
        sums[(slice(None), *place)] += weight * (values - values.amax(0) if shifted else values)
        weights[place] += weight
    cells = Cells(axes, dtype, torch.device("cpu"), shifted)
    for window, values in logits.items():
        for index in cells.add(window, values, weight):
            place = tuple(slice(axis.edges[i], axis.edges[i + 1]) for axis, i in zip(axes, index, strict=True))
            found, found_weights = cells.take(index)
            assert found.dtype == dtype
            tolerance = 1e-5 if dtype == torch.float32 else 2e-2
            torch.testing.assert_close(found.float(), sums[(slice(None), *place)], atol=tolerance, rtol=tolerance)
            torch.testing.assert_close(found_weights, weights[place])
            cells.give_back(found, found_weights)


def test_cells_of_skipped_windows_alone_have_no_sums():
    axes = axes_of((24,), 8, 8)
    cells = Cells(axes, torch.float32, torch.device("cpu"))
    assert cells.skip((0,)) == [(0,)]
    assert cells.take((0,)) == (None, None)
    cells.give_back(None, None)
    assert cells.add((1,), torch.ones(2, 8), torch.ones(8)) == [(1,)]
    assert cells.take((1,))[0].eq(1).all()


@pytest.mark.parametrize("last", [True, False])
def test_zeros_have_the_layout_of_what_they_are_like(last):
    like = torch.rand(4, 5, 3).movedim(-1, 0) if last else torch.rand(3, 4, 5)
    made = zeros(3, [2, 6], like, torch.float16, "cpu")
    assert (made.shape, made.dtype) == ((3, 2, 6), torch.float16)
    assert is_channels_last(like) == is_channels_last(made) == last
    assert made.eq(0).all()


def test_one_channel_is_in_no_particular_layout():
    assert not is_channels_last(torch.rand(4, 5, 1).movedim(-1, 0))
