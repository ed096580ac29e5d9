import itertools
import json
import weakref

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, Flipd, KeepLargestConnectedComponent
from skimage import measure

from mednextv2.errors import InputError
from mednextv2.images import label_map_files
from mednextv2.inference import postprocessing_choice
from mednextv2.inference.components import apply_steps, keep_largest
from mednextv2.inference.postprocessing import ApplyPostprocessingd, Postprocessing
from mednextv2.inference.postprocessing_choice import choose_postprocessing
from mednextv2.label_scheme import LabelScheme

AB = LabelScheme(["background", "a", "b"])
NESTED = LabelScheme(
    ["background", "edema", "core", "active"],
    [
        {"name": "whole", "values": [1, 2, 3], "paint": 1},
        {"name": "tumour", "values": [2, 3], "paint": 2},
        {"name": "enhancing", "values": [3], "paint": 3},
    ],
)
INSIDE_FIRST = LabelScheme(NESTED.labels, [r._asdict() for r in reversed(NESTED.regions)])


def strip(text):
    """A label map of one row of voxels: `"11.2"` to 1, 1, 0, 2."""
    return np.array([0 if c == "." else int(c) for c in text], dtype=np.uint8)[:, None, None]


def text(label_map):
    return "".join("." if v == 0 else str(v) for v in label_map.ravel())


def save(path, array):
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Writes (prediction, label) arrays or strips, and returns the files' names."""

    def write(*cases, ending=".nii"):
        pairs = []
        for i, pair in enumerate(cases):
            arrays = [strip(a) if isinstance(a, str) else a for a in pair]
            names = (tmp_path / f"{kind}_{i}{ending}" for kind in ("pred", "label"))
            pairs.append(tuple(save(name, a) for name, a in zip(names, arrays, strict=True)))
        return pairs

    return write


@pytest.fixture
def reads(monkeypatch):
    """The files that were read, in order, and the largest number of their arrays in memory at once."""
    log = {"files": [], "alive": 0, "most": 0}
    read = label_map_files.read_volume

    def dropped():
        log["alive"] -= 1

    def counted(path):
        array, affine = read(path)
        array = np.array(array)
        log["files"].append(path)
        log["alive"] += 1
        log["most"] = max(log["most"], log["alive"])
        weakref.finalize(array, dropped)
        return array, affine

    monkeypatch.setattr(label_map_files, "read_volume", counted)
    return log


# --- the definition, written plainly on scikit-image ------------------------------------------------------------------


def largest_by_definition(mask):
    components = measure.label(mask, connectivity=mask.ndim)
    sizes = {r.label: int(r.area) for r in measure.regionprops(components)}
    return np.isin(components, [label for label, size in sizes.items() if size == max(sizes.values())])


def step_by_definition(label_map, values):
    mask = np.isin(label_map, values)
    return np.where(mask & ~largest_by_definition(mask), 0, label_map)


def mean_dice_by_definition(preds, refs, scheme):
    """Dice by structure (the mean over cases), and that of the foreground."""
    scores = []
    for pred, ref in zip(preds, refs, strict=True):
        valid = np.ones(ref.shape, bool) if scheme.ignore_label is None else ref != scheme.ignore_label
        scores.append([])
        for values in scheme.members:
            p, r = np.isin(pred, values) & valid, np.isin(ref, values) & valid
            total = p.sum() + r.sum()
            scores[-1].append(2 * (p & r).sum() / total if total else np.nan)
    scores = np.ma.masked_invalid(scores).mean(axis=0)
    return scores.filled(np.nan), float(np.ma.filled(scores.mean(), np.nan))


def decide_by_definition(preds, refs, scheme):
    """The steps: the union first, then one structure after the other, each on top of what was accepted."""
    steps = []
    union = list(range(1, len(scheme.labels)))
    before, mean = mean_dice_by_definition(preds, refs, scheme)
    tried = [step_by_definition(p, union) for p in preds]
    after, new_mean = mean_dice_by_definition(tried, refs, scheme)
    if new_mean > mean and not (after < before).any():
        steps, preds, before = [union], tried, after
    for i, values in enumerate(scheme.members if len(scheme.members) > 1 else []):
        tried = [step_by_definition(p, values) for p in preds]
        after, _ = mean_dice_by_definition(tried, refs, scheme)
        if after[i] > before[i]:
            steps, preds, before = [*steps, list(values)], tried, after
    return steps


