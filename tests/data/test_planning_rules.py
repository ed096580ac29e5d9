import math

import numpy as np
import pytest

from mednextv2.data.fingerprint import ChannelFacts, Fingerprint
from mednextv2.data.planning_rules import (
    batch_dice,
    median_shape,
    normalization,
    patch_and_batch,
    resampled_shapes,
    target_spacing,
)
from mednextv2.errors import InputError

PLENTY = 1e18


def voxels_of(patch, batch):
    """A memory model whose budgets can be worked out by hand: one byte a voxel."""
    return batch * math.prod(patch)


def fingerprint_of(*channels, kept=1.0):
    return Fingerprint(1, ((1.0, 1.0, 1.0),), ((9, 9, 9),), kept, channels, {0: 1}, {0: 1})


def channel_of(**facts):
    zero = dict.fromkeys(("mean", "median", "std", "minimum", "maximum", "percentile_0_5", "percentile_99_5"), 0.0)
    return ChannelFacts(**zero | facts)


# --- spacing


def test_isotropic_images_keep_the_median_spacing():
    spacings = [(1.0, 1.0, 1.0)] * 2 + [(2.0, 2.0, 2.0)]
    decision = target_spacing(spacings, [(100, 100, 100)] * 3)
    assert decision.value == (1.0, 1.0, 1.0)
    assert decision.reason == "median spacing of the cases"


def test_median_spacing_is_taken_along_each_axis_for_itself():
    spacings = [(1.0, 3.0, 2.0), (3.0, 1.0, 2.5), (2.0, 2.0, 1.0)]
    assert target_spacing(spacings, [(100, 100, 100)] * 3).value == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(("coarse", "name"), [(0, "right"), (1, "anterior"), (2, "superior")])
def test_coarse_axis_of_anisotropic_images_gets_its_10th_percentile(coarse, name):
    # ascending 2, 4.5, 5, …: of ten values the 10th percentile lies at 0.1 × 9 = 0.9, 2 + 0.9 × (4.5 − 2) = 4.25
    along = [5, 5, 4.5, 5, 6, 5, 2, 5, 5, 5]
    spacings = [np.insert([0.5, 0.5], coarse, mm) for mm in along]
    shapes = [np.insert([400, 400], coarse, 20)] * 10
    decision = target_spacing(spacings, shapes)
    assert decision.value == pytest.approx(np.insert([0.5, 0.5], coarse, 4.25))
    assert "anisotropic: 10th percentile of the coarse axis" in decision.reason
    assert name in decision.reason


def test_coarse_axis_does_not_become_finer_than_the_others():
    # 10th percentile of 0.4, 0.4, 5, …: 0.4, which is below the larger of the others, 0.6
    spacings = [(0.5, 0.6, mm) for mm in [0.4, 0.4] + [5] * 8]
    decision = target_spacing(spacings, [(400, 400, 20)] * 10)
    assert decision.value == pytest.approx((0.5, 0.6, 0.60001), abs=1e-9)
    assert "raised to the spacing of the other axes" in decision.reason


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ((0.5, 0.5, 5.0), (100, 100, 40)),  # 40 × 3 is not below 100
        ((0.5, 0.5, 5.0), (60, 400, 20)),  # 20 × 3 is not below 60
        ((1.0, 1.0, 3.0), (400, 400, 20)),  # 3 is not above 3 × 1
        ((0.5, 2.0, 5.0), (400, 400, 20)),  # 5 is not above 3 × 2
    ],
)
def test_median_is_kept_where_only_spacing_or_only_shape_is_anisotropic(spacing, shape):
    spacings = [spacing] * 8 + [(*spacing[:2], spacing[2] * 0.8)] * 2
    assert target_spacing(spacings, [shape] * 10).value == spacing


# --- shapes


def test_shapes_are_resampled_to_the_same_extent():
    # z: 20 × 5 / 4.25 = 23.53, 20 × 6 / 4.25 = 28.24, 20 × 4.5 / 4.25 = 21.18, 20 × 2 / 4.25 = 9.41
    spacings = [(0.5, 0.25, mm) for mm in (5, 6, 4.5, 2)]
    found = resampled_shapes(spacings, [(400, 400, 20)] * 4, (0.5, 0.5, 4.25))
    assert found == [(400, 200, 24), (400, 200, 28), (400, 200, 21), (400, 200, 9)]
    assert all(type(n) is int for shape in found for n in shape)
    assert median_shape(found) == (400, 200, 22.5)


