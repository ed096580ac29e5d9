"""Visible positions against a loop over all voxels."""

import itertools

import pytest
import torch

from mednextv2.nets.visible_cells import cell_size, hide, visible_positions


def by_hand(visible, space, stride):
    """Ask every voxel of every position."""
    cell = [n // g for n, g in zip(space, visible.shape[1:], strict=True)]
    found = torch.zeros(len(visible), *[n // s for n, s in zip(space, stride, strict=True)], dtype=torch.bool)
    for voxel in itertools.product(*map(range, space)):
        position = tuple(v // s for v, s in zip(voxel, stride, strict=True))
        found[(slice(None), *position)] |= visible[(slice(None), *[v // c for v, c in zip(voxel, cell, strict=True)])]
    return found


@pytest.mark.parametrize(
    ("grid", "space", "stride"),
    [
        ((2, 3), (8, 12), (1, 1)),
        ((2, 3), (8, 12), (2, 4)),  # cells of 4 positions and of 1
        ((4, 3), (8, 12), (8, 2)),  # 4 cells in a position
        ((2, 3), (12, 12), (4, 3)),  # positions across the border of two cells
        ((2, 1, 3), (8, 4, 12), (1, 1, 1)),
        ((2, 2, 3), (8, 4, 12), (4, 1, 6)),
    ],
)
def test_a_position_is_visible_if_any_voxel_in_it_is(grid, space, stride):
    visible = torch.rand(3, *grid) < 0.4
    assert torch.equal(visible_positions(visible, space, stride), by_hand(visible, space, stride))


def test_hidden_voxels_are_zero_whatever_was_there():
    visible = torch.tensor([[[True, False]]])
    image = torch.full((1, 2, 2, 4), float("nan"))
    image[..., :2] = 3
    expected = torch.tensor([3.0, 3, 0, 0]).expand(1, 2, 2, 4)
    assert torch.equal(hide(image, visible), expected)
    assert hide(image.double(), visible).dtype == torch.float64


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        (torch.ones(1, 2, 2), "a bool tensor"),
        (torch.ones(1, 3, 2).bool(), "a grid of \\(3, 2\\) cells, of which a patch \\(8, 8\\) is no multiple"),
        (torch.ones(1, 2).bool(), "a grid of \\(2,\\) cells"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(visible, message):
    with pytest.raises(ValueError, match=message):
        cell_size(visible, (8, 8))
    with pytest.raises(ValueError, match="no multiple of a stride"):
        visible_positions(torch.ones(1, 2, 2).bool(), (8, 8), 3)