# --- the largest component --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(31, 24), (13, 11, 9)])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.25, 0.6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_largest_component_is_that_of_scikit_image_with_full_connectivity(shape, density, seed):
    mask = np.random.default_rng(seed).random(shape) < density
    assert np.array_equal(keep_largest(mask), largest_by_definition(mask))


@pytest.mark.parametrize("dims", [2, 3])
def test_voxels_that_touch_at_a_corner_are_connected(dims):
    mask = np.zeros((6,) * dims, bool)
    mask[(0,) * dims] = mask[(1,) * dims] = True
    mask[(4,) * dims] = True
    expected = mask.copy()
    expected[(4,) * dims] = False
    assert np.array_equal(keep_largest(mask), expected)


def test_all_components_of_the_largest_size_are_kept_where_monai_keeps_one():
    mask = strip("11.1.11") > 0
    assert text(keep_largest(mask).astype(int)) == "11...11"
    assert KeepLargestConnectedComponent(is_onehot=False)(mask[None].astype(np.uint8)).sum() == 2


def test_without_ties_it_is_monais_component():
    mask = np.random.default_rng(5).random((14, 12, 10)) < 0.12
    sizes = sorted(r.area for r in measure.regionprops(measure.label(mask)))
    assert len(sizes) > 5
    assert sizes[-1] > sizes[-2]
    theirs = KeepLargestConnectedComponent(is_onehot=False)(mask[None].astype(np.uint8))[0]
    assert np.array_equal(keep_largest(mask), np.asarray(theirs) > 0)


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks_stay(value):
    mask = np.full((4, 5, 6), value)
    kept = keep_largest(mask)
    assert np.array_equal(kept, mask)
    assert kept is not mask


def test_mask_may_have_any_order_of_axes_and_is_not_changed():
    mask = np.random.default_rng(3).random((12, 10, 8)) < 0.1
    expected = largest_by_definition(mask)
    given = mask.copy()
    given.flags.writeable = False
    assert np.array_equal(keep_largest(given), expected)
    assert np.array_equal(keep_largest(np.asfortranarray(mask)), expected)
    assert np.array_equal(keep_largest(mask[::-1, :, ::-1]), expected[::-1, :, ::-1])
    assert np.array_equal(given, mask)


# --- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "steps", "expected"),
    [
        ("11.1.22", [], "11.1.22"),
        ("11.1.22", [[1]], "11...22"),
        ("11.1.22", [[2]], "11.1.22"),
        ("112.1.2", [[1, 2]], "112...."),
        ("11.1222", [[1, 2], [1]], "...1222"),  # the same two steps
        ("11.1222", [[1], [1, 2]], "....222"),  # in the other order
        ("13.1.2", [[1, 3]], "13...2"),  # 2 is between them, but not a member
        ("12.1.2", [[3], [9]], "12.1.2"),
        ("......", [[1], [1, 2]], "......"),
        ("1233.23.3.1", [[1, 2, 3]], "1233......."),
        ("1233.2.3.1", [[2, 3]], "1233.....1"),  # the region is 2 and 3; 1 around it stays
        ("1223.33", [[1, 2, 3], [3]], "1223..."),
        ("1223.33", [[3], [1, 2, 3]], "122...."),
    ],
)
def test_each_step_leaves_the_largest_component_of_its_union_and_removed_voxels_become_background(
    given, steps, expected
):
    assert text(apply_steps(strip(given), steps)) == expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(17, 12), (9, 8, 7)])
def test_steps_are_those_of_the_definition_one_after_the_other(seed, shape):
    rng = np.random.default_rng(seed)
    label_map = rng.choice(6, shape, p=[0.85, 0.03, 0.03, 0.03, 0.03, 0.03])
    steps = [rng.permutation(np.arange(1, 6))[: rng.integers(1, 6)].tolist() for _ in range(3)]
    expected = label_map
    for values in steps:
        expected = step_by_definition(expected, values)
    assert np.array_equal(apply_steps(label_map, steps), expected)
    assert not np.array_equal(expected, label_map)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "i8", "f4", "f8"])
