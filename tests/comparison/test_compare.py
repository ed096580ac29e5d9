"""A comparison of tiny networks as a user makes it, on phantom data."""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from comparison_helpers import QUICK, as_options, network_file
from verb_helpers import call_verb

from mednextv2.data import kfold_indices, read_dataset
from mednextv2.scores.csv_tables import read_csv
from mednextv2.weights import read_about


def rows(file):
    with file.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def test_all_networks_but_the_one_that_is_killed_have_scores(compared):
    folder, (code, _, err), _ = compared
    assert code == 1
    table = {row["network"]: row for row in rows(folder / "out" / "comparison.csv")}
    assert list(table) == ["mini", "slim", "killed"] or list(table) == ["slim", "mini", "killed"]
    for name in ("mini", "slim"):
        row = table[name]
        assert (row["runs_done"], row["runs_planned"], row["epochs"], row["steps"]) == ("1", "1", "2", "4")
        assert 0 < float(row["step_seconds"]) < 60
        assert float(row["peak_memory_mib"]) > 100
        summary = read_csv(folder / "out" / "runs" / name / "fold_0_seed_0" / "evaluation" / "summary.csv")
        assert float(row["dice_mean"]) == pytest.approx(float(summary[-1]["dice_mean"]), abs=1e-5)
        assert float(row["surface_dice_1mm_mean"]) == pytest.approx(
            float(summary[-1]["surface_dice_1mm_mean"]), abs=1e-5
        )
    assert "killed by the system" in table["killed"]["reason"]
    assert (table["killed"]["rank"], table["killed"]["dice_mean"]) == ("", "nan")
    assert sorted(row["rank"] for row in table.values()) in (["", "1", "2"], ["", "1", "1"])
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: 1 network of 3 could not be compared (killed); ")


def test_parameters_are_those_of_the_networks(compared):
    from mednextv2.nets import create_mednext

    small = {"blocks_down": 1, "blocks_bottleneck": 1, "blocks_up": 1, "out_channels": 3, "deep_supervision": True}
    for row in rows(compared[0] / "out" / "runs.csv"):
        network = create_mednext("v1_s", init_filters={"mini": 2, "slim": 3}[row["network"]], **small)
        assert int(row["parameters"]) == sum(p.numel() for p in network.parameters())


def test_all_networks_have_the_split_of_the_product(compared, phantom):
    names = sorted(case.name for case in read_dataset(phantom).cases)
    training, validation = kfold_indices(6, 0)
    for name in ("mini", "slim"):
        run = compared[0] / "out" / "runs" / name / "fold_0_seed_0"
        about = read_about(run / "training" / "model.pt")
        assert about["training"] == [names[i] for i in training]
        assert {row["case"] for row in read_csv(run / "evaluation" / "cases.csv")} == {names[i] for i in validation}


def test_the_table_says_what_was_compared(compared):
    folder, (_, out, _), _ = compared
    text = (folder / "out" / "comparison.md").read_text(encoding="utf-8")
    assert text in out
    for part in (
        "fold 0, the same for all networks",
        "2 epochs for each run",
        "Seeds: 0.",
        "patches of [16, 16, 16] voxels",
    ):
        assert part in text
    assert "- killed: its process was killed by the system" in text


def test_every_run_has_a_line_with_elapsed_and_remaining_time(compared):
    told = re.findall(r"(run \d of \d: \w+, fold 0, seed 0: .*)", compared[1][2])
    assert [line.split(":")[0] for line in told] == ["run 1 of 3", "run 2 of 3", "run 3 of 3"]
    assert "Dice 0." in told[0]
    assert "elapsed, about" in told[0]
    assert "failed: its process was killed" in told[2]


def test_the_figure_shows_the_networks_that_have_scores(compared):
    figure = ElementTree.parse(compared[0] / "out" / "comparison.svg").getroot()
    texts = [element.text for element in figure.iter("{http://www.w3.org/2000/svg}text")]
    assert {"mini", "slim"} <= {*texts}
    assert "killed" not in texts
    assert len(list(figure.iter("{http://www.w3.org/2000/svg}circle"))) == 2


