"""The rules for the size of a patch and of a batch."""

import math

import numpy as np
import pytest

from mednextv2.data.planning_rules import batch_dice, median_shape, patch_and_batch, resampled_shapes, target_spacing
from mednextv2.errors import InputError

PLENTY = 1e18


def voxels_of(patch, batch):
    """A memory model whose budgets can be worked out by hand: one byte a voxel."""
    return batch * math.prod(patch)


# --- patch and batch


def test_isotropic_image_is_clipped_to_the_largest_patch():
    # clipped to 200, rounded up to 208; 208³ > 192³, so each axis loses 16 once
    patch, batch = patch_and_batch((200, 200, 200), (1, 1, 1), 10 * 200**3, voxels_of, PLENTY)
    assert patch.value == (192, 192, 192)
    assert patch.reason == "limited to 7,077,888 voxels"
    assert batch.value == 2  # 5 % of 10 × 200³ are 0.6 patches


def test_patch_starts_with_256_cubed_voxels():
    patch, _ = patch_and_batch((1000, 1000, 1000), (1, 1, 1), 1e12, voxels_of, PLENTY, largest=10**9)
    assert patch.value == (256, 256, 256)
    assert patch.reason == "the same extent in mm along each axis, within the median image"


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (2 * 128**3, (128, 128, 128)),
        (2 * 128**3 - 1, (112, 128, 128)),
        (2 * 128 * 128 * 144, (128, 128, 144)),
        (2 * 128 * 128 * 144 - 1, (128, 128, 128)),
    ],
)
def test_patch_shrinks_by_16_until_it_fits_into_the_memory(budget, expected):
    patch, _ = patch_and_batch((192, 192, 192), (1, 1, 1), 1e12, voxels_of, budget)
    assert patch.value == expected
    assert "--memory" in patch.reason


def test_anisotropic_image_has_an_anisotropic_patch():
    # extent 256 × (0.5 × 0.5 × 4.25)^⅓ = 261 mm: 522, 522, 61 voxels, clipped to 400, 400, 24, of which the last
    # is rounded up to 32
    patch, _ = patch_and_batch((400, 400, 24), (0.5, 0.5, 4.25), 1e9, voxels_of, PLENTY)
    assert patch.value == (400, 400, 32)
    assert patch.reason == "the whole median image, rounded up to multiples of 16"
    # 32/24 is the largest ratio, so the coarse axis is the first to shrink
    patch, _ = patch_and_batch((400, 400, 24), (0.5, 0.5, 4.25), 1e9, voxels_of, 2 * 400 * 400 * 32 - 1)
    assert patch.value == (400, 400, 16)
    # from there on it stays, and the other two take turns
    patch, _ = patch_and_batch((400, 400, 24), (0.5, 0.5, 4.25), 1e9, voxels_of, 2 * 368 * 384 * 16)
    assert patch.value == (368, 384, 16)


def test_start_has_the_same_extent_along_each_axis():
    # extent 256 × (1 × 2 × 4)^⅓ = 512 mm: 512, 256, 128 voxels
    patch, _ = patch_and_batch((5000, 5000, 5000), (1, 2, 4), 1e12, voxels_of, PLENTY, largest=10**9)
    assert patch.value == (512, 256, 128)


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_nearly_flat_image_gets_a_patch_of_16_slices(slices):
    # extent 256 × (0.5 × 0.5 × 10)^⅓ = 347 mm, clipped to the image along every axis
    spacing, median = (0.5, 0.5, 10), (320, 320, slices)
    assert target_spacing([spacing] * 3, [median] * 3).value == spacing
    patch, batch = patch_and_batch(median, spacing, 100 * math.prod(median), voxels_of, PLENTY)
    assert patch.value == (320, 320, 16)
    assert batch.value == 2
    # 16/1 is by far the largest ratio, but a side of 16 does not shrink
    patch, _ = patch_and_batch(median, spacing, 1e9, voxels_of, 2 * 160 * 160 * 16)
    assert patch.value == (160, 160, 16)


def test_image_smaller_than_16_voxels_gets_the_smallest_patch():
    # 5 % of 1000 × 10 × 12 × 8 are 48 000 voxels, 11.7 patches of 16³
    patch, batch = patch_and_batch((10, 12, 8), (1, 1, 1), 1000 * 960, voxels_of, PLENTY)
    assert patch.value == (16, 16, 16)
    assert batch.value == 12
    assert batch.reason == "limited by 5 % of the data set"


def test_patch_is_not_empty_along_an_axis_that_is_far_too_coarse():
    # extent 256 × (0.001 × 0.001 × 900)^⅓ = 24.7 mm: less than half a voxel of 900 mm
    patch, _ = patch_and_batch((500, 500, 500), (0.001, 0.001, 900), 1e12, voxels_of, PLENTY)
    assert patch.value[2] == 16


def test_huge_image_is_covered_evenly():
    # extent 256 × 0.64^⅓ = 220.6 mm: 276, 276, 221 voxels, rounded up to 288, 288, 224, ratios 0.56, 0.56, 0.22.
    # In turn the first two shrink to 176 (0.34): 176 × 176 × 224 is the first below 192³.
    image, spacing = (512, 512, 1000), (0.8, 0.8, 1.0)
    patch, _ = patch_and_batch(image, spacing, 1e12, voxels_of, PLENTY)
    assert patch.value == (176, 176, 224)
    # Further down to 112 (0.21875); then 224/1000 is larger: 208 (0.208); then again the first two, to 96:
    # 112 × 112 × 224 = 2,809,856; × 208 = 2,609,152; 96 × 112 × 208 = 2,236,416; 96 × 96 × 208 = 1,916,928
    patch, _ = patch_and_batch(image, spacing, 1e12, voxels_of, 2 * 128**3)
    assert patch.value == (96, 96, 208)