def test_label_map_keeps_its_type_and_is_not_changed(dtype):
    given = strip("11.1.22").astype(dtype)
    given.flags.writeable = False
    found = apply_steps(given, [[1]])
    assert found.dtype == given.dtype
    assert np.array_equal(found, strip("11...22"))
    assert np.array_equal(given, strip("11.1.22"))
    assert apply_steps(given, []) is not given


# --- the decision -----------------------------------------------------------------------------------------------------


def row(decision, name):
    return next(r for r in decision.table if r["name"] == name)


def test_union_is_accepted_where_the_mean_rises_and_nothing_falls(files):
    decision = choose_postprocessing(files(("1122..1", "1122..."), ("1122...", "1122...")), AB)
    assert decision.steps == [[1, 2]]
    assert decision.cases == 2
    a = (2 * 2 / (3 + 2) + 1) / 2  # of the two cases; that of b is 1
    assert row(decision, "foreground") == {
        "name": "foreground",
        "values": [1, 2],
        "dice_before": pytest.approx((a + 1) / 2),
        "dice_after": 1.0,
        "accepted": True,
        "worse": [],
    }
    # on top of the union there is nothing left to gain
    assert row(decision, "a") == {
        "name": "a", "values": [1], "dice_before": 1.0, "dice_after": 1.0, "accepted": False
    }  # fmt: skip
    assert [r["name"] for r in decision.table] == ["foreground", "a", "b"]


def test_union_is_rejected_where_one_class_falls_although_the_mean_rises_and_only_the_class_that_gains_is_accepted(
    files,
):
    decision = choose_postprocessing(files(("111222.2.1.1.1", "111222.2......")), AB)
    union = row(decision, "foreground")
    assert union["dice_before"] == pytest.approx((2 / 3 + 1) / 2)
    assert union["dice_after"] == pytest.approx((1 + 6 / 7) / 2)
    assert union["dice_after"] > union["dice_before"]
    assert not union["accepted"]
    assert union["worse"] == ["b"]
    assert decision.steps == [[1]]
    assert (row(decision, "a")["dice_before"], row(decision, "a")["dice_after"]) == (pytest.approx(2 / 3), 1.0)
    assert (row(decision, "b")["dice_before"], row(decision, "b")["dice_after"]) == (1.0, pytest.approx(6 / 7))


def test_union_is_rejected_where_the_mean_falls(files):
    decision = choose_postprocessing(files(("111.22", "111.22")), AB)
    assert row(decision, "foreground")["worse"] == ["b"]
    assert decision.steps == []


def test_nothing_is_accepted_where_nothing_changes(files):
    assert choose_postprocessing(files(("112", "112"), ("...", "..."), ("1..", "11.")), AB).steps == []


def test_nothing_is_accepted_where_gains_and_losses_are_equal(files):
    decision = choose_postprocessing(files(("11.1", "11.."), ("11.1", "11.1")), LabelScheme(["background", "a"]))
    assert row(decision, "foreground")["dice_before"] == pytest.approx(0.9)
    assert row(decision, "foreground")["dice_after"] == pytest.approx(0.9)
    assert decision.steps == []


def test_decision_rests_on_the_mean_over_cases_and_not_on_pooled_voxels(files):
    gain, loss = ("11.1", "11.."), ("1" * 16 + ".11", "1" * 16 + ".11")  # one voxel against two
    decision = choose_postprocessing(files(gain, loss), LabelScheme(["background", "a"]))
    assert row(decision, "foreground")["dice_before"] == pytest.approx((2 * 2 / 5 + 1) / 2)
    assert row(decision, "foreground")["dice_after"] == pytest.approx((1 + 2 * 16 / 34) / 2)
    assert decision.steps == [[1]]


