import json
import math
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import CropForeground
from scipy.spatial.transform import Rotation

from mednextv2.data import read_dataset, read_volume
from mednextv2.data.fingerprint import Fingerprint, case_facts, combine
from mednextv2.errors import InputError

FOLDER = Path(os.environ.get("MEDNEXTV2_DATA", "")) / "Task04_Hippocampus"
PERCENTILES = {"percentile_0_5": 0.5, "median": 50, "percentile_99_5": 99.5}


@pytest.fixture
def random():
    return np.random.default_rng(0)


def case_of(*channels, name="case"):
    """A case whose foreground has these intensities."""
    image = np.ones((len(channels), len(channels[0]) + 1, 1, 1), np.asarray(channels[0]).dtype)
    image[:, 1:, 0, 0] = channels
    label = np.ones(image.shape[1:], np.uint8)
    label[0] = 0
    return case_facts(image, label, np.eye(4), name)


def rotated(order, signs, spacing, degrees):
    """An affine whose file axis i runs along axis order[i] of the body."""
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[:, order] @ np.diag(np.multiply(signs, spacing))
    return affine


# --- one case


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -8, 20)])
@pytest.mark.parametrize(
    ("order", "signs"),
    [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 2, 0), (1, -1, 1)), ((0, 2, 1), (-1, 1, 1))],
)
def test_spacing_and_shape_are_along_right_anterior_superior(order, signs, degrees, layout):
    array = np.asarray(np.ones((4, 5, 6), np.float32), order=layout)
    affine = rotated(order, signs, (0.5, 2.0, 3.5), degrees)
    facts = case_facts(array[None], np.ones((4, 5, 6), np.uint8), affine)
    reference = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    assert facts.shape == reference.shape
    assert facts.spacing == pytest.approx(reference.header.get_zooms(), rel=1e-6)


def test_case_is_cropped_to_the_box_of_what_is_not_zero_in_any_channel(random):
    image = np.zeros((2, 12, 10, 8), np.int16)
    image[0, 3:6, 4:9, 2] = -1000
    image[1, 5:8, 2:4, 2:5] = 7
    label = np.ones(image.shape[1:], np.uint8)
    facts = case_facts(image, label, np.eye(4))
    # the union of both is 3…7, 2…8, 2…4
    assert facts.shape == (5, 7, 3)
    assert facts.shape == CropForeground(select_fn=lambda x: x != 0)(image).shape[1:]
    assert facts.kept == pytest.approx(5 * 7 * 3 / (12 * 10 * 8))
    assert facts.values == {1: 5 * 7 * 3}
    inside = image[:, 3:8, 2:9, 2:5].reshape(2, -1)
    assert [channel.mean for channel in facts.channels] == pytest.approx(inside.mean(axis=1))


def test_box_is_kept_apart_from_the_order_of_axes():
    # the file's axes are superior, right, anterior; the box has 2, 3, 4 voxels along them
    image = np.zeros((1, 10, 10, 10), order="F", dtype=np.float32)
    image[0, 1:3, 4:7, 2:6] = 1
    facts = case_facts(image, (image[0] > 0).astype(np.uint8), rotated((2, 0, 1), (1, 1, 1), (5, 1, 2), (0, 0, 0)))
    assert facts.shape == (3, 4, 2)
    assert facts.spacing == (1, 2, 5)


def test_box_may_start_at_the_first_voxel():
    image = np.zeros((1, 3, 4, 5))
    image[0, 0, 0, :2] = 1
    assert case_facts(image, np.ones((3, 4, 5)), np.eye(4)).shape == (1, 1, 2)


def test_empty_image_is_not_cropped():
    facts = case_facts(np.zeros((1, 3, 4, 5)), np.zeros((3, 4, 5)), np.eye(4))
    assert (facts.shape, facts.kept, facts.values) == ((3, 4, 5), 1, {0: 60})


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<u4", "<f4", ">f4", "<f8"])
def test_intensities_are_those_of_the_foreground(random, dtype, layout):
    image = np.asarray(random.integers(1, 200, (2, 9, 8, 7)).astype(dtype), order=layout)
    label = np.asarray(random.integers(0, 3, (9, 8, 7)), order="C").astype(np.int16)
    facts = case_facts(image, label, np.eye(4))
    for channel, values in zip(facts.channels, image[:, label > 0].astype(np.float64), strict=True):
        assert channel.count == len(values)
        assert channel.mean == pytest.approx(values.mean(), rel=1e-12)
        assert channel.variance == pytest.approx(values.var(), rel=1e-12)
        assert (channel.minimum, channel.maximum) == (values.min(), values.max())
        assert channel.sample.dtype == np.float32
        np.testing.assert_array_equal(channel.sample, np.sort(values))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, bool])
