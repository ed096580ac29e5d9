import numpy as np
import pytest

from mednextv2.data.fingerprint import ChannelFacts, Fingerprint
from mednextv2.data.planning_rules import batch_dice, median_shape, normalization, resampled_shapes, target_spacing
from mednextv2.errors import InputError


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