def test_halves_of_resampled_shapes_are_rounded_as_python_does():
    # 5 × 0.5 = 2.5 and 7 × 0.5 = 3.5
    assert resampled_shapes([(0.5, 0.5, 1.0)], [(5, 7, 9)], (1.0, 1.0, 1.0)) == [(2, 4, 9)]


def test_no_shape_is_resampled_to_nothing():
    assert resampled_shapes([(1.0, 1.0, 1.0)], [(9, 9, 1)], (1.0, 1.0, 5.0)) == [(9, 9, 1)]


# --- normalisation


def test_ct_and_pet_get_a_scheme_each():
    ct = channel_of(mean=99.123456789, std=39.1, percentile_0_5=-17.0, percentile_99_5=201.00000001, median=1.0)
    found = normalization(["CT", "PET"], fingerprint_of(ct, channel_of(mean=7.0), kept=0.5))
    assert [decision.value for decision in found] == [
        {"scheme": "ct", "lower": -17.0, "upper": 201.0, "mean": 99.12346, "std": 39.1},
        {"scheme": "zscore", "inside_mask": True},
    ]
    assert "CT" in found[0].reason
    assert "50 %" in found[1].reason


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("ct", "ct"), ("Ct", "ct"), ("noNorm", "none"), ("rescale_to_0_1", "rescale_to_0_1"),
        ("rgb_to_0_1", "rgb_to_0_1"), ("zscore", "zscore"), ("T1w", "zscore"), ("MRI", "zscore"), ("CTA", "zscore"),
        ("CT angio", "zscore"), ("", "zscore"),
    ],
)  # fmt: skip
def test_scheme_is_named_by_the_channel_else_z_score(name, scheme):
    assert normalization([name], fingerprint_of(channel_of()))[0].value["scheme"] == scheme


@pytest.mark.parametrize(("kept", "masked"), [(1.0, False), (0.75, False), (0.7499, True), (0.1, True)])
def test_z_score_is_of_what_is_not_zero_where_much_of_the_images_is(kept, masked):
    assert normalization(["T1"], fingerprint_of(channel_of(), kept=kept))[0].value["inside_mask"] is masked


def test_mask_is_for_z_score_alone():
    names = ["ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1"]
    found = normalization(names, fingerprint_of(*[channel_of()] * 4, kept=0.1))
    assert not any("inside_mask" in decision.value for decision in found)


def test_names_and_channels_must_be_equally_many():
    with pytest.raises(InputError, match=r"2 image channels .*the images have 1"):
        normalization(["T1", "T2"], fingerprint_of(channel_of()))


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


# --- Dice


@pytest.mark.parametrize(
    ("needed", "spacing", "expected"),
    [
        # `needed`: how many times fewer voxels the image must have until a patch covers a quarter of it
        (1.0, (1, 1, 1), False),
        (1.0001, (1, 1, 1), False),
        (1.85, (1, 1, 1), False),  # 7 steps of 1.03³: 1.860 times fewer, below 2
        (1.87, (1, 1, 1), True),  # 8 steps: 2.033
        (100, (1, 1, 1), True),
        (1.9, (0.5, 0.5, 5), False),  # 11 steps of 1.03², since the coarse axis stays as it is: 1.916
        (1.92, (0.5, 0.5, 5), True),  # 12 steps: 2.033
        (1.9, (1, 1, 2), True),  # 2 is not more than twice 1: all axes, 8 steps
    ],
)
def test_dice_is_of_the_batch_where_nnunet_would_want_a_low_resolution(needed, spacing, expected):
    assert batch_dice((16, 16, 16), (16, 16, 64 * needed), spacing).value is expected


def test_dice_of_huge_images_is_of_the_batch_and_says_why():
    decision = batch_dice((176, 176, 224), (512, 512, 1000), (0.8, 0.8, 1.0))
    assert decision.value is True
    assert decision.reason == "a patch covers 2.65 % of the median image, too little for a Dice of its own"


def test_dice_is_of_each_patch_where_it_covers_a_quarter_of_the_image():
    assert batch_dice((48, 64, 48), (35, 50, 36), (1, 1, 1)).reason == "a patch covers 100 % of the median image"
    assert batch_dice((16, 16, 16), (32, 32, 16), (1, 1, 1)).reason == "a patch covers 25 % of the median image"


def test_given_spacing_is_left_as_it_was():
    spacing = np.array([1.0, 1.0, 1.0])
    batch_dice((16, 16, 16), (160, 160, 160), spacing)
    assert spacing.tolist() == [1, 1, 1]
