"""Masks: how many cells they hide, on what they depend, and what is refused."""

import numpy as np
import pytest
import torch

from mednextv2.errors import InputError
from mednextv2.training.masking import BlockMasks


@pytest.mark.parametrize(
    ("patch", "block", "ratio", "grid", "hidden"),
    [
        ([48, 64, 48], 16, 0.75, (3, 4, 3), 27),
        ([160, 160, 160], 32, 0.6, (5, 5, 5), 75),
        ([32, 48], [8, 16], 0.5, (4, 3), 6),
        ([32, 32, 32], 16, 0.7, (2, 2, 2), 5),  # int(5.6)
        ([64, 64, 64], 8, 0.9, (8, 8, 8), 460),  # int(460.8)
    ],
)
def test_exactly_so_many_cells_are_hidden_in_every_sample(patch, block, ratio, grid, hidden):
    masks = BlockMasks(patch, block, ratio)
    for drawn in (masks.training(3, range(4)), masks.validation(range(4))):
        assert drawn.dtype == torch.bool
        assert drawn.shape == (4, *grid)
        assert (~drawn).flatten(1).sum(1).tolist() == [hidden] * 4
        assert len({m.numpy().tobytes() for m in drawn}) == 4


def test_every_cell_is_hidden_equally_often():
    masks = BlockMasks([32, 32, 32], 8, 0.75, seed=1)
    often = torch.stack([masks.training(step, range(4)) for step in range(500)]).float().mean((0, 1))
    assert (often - 0.25).abs().max() < 5 * (0.25 * 0.75 / 2000) ** 0.5  # five standard deviations


def test_processes_with_parts_of_a_batch_draw_the_masks_of_the_whole():
    masks = BlockMasks([48, 48], 8, [0.6, 0.9], seed=5)
    for step in range(3):
        whole = masks.training(step, range(6))
        parts = [BlockMasks([48, 48], 8, [0.6, 0.9], seed=5).training(step, range(r * 2, r * 2 + 2)) for r in range(3)]
        assert torch.equal(torch.cat(parts), whole)
        assert torch.equal(masks.training(step, [4]), whole[4:5])


def test_masks_depend_on_seed_and_step_and_not_on_other_random_numbers():
    state = torch.get_rng_state()
    masks = BlockMasks([64, 64, 64], 8, seed=5)
    first = masks.training(0, range(2))
    assert not torch.equal(first, masks.training(1, range(2)))
    assert not torch.equal(first, BlockMasks([64, 64, 64], 8, seed=6).training(0, range(2)))
    assert not torch.equal(first, masks.validation(range(2)))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(first, masks.training(0, range(2)))


def test_of_a_range_one_ratio_is_drawn_for_a_batch():
    masks = BlockMasks([64, 64, 64], 8, [0.6, 0.9])
    hidden = [(~masks.training(step, range(3))).flatten(1).sum(1).tolist() for step in range(200)]
    assert all(len(set(batch)) == 1 for batch in hidden)
    ratios = np.array([batch[0] for batch in hidden]) / 512
    assert 0.6 - 1 / 512 <= ratios.min() < 0.62
    assert 0.88 < ratios.max() <= 0.9
    assert abs(ratios.mean() - 0.75) < 5 * 0.3 / 12**0.5 / 200**0.5


def test_validation_has_the_same_masks_every_time():
    masks = BlockMasks([64, 64, 64], 8, [0.6, 0.9], seed=2)
    drawn = masks.validation(range(5))
    masks.training(0, range(5))
    assert torch.equal(masks.validation(range(5)), drawn)
    assert torch.equal(BlockMasks([64, 64, 64], 8, [0.6, 0.9], seed=2).validation([3]), drawn[3:4])
    assert (~drawn).flatten(1).sum(1).tolist() == [384] * 5  # 0.75 of 512


def test_no_samples_have_no_masks():
    assert BlockMasks([32, 32], 8).training(0, []).shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([48, 64, 40], 16), r"block_size 16: a patch of 48×64×40 voxels .* such as \[16, 16, 10\]"),
        (([48, 64, 48], [16, 16]), r"block_size \[16, 16\]: .* one an axis: patches have 3 axes"),
        (([48, 64], 0), "block_size 0: should be a positive whole number"),
        (([48, 64], "a"), "block_size 'a': should be a positive whole number"),
        (([16, 16], 16), "a single block, so that a mask would hide everything or nothing; give a smaller"),
        (
            ([32, 32], 16, 0.2),
            "mask_ratio 0.2: .* hide nothing of a patch of 2×2 blocks; give one of at least 0.25 and below 1",
        ),
        (([32, 32], 16, [0.6, 1.0]), r"mask_ratio \[0.6, 1.0\]: a mask would hide everything of a patch of 2×2 blocks"),
        (([32, 32], 16, 1), "mask_ratio 1: a mask would hide everything"),
        (([32, 32], 16, [0.9, 0.6]), r"mask_ratio \[0.9, 0.6\]: should be a number such as 0.75, or a range"),
        (([32, 32], 16, float("nan")), "mask_ratio nan: should be a number"),
        (([32, 32], 16, "most"), "mask_ratio 'most': should be a number"),
        (([32, 32], 16, 0.75, -1), "seed -1: should be a whole number from 0"),
    ],
)
def test_masks_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        BlockMasks(*arguments)


@pytest.mark.parametrize("cells", [3, 7, 27, 48])
def test_the_least_ratio_of_the_message_is_possible(cells):
    with pytest.raises(InputError, match="at least") as refused:
        BlockMasks([cells * 8], 8, 0.001)
    least = float(str(refused.value).split("at least ")[1].split(" ")[0])
    assert (~BlockMasks([cells * 8], 8, least).training(0, [0])).sum() == 1
