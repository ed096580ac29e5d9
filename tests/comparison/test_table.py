import math

from comparison_helpers import make_done

from mednextv2.comparison.entries import Entry
from mednextv2.comparison.results import Result, gather
from mednextv2.comparison.table import RUN_COLUMNS, markdown, run_rows, table_rows


def results(tmp_path):
    runs = [
        make_done(tmp_path, name, {f"c{n}": [dice + 0.05 * n + 0.01 * seed] for n in range(3)}, seed=seed, **more)
        for name, dice, more in (("a", 0.8, {}), ("b|c", 0.7, {"step_seconds": 2.5, "memory_of": "GPU", "steps": 90}))
        for seed in (0, 1)
    ]
    return [*gather(runs, {}), Result(Entry("broken", {}), [], 2, "crashed with ValueError: no")]


def test_a_row_has_numbers_in_units_that_their_names_tell(tmp_path):
    first, second, broken = table_rows(results(tmp_path))
    assert (first["rank"], first["network"], first["parameters"], first["steps"]) == (1, "a", 1_500_000, 200)
    assert abs(first["dice_mean"] - 0.855) < 1e-9
    assert abs(first["dice_sd"] - 0.01 / math.sqrt(2)) < 1e-9
    assert (first["peak_memory_mib"], first["memory_of"], first["step_seconds"]) == (1024, "process", 0.25)
    assert (first["difference_from_best"], first["difference_low"]) == ("", "")
    assert abs(second["difference_from_best"] + 0.1) < 1e-9
    assert (broken["rank"], broken["runs_done"], broken["runs_planned"]) == ("", 0, 2)
    assert broken["reason"] == "crashed with ValueError: no"
    assert math.isnan(broken["dice_mean"])
    assert {*first} == {*second} == {*broken}


def test_every_run_has_a_row(tmp_path):
    rows = run_rows(results(tmp_path))
    assert [(row["network"], row["seed"], row["fold"]) for row in rows] == [
        ("a", 0, 0),
        ("a", 1, 0),
        ("b|c", 0, 0),
        ("b|c", 1, 0),
    ]
    assert [round(row["dice"], 3) for row in rows] == [0.85, 0.86, 0.75, 0.76]
    assert all("status" not in row for row in rows)


def test_the_table_for_people(tmp_path):
    text = markdown(results(tmp_path), ["A fact."])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1  # a | in a name begins no column
    assert lines[2].startswith(
        "| 1 | a | 1.5 M | 0.855 ± 0.007 | 0.427 ± 0.004 | best | 250 ms | 200 | 10 | 60 seconds |"
    )
    assert lines[2].endswith("| 60 seconds | 1.0 GiB (process) | 2 of 2 |")
    assert "-0.100 (-0.100 to -0.100) | 2.5 s | 90 |" in lines[3]
    assert lines[4] == "| – | broken | – | – | – | – | – | – | – | – | – | 0 of 2 |"
    assert "- broken: crashed with ValueError: no" in text
    assert text.endswith("- A fact.\n")


def test_one_run_has_no_deviation_and_one_patient_no_interval(tmp_path):
    runs = [make_done(tmp_path, name, {"c": [dice]}) for name, dice in (("a", 0.8), ("b", 0.7))]
    text = markdown(gather(runs, {}), [])
    assert "| 0.800 | 0.400 | best |" in text
    assert "| 0.700 | 0.350 | -0.100 |" in text


def test_weights_to_start_from_are_compared_with_the_same_network_from_scratch(tmp_path):
    scores = {"a": [(0.5, 0.6), (0.5, 0.6)], "b": [(0.9, 0.9), (0.9, 0.9)]}
    tuned = {"mae": [(0.6, 0.8), (0.45, 0.6)], "ct": [(0.4, 0.6), (0.5, 0.6)]}
    runs = [
        make_done(tmp_path, name, {f"c{n}": [d] for n, d in enumerate(dice)}, seed=seed)
        for name, found in scores.items()
        for seed, dice in enumerate(found)
    ] + [
        make_done(
            tmp_path, "a", {f"c{n}": [d] for n, d in enumerate(dice)}, seed, pretrained=f"{start}.pt", start=start
        )
        for start, found in tuned.items()
        for seed, dice in enumerate(found)
    ]
    found = gather(runs, {})
    rows = {(row["network"], row["initial"]): row for row in table_rows(found)}
    assert rows["a", ""]["gain_over_scratch"] == rows["b", ""]["gain_over_scratch"] == ""
    mae = rows["a", "mae"]  # seeds: 0.70 and 0.525 against 0.55; cases: 0.525 and 0.70 against 0.50 and 0.60
    assert abs(mae["gain_over_scratch"] - 0.0625) < 1e-9
    assert (round(mae["gain_low"], 6), round(mae["gain_high"], 6)) == (0.025, 0.1)
    assert {row["initial"] for row in run_rows(found)} == {"", "mae", "ct"}
    text = markdown(found, [])
    assert "| a, from mae | 0.550 ± 0.000 | 0.613 ± 0.124 | +0.062 (+0.025 to +0.100) | 1 of 2 |" in text
    assert "| a, from ct | 0.550 ± 0.000 | 0.525 ± 0.035 | -0.025 (-0.050 to +0.000) | 0 of 2 |" in text


def test_without_the_network_from_scratch_there_is_no_gain(tmp_path):
    (result,) = gather([make_done(tmp_path, "a", {"c": [0.5]}, pretrained="a.pt", start="mae")], {})
    assert table_rows([result])[0]["gain_over_scratch"] == ""
    assert "from scratch" not in markdown([result], [])


def test_the_columns_of_runs_are_known_before_there_is_a_run(tmp_path):
    rows = run_rows(results(tmp_path))
    assert all({*row} == {*RUN_COLUMNS} for row in rows)