def test_single_class_is_decided_by_the_union_alone(files):
    decision = choose_postprocessing(files(("11.1", "11..")), LabelScheme(["background", "a"]))
    assert [r["name"] for r in decision.table] == ["foreground"]
    assert decision.steps == [[1]]


def test_equally_large_components_are_all_kept_in_the_decision(files):
    assert choose_postprocessing(files(("11.11", "11...")), AB).steps == []


def test_class_step_is_judged_by_its_own_dice_on_top_of_the_union(files):
    # the union takes the last 1 away; inside its largest component a has a false piece of its own
    decision = choose_postprocessing(files(("11122122..1", "11122.22...")), AB)
    assert decision.steps == [[1, 2], [1]]
    assert row(decision, "a")["dice_before"] == pytest.approx(2 * 3 / 7)
    assert row(decision, "a")["dice_after"] == 1.0


@pytest.mark.parametrize(("scheme", "second"), [(NESTED, [2, 3]), (INSIDE_FIRST, [3])])
def test_regions_are_unions_of_values_and_an_accepted_one_leaves_no_gain_to_those_after_it(files, scheme, second):
    # the last 2 goes with the union; then either tumour or enhancing, whichever is first, removes the single 3
    decision = choose_postprocessing(files(("112331131.2", "112331111..")), scheme)
    assert decision.steps == [[1, 2, 3], second]
    assert row(decision, "foreground")["dice_before"] == pytest.approx((2 * 9 / 19 + 2 * 3 / 8 + 2 * 2 / 5) / 3)
    assert row(decision, "foreground")["dice_after"] == pytest.approx((1 + 2 * 3 / 7 + 2 * 2 / 5) / 3)
    inner = {r["name"]: (r["dice_before"], r["dice_after"]) for r in decision.table}
    if scheme is NESTED:
        assert inner["tumour"] == (pytest.approx(2 * 3 / 7), 1.0)
        assert inner["enhancing"] == (1.0, 1.0)
    else:
        assert inner["enhancing"] == (pytest.approx(2 * 2 / 5), 1.0)
        assert inner["tumour"] == (1.0, 1.0)


def test_rejected_union_leaves_an_overlapping_region_to_be_judged_on_top_of_the_one_before_it(files):
    scheme = LabelScheme(
        ["background", "edema", "core", "other"],
        [
            {"name": "whole", "values": [1, 2], "paint": 1},
            {"name": "tumour", "values": [2], "paint": 2},
            {"name": "other", "values": [3], "paint": 3},
        ],
    )
    decision = choose_postprocessing(files(("1122211.22.33", "1122211....33")), scheme)
    assert row(decision, "foreground")["worse"] == ["other"]
    assert decision.steps == [[1, 2]]
    assert row(decision, "tumour")["dice_before"] == row(decision, "tumour")["dice_after"] == 1.0
    assert [r["name"] for r in decision.table] == ["foreground", "whole", "tumour", "other"]


def test_candidate_waits_for_one_before_it_that_waits_itself(files):
    # c shares no value with ab, which is accepted first, but with bc, which has to wait for ab and removes the false 3
    scheme = LabelScheme(
        ["background", "a", "b", "c", "d"],
        [
            {"name": "ab", "values": [1, 2], "paint": 1},
            {"name": "bc", "values": [2, 3], "paint": 2},
            {"name": "c", "values": [3], "paint": 3},
            {"name": "d", "values": [4], "paint": 4},
        ],
    )
    decision = choose_postprocessing(files(("1122233.3.1.44.4", "1122233.....44..")), scheme)
    assert row(decision, "foreground")["worse"] == ["d"]
    assert decision.steps == [[1, 2], [2, 3], [4]]  # in their order, although d did not have to wait
    assert row(decision, "bc")["dice_before"] == pytest.approx(2 * 5 / 11)
    assert row(decision, "c")["dice_before"] == row(decision, "c")["dice_after"] == 1.0


