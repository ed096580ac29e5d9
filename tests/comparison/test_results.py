import math

import numpy as np
import pytest
from comparison_helpers import make_done

from mednextv2.comparison.bootstrap import paired_interval
from mednextv2.comparison.results import gather, read_run
from mednextv2.scores.evaluation import summarise

NAN = math.nan
SCORES = {"c1": [0.9, 0.5], "c2": [0.7, NAN], "c3": [NAN, NAN]}


def test_the_dice_of_a_run_is_that_of_the_evaluation_s_summary(tmp_path):
    found = read_run(make_done(tmp_path, "a", SCORES))
    rows = [
        {"case": c, "label": f"s{n}", "dice": v, "surface_dice_1mm": v / 2, "hd95_mm": 1.0}
        for c, values in SCORES.items()
        for n, v in enumerate(values)
    ]
    summary = summarise(rows, ["s0", "s1"])[-1]
    assert found.dice == pytest.approx(summary["dice_mean"]) == pytest.approx(0.65)
    assert found.surface_dice == pytest.approx(summary["surface_dice_1mm_mean"])
    assert found.cases == pytest.approx({"c1": 0.7, "c2": 0.7, "c3": NAN}, nan_ok=True)


def shifted(by):
    return {case: [value + by for value in values] for case, values in SCORES.items()}


def test_networks_are_ranked_and_compared_with_the_best(tmp_path):
    runs = [
        make_done(tmp_path, name, {k: v for k, v in shifted(by).items()}, seed=seed, fold=0)
        for seed, more in ((0, 0.0), (1, 0.02))
        for name, by in (("worse", -0.1 + more), ("best", more), ("equal", more))
    ]
    best, equal, worse = gather(runs, {})
    assert [r.entry.name for r in (best, equal, worse)] == ["best", "equal", "worse"]
    assert [r.rank for r in (best, equal, worse)] == [1, 1, 3]
    assert best.mean("dice") == pytest.approx(0.66)
    assert best.deviation("dice") == pytest.approx(np.std([0.65, 0.67], ddof=1))
    assert (best.difference, best.interval) == (None, None)
    assert worse.difference == pytest.approx(-0.1)
    assert worse.interval == pytest.approx((-0.1, -0.1))
    assert worse.cases == pytest.approx({"c1": 0.61, "c2": 0.61})  # the mean over seeds, without c3
    assert worse.mean("steps") == 200


def test_cases_are_paired_and_patients_drawn_together(tmp_path):
    values = {f"patient{n}_frame0{k}": [0.5 + 0.04 * n + 0.01 * k] for n in range(5) for k in (1, 2)}
    other = {case: [v[0] - 0.01 * i] for i, (case, v) in enumerate(values.items())}
    _, second = gather([make_done(tmp_path, "a", values), make_done(tmp_path, "b", other)], {})
    differences = np.array([other[c][0] - values[c][0] for c in sorted(values)])
    patients = [case.split("_")[0] for case in sorted(values)]
    assert second.interval == pytest.approx(paired_interval(differences, patients))
    assert second.interval != pytest.approx(paired_interval(differences, sorted(values)))


def test_folds_are_pooled(tmp_path):
    runs = [make_done(tmp_path, "a", {f"f{fold}": [0.5 + fold / 10]}, fold=fold) for fold in (0, 1)]
    (result,) = gather(runs, {})
    assert result.cases == {"f0": 0.5, "f1": 0.6}


def test_a_network_without_all_of_its_runs_has_no_rank(tmp_path):
    half = make_done(tmp_path, "half", {"c1": [0.99]})
    missing = make_done(tmp_path, "half", {"c1": [0.99]}, seed=1)
    (missing.folder / "outcome.json").write_text('{"status": "failed"}')
    whole = [make_done(tmp_path, "whole", {"c1": [0.5]}, seed=seed) for seed in (0, 1)]
    first, second = gather([half, missing, *whole], {"half": "no memory"})
    assert (first.entry.name, first.rank, first.complete) == ("whole", 1, True)
    assert (second.entry.name, second.rank, second.complete, second.reason) == ("half", None, False, "no memory")
    assert (len(second.runs), second.planned, second.mean("dice")) == (1, 2, 0.99)
    assert math.isnan(second.deviation("dice"))
