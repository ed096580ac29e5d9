import pytest
import torch
from net_helpers import tiny

from mednextv2.nets.legal_sizes import DIVISOR, LEVELS, check_spatial_shape, is_legal, nearest, round_up, scaled_patch


@pytest.mark.parametrize("size", range(65))
def test_legal_are_the_sizes_that_can_be_halved_to_the_bottleneck(size):
    half = size
    for _ in range(LEVELS - 1):
        half = half / 2
    assert is_legal(size) is (half >= 1 and half == int(half))


def test_the_smallest_legal_size_leaves_one_voxel_to_the_bottleneck():
    network = tiny(spatial_dims=2)
    seen = []
    network.bottleneck[0].register_forward_hook(lambda _, inputs, output: seen.append(output.shape[2:]))
    network(torch.zeros(1, 1, DIVISOR, 2 * DIVISOR))
    assert seen == [(1, 2)]


@pytest.mark.parametrize(
    ("size", "up", "near"),
    [(0, 16, 16), (1, 16, 16), (16, 16, 16), (17, 32, 16), (24, 32, 32), (25, 32, 32), (40, 48, 32), (150, 160, 144)],
)
def test_other_sizes_are_rounded_to_legal_ones(size, up, near):
    assert (round_up(size), nearest(size)) == (up, near)
    assert is_legal(up)
    assert is_legal(near)


def test_a_half_above_a_legal_size_is_rounded_up():  # the median of an even number of cases
    assert (round_up(48.0), round_up(48.5)) == (48, 64)
    assert isinstance(round_up(48.5), int)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 40])
def test_the_check_lets_legal_sizes_pass_and_no_others(size):
    x = torch.empty(1, 1, 16, size, 32, device="meta")
    if is_legal(size):
        check_spatial_shape(x, 3)
    else:
        with pytest.raises(ValueError, match=f"spatial axis 1 has {size} voxels; .* {round_up(size)}$"):
            check_spatial_shape(x, 3)


@pytest.mark.parametrize(
    ("patch", "context", "expected"),
    [
        ([128, 128, 128], 1.5, [192, 192, 192]),  # the patches of MedNeXt-v2 (arXiv:2512.17774)
        ([48, 64, 48], 1.5, [80, 96, 80]),
        ([16, 32], 0.5, [16, 16]),
        ([48, 64, 48], 1, [48, 64, 48]),
        ((48, 64), 1.0, [48, 64]),
        ([50, 64], 1.0, [50, 64]),  # left to the check of the settings, as are all below
        ([48, 64], "2", [48, 64]),
        ([48, 64], True, [48, 64]),
        ([48, 64], -1, [48, 64]),
        ("48", 2, "48"),
        (None, 2, None),
    ],
)
def test_a_patch_with_more_context_has_legal_sizes(patch, context, expected):
    assert scaled_patch(patch, context) == expected