def test_ignored_voxels_count_neither_for_nor_against_a_step(files):
    scheme = LabelScheme(["background", "a", "b"], ignore_label=3)
    assert choose_postprocessing(files(("112..1", "112...")), scheme).steps == [[1, 2]]
    decision = choose_postprocessing(files(("112..1", "112..3")), scheme)
    assert decision.steps == []
    assert row(decision, "foreground")["dice_before"] == row(decision, "foreground")["dice_after"] == 1.0
    # of three true voxels of a, two are not annotated
    decision = choose_postprocessing(files(("1.1112", "1.1332")), scheme)
    assert row(decision, "a")["dice_before"] == 1.0
    assert row(decision, "a")["dice_after"] == pytest.approx(2 * 1 / 3)


def test_case_without_a_class_is_left_out_of_its_mean_and_a_predicted_absent_class_scores_zero(files):
    neither, false_alarm, right = ("11.", "11."), ("11.2", "11.."), ("1122", "1122")
    decision = choose_postprocessing(files(neither, false_alarm, right), AB)
    union = row(decision, "foreground")
    assert union["dice_before"] == pytest.approx((1 + (0 + 1) / 2) / 2)
    assert union["dice_after"] == 1.0
    assert decision.steps == [[1, 2]]
    assert row(decision, "b")["dice_before"] == 1.0


def test_class_that_is_missed_scores_zero(files):
    decision = choose_postprocessing(files(("11..", "1122"), ("1122", "1122")), AB)
    assert row(decision, "b")["dice_before"] == pytest.approx(0.5)


def test_class_that_no_case_has_is_no_score_and_hinders_nothing(files):
    decision = choose_postprocessing(files(("11.1", "11..")), AB)
    assert decision.steps == [[1, 2]]
    assert row(decision, "foreground")["dice_before"] == pytest.approx(0.8)
    assert row(decision, "b") == {
        "name": "b", "values": [2], "dice_before": None, "dice_after": None, "accepted": False
    }  # fmt: skip


def test_empty_label_maps_give_no_steps(files):
    decision = choose_postprocessing(files(("....", "....")), AB)
    assert decision.steps == []
    assert row(decision, "foreground")["dice_before"] is None