def test_the_same_command_repeats_nothing_that_is_done(compared, phantom, tmp_path):
    folder, _, options = compared
    outcomes = {file: file.stat().st_mtime_ns for file in (folder / "out" / "runs").glob("[ms]*/*/outcome.json")}
    assert len(outcomes) == 2
    names = f"{folder / 'mini.yaml'},{folder / 'slim.yaml'}"
    code, out, err = call_verb("compare", phantom, names, *options)
    assert code == 0, err
    assert outcomes == {file: file.stat().st_mtime_ns for file in outcomes}
    assert "| 1 of 1 |" in out
    assert "killed" not in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--epochs", 3], "epochs: 2 before, 3 now"),
        (["--batch_size", 2], "settings:"),
    ],
)
def test_another_comparison_in_the_same_folder_is_refused(change, message, compared, phantom):
    folder, _, options = compared
    options = [*map(str, options)]
    options[options.index(change[0]) + 1] = str(change[1])
    code, _, err = call_verb("compare", phantom, folder / "mini.yaml", *options)
    assert code == 1
    assert message in err
    assert "give the same options as before, or another --output" in err


def test_a_changed_network_file_is_refused(compared, phantom, tmp_path):
    folder, _, options = compared
    before = (folder / "mini.yaml").read_text()
    (folder / "mini.yaml").write_text(before + "# changed\n")
    try:
        code, _, err = call_verb("compare", phantom, folder / "mini.yaml", *options)
    finally:
        (folder / "mini.yaml").write_text(before)
    assert code == 1
    assert "mini: its network file was changed" in err


def test_what_cannot_be_compared_is_refused_before_anything_is_written(phantom, tmp_path):
    mini = network_file(tmp_path, "mini")
    start = ("compare", phantom, mini, "--output", tmp_path / "out", "--bundle", "mednextv2_hippocampus")
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"damaged")
    for more, code, message in (
        ([], 2, "give --epochs (equal numbers of steps) or --minutes (equal time)"),
        (["--epochs", 1, "--minutes", 1], 2, "give only one of them"),
        (["--epochs", 1, "--fold", 1], 2, "--fold: is decided by the comparison; give --folds instead"),
        (["--minutes", 1, "--iterations_per_epoch", 5], 2, "follows from --minutes for each network"),
        (["--epohcs", 1], 2, "--epohcs: there is no such setting; did you mean --epochs"),
        (["--epochs", 1, "--overlap", 3], 1, "overlap 3: should be a number from 0 to below 1"),
        (
            ["--epochs", 1, "--pretrained", f"mini={tmp_path}"],
            1,
            "is a folder; give the file of weights in it, such as",
        ),
        (["--epochs", 1, "--pretrained", f"mini={damaged}"], 1, f"--pretrained mini: {damaged}: not a PyTorch check"),
        (["--epochs", 1, "--initial", f"mae={damaged}"], 1, f"--initial mae: {damaged}: not a PyTorch check"),
        (["--epochs", 1, "--batchsize", 5], 2, "--batchsize: there is no such setting; did you mean --batch_size"),
        (["--epochs", 1, "--folds", 9], 1, "fold 9: there are the folds 0 to 4"),
        (["--epochs", 1, "--seeds", "0,0"], 2, "--seeds (0, 0): should be different whole numbers from 0"),
    ):
        found, _, err = call_verb(*start, *more)
        assert (found, message in err) == (code, True), err
        assert not (tmp_path / "out").exists()


