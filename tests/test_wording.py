import numpy as np
import pytest
import torch

from mednextv2.wording import count, times


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, "case"), "1 case"),
        ((0, "case"), "0 cases"),
        ((2, "NaN or infinite voxel"), "2 NaN or infinite voxels"),
        ((1, "class", "classes"), "1 class"),
        ((0, "class", "classes"), "0 classes"),
        ((12345, "entry", "entries"), "12345 entries"),
        ((np.int64(1), "case"), "1 case"),
    ],
)
def test_a_noun_is_in_the_plural_unless_it_is_one(arguments, text):
    assert count(*arguments) == text


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((48, 64, 48), "48×64×48"),
        (torch.Size([7]), "7"),
        ((), ""),
        ((2_000_000, 1), "2000000×1"),  # a file with all voxels along one axis
        (np.array([3, 4]), "3×4"),
        ((1.0, 0.5, 2.34567891), "1×0.5×2.34568"),
    ],
)
def test_sizes_are_joined(sizes, text):
    assert times(sizes) == text