SCHEMES = {
    "classes": LabelScheme(["background", "a", "b", "c"]),
    "ignore": LabelScheme(["background", "a", "b", "c"], ignore_label=4),
    "nested": NESTED,
    "inside_first": INSIDE_FIRST,
    "overlapping": LabelScheme(
        ["background", "a", "b", "c", "d"],
        [
            {"name": "ab", "values": [1, 2], "paint": 1},
            {"name": "d", "values": [4], "paint": 4},
            {"name": "bc", "values": [2, 3], "paint": 3},
            {"name": "c", "values": [3], "paint": 3},
            {"name": "ad", "values": [1, 4], "paint": 1},
        ],
        ignore_label=5,
    ),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_decisions_are_those_of_the_definition_on_random_predictions(name, files):
    scheme = SCHEMES[name]
    values = len(scheme.labels)
    seen = set()
    for seed in range(16):
        rng = np.random.default_rng(seed)
        preds, refs = [], []
        for _ in range(3):
            ref = np.zeros((9, 8, 2), np.uint8)
            for value in rng.permutation(np.arange(1, values)):
                x, y = rng.integers(0, 6, 2)
                ref[x : x + 3, y : y + 2] = value
            noise = rng.random(ref.shape)
            pred = np.where(noise < rng.uniform(0.0, 0.05), rng.integers(1, values, ref.shape), ref).astype(np.uint8)
            pred[noise > rng.uniform(0.85, 1)] = 0
            if scheme.ignore_label is not None:
                ref[rng.random(ref.shape) < 0.15] = scheme.ignore_label
            preds.append(pred)
            refs.append(ref)
        decision = choose_postprocessing(files(*zip(preds, refs, strict=True)), scheme, workers=1 + seed % 3)
        assert decision.steps == decide_by_definition(preds, refs, scheme)
        _, mean = mean_dice_by_definition(preds, refs, scheme)
        assert decision.table[0]["dice_before"] == pytest.approx(mean)
        seen.add(json.dumps(decision.steps))
    assert len(seen) >= 5  # the sets are of many kinds


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_label_maps_may_be_compressed_or_floating_or_have_an_axis_of_one_channel(files, ending):
    pairs = files((strip("1122..1"), strip("1122...").astype(np.float64)[..., None]), ending=ending)
    assert choose_postprocessing(pairs, AB).steps == [[1, 2]]


@pytest.mark.parametrize(("pred_order", "ref_order"), list(itertools.product("CF", "CF")))
def test_arrays_may_be_in_any_order_in_memory(monkeypatch, pred_order, ref_order):
    rng = np.random.default_rng(1)
    ref = np.zeros((7, 9, 8), np.uint8)
    ref[1:4, 2:8, 3:6], ref[4:6, 3:7, 1:7] = 1, 2
    pred = np.where(rng.random(ref.shape) < 0.1, 1, ref).astype(np.uint8)
    arrays = {"pred": pred.copy(order=pred_order), "ref": ref.copy(order=ref_order)}
    monkeypatch.setattr(label_map_files, "read_volume", lambda name: (arrays[name], np.eye(4)))
    monkeypatch.setattr(postprocessing_choice, "_CHUNK", 50)  # voxels are counted in several parts
    decision = choose_postprocessing([("pred", "ref")], AB)
    assert decision.table[0]["dice_before"] == pytest.approx(mean_dice_by_definition([pred], [ref], AB)[1])
    assert decision.steps == decide_by_definition([pred], [ref], AB) != []


def test_more_labels_than_a_byte_holds_are_told_apart(files):
    scheme = LabelScheme(["background", *(f"class_{i}" for i in range(1, 300))])
    high = strip("11.1").astype(np.int16) * 257
    decision = choose_postprocessing(files((high, high)), scheme)
    assert row(decision, "class_257")["dice_before"] == 1.0
    assert row(decision, "class_1")["dice_before"] is None


def test_classes_take_one_pass_over_the_files_and_a_second_one_after_an_accepted_union(files, reads):
    many = LabelScheme(["background", *"abcdefgh"])
    pairs = files(("12345678", "12345678"), ("112.1.2.3", "112...2.3"))
    decision = choose_postprocessing(pairs, many, workers=1)
    assert decision.steps == [[1]]
    assert reads["files"] == [name for pair in pairs for name in pair]
    reads["files"].clear()
    pairs = files(("12345678.1", "12345678.."), ("11.1", "11.."))
    assert choose_postprocessing(pairs, many, workers=1).steps == [list(range(1, 9))]
    assert len(reads["files"]) == 2 * 4


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_cases_than_workers_are_in_memory(files, reads, workers):
    choose_postprocessing(files(*[("1122..1", "1122...")] * 12), AB, workers)
    assert len(reads["files"]) == 2 * 24
    assert reads["most"] <= 2 * workers


def test_decision_needs_cases():
    with pytest.raises(InputError, match="no predictions"):
        choose_postprocessing([], AB)


@pytest.mark.parametrize(
    ("pred", "ref", "wrong", "message"),
    [
        (strip("113"), strip("112"), "pred_1", r"outside the declared labels: 3 \("),
        (strip("112"), strip("113"), "label_1", r"outside the declared labels: 3 \("),
        (strip("112"), strip("112") - 0.5, "label_1", r"labels: 0\.5, 1\.5 \("),
        (strip("112").astype(np.int16) - 2, strip("112"), "pred_1", r"labels: -1 \("),
        (strip("112") * np.float32(np.nan), strip("112"), "pred_1", r"labels: nan \("),
        (strip("112"), strip("1122"), "pred_1", r"\(3, 1, 1\).*label_1.*\(4, 1, 1\)"),
    ],
)
def test_files_that_do_not_fit_are_named(files, pred, ref, wrong, message):
    with pytest.raises(InputError, match=f"{wrong}.*{message}"):
        choose_postprocessing(files(("112", "112"), (pred, ref)), AB)


def test_ignore_label_is_no_prediction(files):
    with pytest.raises(InputError, match=r"pred_0.*outside the declared labels: 3 \("):
        choose_postprocessing(files(("113", "113")), LabelScheme(AB.labels, ignore_label=3))


def test_missing_file_is_named(files, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        choose_postprocessing([*files(("1", "1")), (tmp_path / "nowhere.nii", tmp_path / "label_0.nii")], AB)


# --- the file ---------------------------------------------------------------------------------------------------------


def strictly(content):
    """Parse JSON without Python's NaN."""
    return json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_saved_decision_is_json_for_people_and_gives_its_steps_back(files, tmp_path):
    decision = choose_postprocessing(files(("11.1", "11..")), AB)
    path = tmp_path / "postprocessing.json"
    decision.save(path)
    assert Postprocessing.load(path) == decision.steps == [[1, 2]]
    content = strictly(path.read_text(encoding="utf-8"))
    assert content == {"steps": decision.steps, "decided_on": {"cases": 1}, "candidates": decision.table}
    lines = path.read_text(encoding="utf-8").splitlines()
    assert '  "steps": [[1, 2]],' in lines
    assert sum('"name"' in line for line in lines) == 3


def test_names_in_any_script_survive(files, tmp_path):
    scheme = LabelScheme(["background", 'Leber "links"', "肝"])
    choose_postprocessing(files(("12", "12")), scheme).save(tmp_path / "d.json")
    content = (tmp_path / "d.json").read_text(encoding="utf-8")
    assert "肝" in content
    content = strictly(content)
    assert [c["name"] for c in content["candidates"]] == ["foreground", 'Leber "links"', "肝"]


def test_decision_without_steps_can_be_saved_and_loaded(tmp_path):
    Postprocessing([], [], 0).save(tmp_path / "d.json")
    assert Postprocessing.load(tmp_path / "d.json") == []
    assert strictly((tmp_path / "d.json").read_text())["candidates"] == []


def test_decision_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(InputError, match=r"missing.d\.json: cannot be written"):
        Postprocessing([], [], 0).save(tmp_path / "missing" / "d.json")


def test_steps_written_by_hand_are_enough(tmp_path):
    (tmp_path / "d.json").write_text('{"steps": [[2], [1, 3]]}')
    assert Postprocessing.load(tmp_path / "d.json") == [[2], [1, 3]]


DAMAGED = [
    b"",
    b'{"steps": [[1, 2]',
    b"\xff\xfe\x00",
    b"[[1, 2]]",
    b"{}",
    b'{"steps": null}',
    b'{"steps": [1, 2]}',
    b'{"steps": [[]]}',
    b'{"steps": [["1"]]}',
    b'{"steps": [[1.0]]}',
    b'{"steps": [[true]]}',
    b'{"steps": [[0, 1]]}',
    b'{"steps": [[-1]]}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_file_is_named_with_advice(tmp_path, content):
    path = tmp_path / "d.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"d\.json.*decide the post-processing again"):
        Postprocessing.load(path)
    with pytest.raises(InputError, match=r"d\.json"):
        ApplyPostprocessingd("pred", path)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([[3]], r"its step \[3\] has the label value 3, but the task's labels are 0 to 2 \(background, liver, vein\)"),
        ([[1], [1, 2, 900]], "has the label value 900, but"),
        ([[10**18]], "has the label value 1000000000000000000"),
        ([[1, 2], [2, 1]], "has a step twice"),
        ([[1, 1]], "a list of lists of label values"),
        ([["largest"]], "a list of lists of label values"),
        ([[1]] * 1001, "has 1001 steps"),
    ],
)
def test_steps_that_the_task_does_not_have_are_refused(tmp_path, steps, words):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"steps": steps}))
    with pytest.raises(InputError, match=rf"d\.json: .*{words}.*; decide the post-processing again"):
        ApplyPostprocessingd("pred", path, labels=["background", "liver", "vein"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"steps": ' + "[" * 9000 + "]" * 9000 + "}", "nested more than"),
        ('{"steps": [[1]], "steps": [[2]]}', "the key 'steps' stands twice"),
        ('{"steps": [[' + "1" * 5000 + "]]}", "no number that can be used"),
    ],
)
def test_decisions_without_sense_are_refused(tmp_path, text, words):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"d\.json: .*{words}.*; decide the post-processing again"):
        Postprocessing.load(path)