def test_initialisations_of_one_network_with_few_labelled_cases(phantom, tmp_path, monkeypatch):
    from mednextv2.comparison import child, compare
    from mednextv2.nets import create_mednext
    from mednextv2.weights.files import load_file, save_file

    def make_runs(runs, job_of, told):  # in this process: it takes seconds to start another one
        for run in runs:
            assert child.main([str(job_of(run).write())]) == 0
        return {}

    monkeypatch.setattr(compare, "make_runs", make_runs)
    small = {"blocks_down": 1, "blocks_bottleneck": 1, "blocks_up": 1, "out_channels": 3, "deep_supervision": True}
    names = sorted(case.name for case in read_dataset(phantom).cases)
    for name in ("mae", "ct"):
        network = create_mednext("v1_s", init_filters=2, **small)
        network.stem.weight.data.fill_({"mae": 7.0, "ct": 9.0}[name])
        save_file(network.state_dict(), tmp_path / f"{name}.pt", {"images": names[1:3]} if name == "mae" else None)
    (tmp_path / "few.json").write_text(json.dumps([{"train": names[:2], "val": names[2:4]}]))
    options = {
        **QUICK,
        "epochs": 1,
        "bundle": "mednextv2_hippocampus",
        "output": tmp_path / "out",
        "learning_rate": 1e-6,
    }
    options |= {"splits": tmp_path / "few.json", "initial": f"mae={tmp_path / 'mae.pt'},ct={tmp_path / 'ct.pt'}"}
    code, out, err = call_verb("compare", phantom, network_file(tmp_path, "mini"), *as_options(options))
    assert code == 0, err
    table = rows(tmp_path / "out" / "comparison.csv")
    assert {(row["network"], row["initial"]) for row in table} == {("mini", ""), ("mini", "mae"), ("mini", "ct")}
    assert {row["steps"] for row in table} == {"2"}
    assert [float(row["gain_over_scratch"]) for row in table if row["initial"]] == [
        pytest.approx(
            float(row["dice_mean"]) - next(float(r["dice_mean"]) for r in table if not r["initial"]), abs=1e-5
        )
        for row in table
        if row["initial"]
    ]
    for start, value in (("mae", 7.0), ("ct", 9.0)):
        run = tmp_path / "out" / "runs" / f"mini-from-{start}" / "fold_0_seed_0"
        state = load_file(run / "training" / "model.pt")
        assert state["stem.weight"].flatten().tolist() == pytest.approx([value] * 2, abs=1e-3)
        assert read_about(run / "training" / "model.pt")["training"] == names[:2]
        assert {row["case"] for row in read_csv(run / "evaluation" / "cases.csv")} == {*names[2:4]}
    assert "Weights to start from, compared with the same network from scratch:" in out
    assert f"mini, from mae starts from {tmp_path / 'mae.pt'}, in the workflow finetune." in out
    assert "the same for all networks: 2 for training, 2 scored." in out
    assert (
        f"mini, from mae: the images of 1 of the 2 scored cases ({names[2]}, ...) were part of the pretraining" in out
    )
    assert "from ct: the images" not in out
    figure = ElementTree.parse(tmp_path / "out" / "pretraining.svg").getroot()
    assert len(list(figure.iter("{http://www.w3.org/2000/svg}circle"))) == 2


def test_files_that_are_of_no_comparison_are_not_replaced(phantom, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "runs.csv").write_text("mine")
    start = ("compare", phantom, network_file(tmp_path, "mini"), "--output", tmp_path / "out", "--epochs", 1)
    found, _, err = call_verb(*start, "--bundle", "mednextv2_hippocampus")
    assert found == 1
    assert f"output {tmp_path / 'out'}: holds runs.csv, but no comparison.json" in err
    assert [(file.name, file.read_text()) for file in (tmp_path / "out").iterdir()] == [("runs.csv", "mine")]


def test_facts_of_the_recipe_are_planned_without_a_bundle(phantom, tmp_path, monkeypatch):
    from mednextv2.comparison import compare

    monkeypatch.setattr(compare, "make_runs", lambda runs, *_: {run.entry.name: "not run" for run in runs})
    words = ("compare", phantom, "v2_tiny", "--epochs", 1, "--output", tmp_path / "out", "--memory", 4)
    code, out, _ = call_verb(*words)
    assert code == 1
    assert (
        (tmp_path / "out" / "runs.csv")
        .read_text()
        .startswith("network,initial,pretrained,fold,seed,dice,surface_dice_1mm,")
    )
    task = (tmp_path / "out" / "bundle" / "task.yaml").read_text()
    assert "labels: [background, anterior, posterior]" in task
    assert "- v2_tiny: not run" in out
    monkeypatch.setattr(compare, "plan_dataset", None)  # the plan that is there is used again
    assert "not run" in call_verb(*words)[1]


def test_settings_of_a_network_s_own_are_told():
    from mednextv2.comparison.compare import _own_recipe
    from mednextv2.comparison.entries import choose_entries

    primus, segresnet, tiny = choose_entries("primus_m,segresnet,v2_tiny")
    assert _own_recipe(primus, {}) == "learning_rate 0.0003, weight_decay 0.05"
    assert _own_recipe(primus, {"learning_rate": 1e-3}) == "weight_decay 0.05"
    assert _own_recipe(segresnet, {}) == _own_recipe(tiny, {}) == ""


def test_a_network_that_did_not_use_its_time_is_told(compared, tmp_path, phantom):
    from comparison_helpers import make_done

    from mednextv2.comparison.compare import _facts
    from mednextv2.comparison.request import Request
    from mednextv2.comparison.results import gather

    runs = [make_done(tmp_path, n, {"c": [0.5]}, training_seconds=s) for n, s in (("v1_s", 60.0), ("v1_b", 100.0))]
    request = Request(str(phantom), None, [run.entry for run in runs], [0], [0], None, 2.0)
    facts = "\n".join(_facts(request, compared[0] / "out" / "bundle", gather(runs, {})))
    assert "v1_s was done after 1 of 2 minutes" in facts
    assert "v1_b was done" not in facts
    assert "2 minutes of training for each run" in facts
