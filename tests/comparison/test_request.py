import json

import pytest

from mednextv2.bundle import find_bundle
from mednextv2.comparison.budget import Schedule
from mednextv2.comparison.entries import Entry
from mednextv2.comparison.request import Request, read_numbers, store_request
from mednextv2.comparison.runs import list_runs
from mednextv2.errors import InputError, UsageError

BUNDLE = find_bundle("mednextv2_hippocampus")
TINY = Entry("v2_tiny", {"variant": "v2_tiny"})


def make(tmp_path, epochs=2, minutes=None, entries=(TINY,), **settings):
    return Request(str(tmp_path / "data"), None, entries, [0], [0], epochs, minutes, settings)


def test_each_workflow_gets_the_settings_that_it_has(tmp_path):
    request = make(tmp_path, batch_size=2, overlap=0.0, num_workers=0, **{"train::trainer::amp": False})
    assert request.settings_of(BUNDLE, "train") == {"batch_size": 2, "num_workers": 0, "train::trainer::amp": False}
    assert request.settings_of(BUNDLE, "evaluate") == {"batch_size": 2, "overlap": 0.0, "num_workers": 0}


def test_a_run_is_told_its_network_fold_and_seed(tmp_path):
    tuned = Entry("v2_tiny", {"variant": "v2_tiny"}, str(tmp_path / "model.pt"))
    request = make(tmp_path, epochs=8, entries=(TINY, tuned), learning_rate=1e-2, overlap=0.0)
    scratch, fine = (request.job(run, BUNDLE) for run in list_runs(tmp_path, request.entries, [3], [7]))
    shared = {
        "dataset_dir": str(tmp_path / "data"),
        "labels_dir": None,
        "variant": "v2_tiny",
        "fold": 3,
        "check_data": False,
    }
    assert scratch.train == {**shared, "learning_rate": 1e-2, "seed": 7}
    assert scratch.evaluate == {**shared, "overlap": 0.0}
    assert fine.train == {**scratch.train, "pretrained": str(tmp_path / "model.pt")}
    assert fine.evaluate == scratch.evaluate
    assert (scratch.workflow, fine.workflow) == ("train", "finetune")
    assert scratch.trial == fine.trial == tmp_path / "runs" / "v2_tiny" / "trial.json"  # for the same number of steps
    assert (scratch.minutes, scratch.schedule) == (None, Schedule(8, warmup_epochs=2))
    job = make(tmp_path, None, 1.5).job(list_runs(tmp_path, [TINY], [0], [0])[0], BUNDLE)
    assert (job.minutes, job.schedule) == (1.5, None)


def test_paths_are_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = Request("data", "labels", [TINY], [0], [0], 1, None, {"splits": "s.json", "prepared_dir": None})
    content = request.content()
    assert (content["dataset_dir"], content["labels_dir"]) == (str(tmp_path / "data"), str(tmp_path / "labels"))
    assert content["settings"] == {"splits": str(tmp_path / "s.json"), "prepared_dir": None}


def test_networks_seeds_and_folds_may_be_added(tmp_path):
    store_request(tmp_path, make(tmp_path))
    own = Entry("mine", {"network": "mine.yaml"}, files={"network": "1"})
    store_request(tmp_path, Request(str(tmp_path / "data"), None, [TINY, own], [0, 1], [0, 1], 2))
    store_request(tmp_path, make(tmp_path))
    assert json.loads((tmp_path / "comparison.json").read_text())["files"] == {"mine": {"network": "1"}}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"epochs": 3}, "epochs: 2 before, 3 now"),
        ({"epochs": None, "minutes": 1.0}, "minutes: None before, 1.0 now"),
        ({"batch_size": 1}, "settings: {} before, {'batch_size': 1} now"),
        ({"entries": [Entry("mine", {}, files={"network": "2"})]}, "mine: its network file was changed"),
    ],
)
def test_another_comparison_is_refused(other, message, tmp_path):
    store_request(tmp_path, make(tmp_path, entries=[Entry("mine", {}, files={"network": "1"})]))
    with pytest.raises(InputError) as refused:
        store_request(tmp_path, make(tmp_path, **other))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "name", ["fold", "seed", "variant", "network", "output_dir", "weights", "warmup_epochs", "resume"]
)
def test_what_the_comparison_decides_is_no_setting(name, tmp_path):
    with pytest.raises(UsageError, match=f"--{name}: is decided by the comparison"):
        make(tmp_path, **{name: 1})


def test_numbers_of_an_option():
    assert read_numbers("seeds", 3) == [3]
    assert read_numbers("seeds", (0, 2)) == [0, 2]
    for wrong in (-1, 1.5, "all", True, (), (1, 1), None):
        with pytest.raises(UsageError, match="should be different whole numbers from 0"):
            read_numbers("seeds", wrong)