def test_without_labels_all_values_of_label_maps_are_steps(tmp_path):
    Postprocessing([[32767], [3, 1]], [], 1).save(tmp_path / "d.json")
    assert Postprocessing.load(tmp_path / "d.json") == [[32767], [3, 1]]
    assert Postprocessing.load(tmp_path / "d.json", ["x"] * 32768) == [[32767], [3, 1]]


def test_missing_file_and_folder_are_no_decision(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=path.name):
            Postprocessing.load(path)


# --- the transform ----------------------------------------------------------------------------------------------------


@pytest.fixture
def decided(tmp_path):
    path = tmp_path / "postprocessing.json"
    Postprocessing([[1, 2], [1]], [], 1).save(path)
    return str(path)


def label_tensor(given="11.1222", dtype=torch.uint8):
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    return MetaTensor(torch.from_numpy(strip(given)[None]).to(dtype), affine=affine, meta={"filename_or_obj": "x.nii"})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32])
def test_transform_applies_the_steps_in_a_compose_and_keeps_type_and_metadata(decided, dtype):
    given = label_tensor(dtype=dtype)
    item = {"pred": given, "label": label_tensor(), "case": "x"}
    found = Compose([EnsureTyped("pred"), ApplyPostprocessingd("pred", decided)])(item)
    assert text(found["pred"].numpy().astype(int)) == "...1222"
    assert isinstance(found["pred"], MetaTensor)
    assert found["pred"].shape == given.shape
    assert found["pred"].dtype == dtype
    assert torch.equal(found["pred"].affine, given.affine)
    assert found["pred"].meta["filename_or_obj"] == "x.nii"
    assert found["label"] is item["label"]
    assert found["case"] == "x"
    assert text(given.numpy().astype(int)) == "11.1222"  # the input is not changed
    assert item["pred"] is given