def test_label_values_are_counted(dtype):
    label = np.array([0, 0, 0, 1, 1, 2]).astype(dtype).reshape(1, 2, 3)
    facts = case_facts(np.ones((1, 1, 2, 3)), label, np.eye(4))
    assert facts.values == ({0: 3, 1: 3} if dtype is bool else {0: 3, 1: 2, 2: 1})
    assert all(type(n) is int for pair in facts.values.items() for n in pair)


def test_variance_is_exact_around_a_large_mean(random):
    # more than a chunk of them; the plain mean of squares would be off by thousands
    values = (2**23 + random.integers(-3, 4, 1_100_000)).astype(np.float32)
    channel = case_of(values).channels[0]
    exact = (values.astype(np.int64) - 2**23).astype(np.float64)
    assert channel.mean == pytest.approx(2**23 + exact.mean(), rel=1e-14)
    assert channel.variance == pytest.approx(exact.var(), rel=1e-9)


def test_sample_is_20_000_of_the_values_without_replacement(random):
    values = random.permutation(30_000).astype(np.float32)
    channel = case_of(values).channels[0]
    sample = channel.sample
    assert len(np.unique(sample)) == len(sample) == 20_000
    assert (np.diff(sample) > 0).all()
    assert np.isin(sample, values).all()
    assert np.percentile(sample, [10, 50, 90]) == pytest.approx([3_000, 15_000, 27_000], abs=300)
    assert (channel.minimum, channel.maximum, channel.count) == (0, 29_999, 30_000)
    assert channel.mean == pytest.approx(14_999.5)


def test_sample_is_the_same_in_every_run_and_another_for_another_case(random):
    values = random.permutation(30_000)
    first, again, other = (case_of(values, values, name=name).channels for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first[0].sample, again[0].sample)
    np.testing.assert_array_equal(first[0].sample, first[1].sample)
    assert not np.array_equal(first[0].sample, other[0].sample)


def test_no_copy_of_the_volume_is_made_in_a_wider_type():
    image = np.ones((1, 128, 128, 128), np.int16)
    label = np.zeros((128, 128, 128), np.uint8)
    label[:20, :20, :20] = 1
    tracemalloc.start()
    case_facts(image, label, np.eye(4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * image.nbytes  # a float32 copy alone would be 2


# --- mistakes


@pytest.mark.parametrize(
    ("shape", "label_shape"), [((4, 4, 4), (4, 4, 4)), ((1, 4, 4, 4), (4, 4, 5)), ((4, 4), (4, 4)), ((1, 4), (4,))]
)
def test_shapes_that_do_not_fit_are_refused(shape, label_shape):
    with pytest.raises(InputError, match=r"case x: image .* and label map .* resample"):
        case_facts(np.ones(shape), np.ones(label_shape), np.eye(4), "x")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_foreground_that_is_not_finite_is_refused(wrong):
    with pytest.raises(InputError, match="case x: has NaN or infinite voxels"):
        case_of(np.array([1, wrong, 2]), name="x")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1, 1.5])
def test_label_map_must_have_whole_numbers_from_0_on(wrong):
    label = np.array([0, 1, wrong]).reshape(3, 1, 1)
    with pytest.raises(InputError, match="case x: the label map holds other values"):
        case_facts(np.ones((1, 3, 1, 1)), label, np.eye(4), "x")


def test_affine_without_volume_is_refused():
    with pytest.raises(InputError, match="case x: the affine"):
        case_facts(np.ones((1, 3, 1, 1)), np.ones((3, 1, 1)), np.diag([1.0, 0, 1, 1]), "x")


def test_data_set_without_foreground_is_refused():
    empty = case_facts(np.ones((1, 3, 1, 1)), np.zeros((3, 1, 1)), np.eye(4))
    with pytest.raises(InputError, match="none of the 2 cases"):
        combine([empty, empty])


def test_cases_with_different_numbers_of_channels_are_refused():
    with pytest.raises(InputError, match="case b: has 2 image channels, but case a has 1"):
        combine([case_of([1, 2], name="a"), case_of([1, 2], [1, 2], name="b")])


# --- all cases


