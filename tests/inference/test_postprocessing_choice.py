"""The choice of a post-processing against its definition, and what a choice needs."""

import json

import numpy as np
import pytest
from choice_helpers import decide_by_definition, mean_dice_by_definition, row
from postprocessing_helpers import AB, INSIDE_FIRST, NESTED

from mednextv2.inference.postprocessing_choice import choose_postprocessing
from mednextv2.label_scheme import LabelScheme


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