def test_transform_keeps_the_operations_that_an_inverse_needs(decided):
    flip = Flipd("pred", spatial_axis=0)
    chain = Compose([flip, ApplyPostprocessingd("pred", decided)])
    found = chain({"pred": label_tensor("2221.11")})
    assert len(found["pred"].applied_operations) == 1
    assert text(flip.inverse(found)["pred"].numpy()) == "2221..."


def test_transform_takes_2d_arrays_plain_tensors_and_several_keys(decided):
    flat = strip("11.1222")[None, :, :, 0]
    item = {"a": flat, "b": torch.from_numpy(flat)}
    found = ApplyPostprocessingd(["a", "b"], decided)(item)
    assert item["a"] is flat
    assert isinstance(found["a"], np.ndarray)
    assert type(found["b"]) is torch.Tensor
    assert text(found["a"]) == text(found["b"].numpy()) == "...1222"


@pytest.mark.parametrize("path", [None, "", "missing.json"])
def test_transform_without_a_file_does_nothing(tmp_path, path):
    item = {"pred": label_tensor()}
    found = ApplyPostprocessingd("pred", tmp_path / path if path else path)(item)
    assert found["pred"] is item["pred"]


def test_missing_keys_are_an_error_unless_allowed(decided):
    with pytest.raises(KeyError):
        ApplyPostprocessingd("pred", decided)({"label": label_tensor()})
    assert ApplyPostprocessingd("pred", decided, allow_missing_keys=True)({"case": 1}) == {"case": 1}


def test_one_hot_predictions_are_refused(decided):
    with pytest.raises(ValueError, match="one channel"):
        ApplyPostprocessingd("pred", decided)({"pred": torch.zeros(3, 4, 4, 4)})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_transform_keeps_the_device(decided):
    found = ApplyPostprocessingd("pred", decided)({"pred": label_tensor().cuda()})["pred"]
    assert found.is_cuda
    assert text(found.cpu().numpy()) == "...1222"


def test_decision_made_on_files_improves_what_the_transform_sees(files, tmp_path):
    pairs = files(*itertools.repeat(("1122..1", "1122..."), 2))
    choose_postprocessing(pairs, AB).save(tmp_path / "d.json")
    found = ApplyPostprocessingd("pred", tmp_path / "d.json")({"pred": label_tensor("1122..1")})
    assert text(found["pred"].numpy()) == "1122..."