@pytest.mark.parametrize("sizes", [(7,), (5, 5, 5), (4, 6), (1, 2, 3, 4, 10), (1, 60), (97, 101, 103)])
def test_every_case_weighs_the_same_whatever_its_size(random, sizes):
    cases = [random.normal(100 * i, 5 + i, (2, size)).astype(np.float32) for i, size in enumerate(sizes)]
    found = combine([case_of(*case) for case in cases]).channels
    expanded = [np.repeat(case, math.lcm(*sizes) // case.shape[1], axis=1) for case in cases]
    pool = np.concatenate(expanded, axis=1).astype(np.float64)
    for facts, values in zip(found, pool, strict=True):
        assert facts.mean == pytest.approx(values.mean(), rel=1e-12)
        assert facts.std == pytest.approx(values.std(), rel=1e-12)
        assert (facts.minimum, facts.maximum) == (values.min(), values.max())
        for name, percent in PERCENTILES.items():
            assert getattr(facts, name) == pytest.approx(np.percentile(values, percent), rel=1e-9), name


def test_percentiles_fall_between_values_as_numpys_do():
    facts = combine([case_of([1.0, 2.0]), case_of([10.0, 20.0])]).channels[0]
    assert (facts.percentile_0_5, facts.median, facts.percentile_99_5) == pytest.approx((1.015, 6.0, 19.85))


def test_percentiles_of_many_sizes_are_where_the_cases_weights_add_up(random):
    sizes = [997, 991, 983, 977, 971, 967]  # primes: their least common multiple has 18 digits
    cases = [random.normal(i, 1, size).astype(np.float32) for i, size in enumerate(sizes)]
    facts = combine([case_of(case) for case in cases]).channels[0]
    for name, percent in PERCENTILES.items():
        at = getattr(facts, name)
        below = np.mean([(case < at - 1e-6).mean() for case in cases])
        up_to = np.mean([(case <= at + 1e-6).mean() for case in cases])
        assert below <= percent / 100 <= up_to, name


def test_deviation_is_exact_around_a_large_mean():
    cases = [case_of(np.array([1e9, 1e9 + 2])), case_of(np.array([1e9 + 4] * 5))]
    # means 1 and 4, variances 1 and 0 above 10⁹: mean 2.5, variance 0.5 + 1.5² = 2.75
    facts = combine(cases).channels[0]
    assert facts.mean == 1e9 + 2.5
    assert facts.std == pytest.approx(math.sqrt(2.75), rel=1e-12)


def test_case_without_foreground_contributes_no_intensities():
    full = [case_of([1.0, 2.0, 3.0]), case_of([5.0, 9.0])]
    empty = case_facts(np.full((1, 6, 5, 4), 1e6), np.zeros((6, 5, 4)), np.diag([2.0, 2, 2, 1]))
    with_it, without = combine([empty, *full]), combine(full)
    assert with_it.channels == without.channels
    assert (with_it.cases, without.cases) == (3, 2)
    assert with_it.shapes == ((6, 5, 4), *without.shapes)
    assert with_it.spacings == ((2, 2, 2), *without.spacings)


def test_sizes_and_label_values_are_those_of_all_cases():
    cases = [replace(case_of([1.0]), kept=kept) for kept in (0.2, 0.9, 0.5)]
    cases[0] = replace(cases[0], values={0: 5, 2: 7})
    cases[1] = replace(cases[1], values={0: 1, 1: 2, 2: 3})
    found = combine(cases)
    assert found.kept == 0.5
    assert found.voxels == {0: 5 + 1 + 1, 1: 2 + 1, 2: 10}
    assert found.cases_with == {0: 3, 1: 2, 2: 2}


def test_fingerprint_survives_json(random):
    found = combine([case_of(*random.normal(0, 1, (2, 50))) for _ in range(3)])
    content = found.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert Fingerprint.from_dict(json.loads(json.dumps(content))) == found


# --- real data


@pytest.mark.skipif(not os.environ.get("MEDNEXTV2_DATA"), reason="MEDNEXTV2_DATA is not set")
def test_fingerprint_of_task_4_is_that_of_nnunet():
    facts = []
    for case in read_dataset(FOLDER).cases:
        image, affine = read_volume(case.images[0])
        facts.append(case_facts(image[None], read_volume(case.label)[0], affine, case.name))
    found = combine(facts)
    assert np.median(found.shapes, axis=0).tolist() == [35, 50, 36]  # nnU-Net has z, y, x
    assert set(found.spacings) == {(1, 1, 1)}
    assert found.kept == 1
    assert found.cases_with == dict.fromkeys((0, 1, 2), found.cases)
    if found.cases != 208:
        pytest.skip("the figures are those of 208 cases")
    channel = found.channels[0]
    # nnU-Net 2's dataset_fingerprint.json of these files; it draws voxels at random
    assert channel.mean == pytest.approx(19663.9, rel=1e-3)
    assert channel.std == pytest.approx(56157.2, rel=1e-3)
    assert channel.median == pytest.approx(360.4, rel=1e-3)
    assert channel.percentile_0_5 == pytest.approx(28.0, rel=1e-2)
    assert channel.percentile_99_5 == pytest.approx(264157.0, rel=1e-2)