def test_of_equal_ratios_the_longest_side_shrinks():
    # 24 → 32 and 36 → 48 are both 4/3, 48 → 48 is 1
    patch, _ = patch_and_batch((24, 36, 48), (1, 1, 1), 1e9, voxels_of, 2 * 32 * 48 * 48 - 1)
    assert patch.value == (32, 32, 48)


def test_hippocampus_gets_the_patch_of_its_bundle():
    # 35 × 50 × 36 rounded up; 5 % of 260 × 35 × 50 × 36 are 819 000 voxels, 5.55 patches of 48 × 64 × 48
    shapes = [(35, 50, 36)] * 260
    assert target_spacing([(1.0, 1.0, 1.0)] * 260, shapes).value == (1, 1, 1)
    median = median_shape(resampled_shapes([(1.0, 1.0, 1.0)] * 260, shapes, (1.0, 1.0, 1.0)))
    patch, batch = patch_and_batch(median, (1, 1, 1), 260 * math.prod(median), voxels_of, PLENTY)
    assert patch.value == (48, 64, 48)
    assert batch.value == 6
    assert batch_dice(patch.value, median, (1, 1, 1)).value is False


def test_memory_that_is_left_goes_into_the_batch():
    patch, batch = patch_and_batch((64, 64, 64), (1, 1, 1), 1e9, voxels_of, 5.5 * 64**3)
    assert (patch.value, batch.value) == ((64, 64, 64), 5)
    assert batch.reason.startswith("limited by --memory")
    _, batch = patch_and_batch((64, 64, 64), (1, 1, 1), 1e9, voxels_of, 2.9 * 64**3)
    assert batch.value == 2
    assert batch.reason.startswith("limited by --memory")


def test_memory_is_named_in_gibibytes():
    patch, batch = patch_and_batch(
        (64, 64, 64), (1, 1, 1), 1e9, lambda p, b: b * 2**33 * math.prod(p) / 64**3, 24 * 2**30
    )
    assert (patch.value, batch.value, batch.reason) == ((64, 64, 64), 3, "limited by --memory 24 GiB")


def test_batch_has_at_least_two_patches_of_a_small_data_set():
    _, batch = patch_and_batch((64, 64, 64), (1, 1, 1), 3 * 64**3, voxels_of, PLENTY)
    assert batch.value == 2
    assert batch.reason == "the smallest batch; 5 % of the data set are not more"


def test_smallest_batch_can_be_another():
    patch, batch = patch_and_batch((64, 64, 64), (1, 1, 1), 1e9, voxels_of, 4 * 64**3 - 1, min_batch=4)
    assert (patch.value, batch.value) == ((48, 64, 64), 5)
    _, batch = patch_and_batch((64, 64, 64), (1, 1, 1), 1, voxels_of, PLENTY, min_batch=4)
    assert batch.value == 4


def test_patch_that_does_not_fit_at_all_says_what_to_do():
    with pytest.raises(InputError, match=r"--memory 1 GiB.*needs 2 GiB; raise --memory or take a smaller --variant"):
        patch_and_batch((64, 64, 64), (1, 1, 1), 1e9, lambda patch, batch: batch * 2**30 + math.prod(patch), 2**30)
    patch, _ = patch_and_batch((64, 64, 64), (1, 1, 1), 1e9, voxels_of, 2 * 16**3)
    assert patch.value == (16, 16, 16)


def test_random_data_sets_keep_every_limit():
    random = np.random.default_rng(0)
    for _ in range(200):
        cases = random.integers(1, 30)
        spacings = random.uniform(0.3, 3, 3) * random.uniform(0.8, 1.2, (cases, 3))
        shapes = np.maximum(1, random.choice([5, 30, 200, 600], 3) * random.uniform(0.5, 1.5, (cases, 3))).astype(int)
        spacing = target_spacing(spacings, shapes).value
        median = median_shape(resampled_shapes(spacings, shapes, spacing))
        fixed, voxel = random.uniform(0, 1e6), random.uniform(1, 100)
        budget = fixed + 2 * 16**3 * voxel * random.choice([1, 10, 1000, 10000])

        def memory_of(patch, batch, fixed=fixed, voxel=voxel):
            return fixed + voxel * batch * math.prod(patch)

        voxels = cases * math.prod(median)
        patch, batch = (d.value for d in patch_and_batch(median, spacing, voxels, memory_of, budget))
        assert all(type(n) is int and n >= 16 and n % 16 == 0 for n in patch)
        assert all(n <= 16 * math.ceil(size / 16) for n, size in zip(patch, median, strict=True))
        assert math.prod(patch) <= 192**3
        assert memory_of(patch, batch) <= budget
        assert batch >= 2
        cap = round(voxels * 0.05 / math.prod(patch))
        assert batch == 2 or batch <= cap
        assert batch >= cap or memory_of(patch, batch + 1) > budget
