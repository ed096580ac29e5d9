"""The runs of a comparison, in this process: it takes seconds to start another one."""

import json

import pytest
import torch
from comparison_helpers import QUICK, network_file

from mednextv2.bundle import find_bundle
from mednextv2.comparison import child
from mednextv2.comparison.budget import Schedule, fit_schedule
from mednextv2.comparison.runs import Job
from mednextv2.comparison.watch import Progress, RunWatch, read_progress
from mednextv2.errors import InputError
from mednextv2.scores.results_json import read_results
from mednextv2.weights.files import load_file

EVALUATION = ("overlap", "test_mirror_axes")


def make_job(folder, phantom, name, schedule=None, minutes=None, **more):
    file = network_file(folder, name) if "network" not in more else more.pop("network")
    shared = {"dataset_dir": str(phantom), "labels_dir": None, "network": str(file), "fold": 0, "check_data": False}
    common = {k: QUICK[k] for k in ("patch_size", "batch_size", "num_workers")}
    prepared = {"prepared_dir": str(folder / "prepared")}
    bundle = str(find_bundle("mednextv2_hippocampus"))
    train = {**shared, **common, **prepared, "seed": 0, **more}
    evaluate = {**shared, **common, **{k: QUICK[k] for k in EVALUATION}}
    return Job(folder / "net" / "run", bundle, train, evaluate, minutes, schedule)


def outcome_of(job):
    code = child.main([str(job.write())])
    outcome = json.loads((job.folder / "outcome.json").read_text())
    assert code == int(outcome["status"] != "done")
    return outcome


def test_a_run_in_minutes_makes_the_steps_that_a_trial_foresees(phantom, tmp_path):
    job = make_job(tmp_path, phantom, "mini", minutes=0.05)
    outcome = outcome_of(job)
    assert outcome["status"] == "done", outcome
    trial = child.Trial(**json.loads((job.folder.parent / "trial.json").read_text()))
    planned = fit_schedule(0.05, trial)
    assert outcome["planned_epochs"] == planned.epochs
    assert 0 < outcome["steps"] <= planned.epochs * planned.iterations_per_epoch
    if not outcome["stopped"]:
        assert outcome["steps"] == planned.epochs * planned.iterations_per_epoch
    assert all(seconds < 3.0 for seconds in read_progress(job.folder / "progress.json").seconds[:-1])
    assert not (job.folder / "trial").exists()
    assert sorted(p.name for p in (job.folder / "training").glob("*.pt")) == ["model.pt"]  # no checkpoints are left
    assert len(read_results(job.folder / "evaluation").cases) == 2


def test_the_trial_is_made_once_for_all_runs_of_a_network(phantom, tmp_path, monkeypatch):
    job = make_job(tmp_path, phantom, "mini", minutes=2)
    job.write()
    monkeypatch.setattr(child, "measure", lambda job: child.Trial(0.5, 1.0))
    first = child._schedule_by_trial(job)
    monkeypatch.delattr(child, "measure")
    assert child._schedule_by_trial(job) == first == fit_schedule(2, child.Trial(0.5, 1.0))
    Progress([9.0], [2], 1, finished=True).write(job.folder / "progress.json")
    monkeypatch.setattr("mednextv2.bundle.run_bundle", lambda *args, **settings: None)
    assert child.run(job)["step_seconds"] == 0.5  # two steps are too few to measure them


def test_a_run_that_was_stopped_goes_on_from_its_last_epoch(phantom, tmp_path, monkeypatch):
    job = make_job(tmp_path, phantom, "mini", Schedule(3, 2, 1, 0))
    count = RunWatch._count

    def stop(self, engine):
        count(self, engine)
        if engine.state.iteration == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(RunWatch, "_count", stop)
        assert child.main([str(job.write())]) == 130
    assert not (job.folder / "outcome.json").exists()
    before = read_progress(job.folder / "progress.json")
    assert (before.steps, before.finished) == ([2, 4], False)
    steps = []
    monkeypatch.setattr(
        RunWatch, "_count", lambda self, engine: (steps.append(engine.state.iteration), count(self, engine))
    )
    assert outcome_of(job)["steps"] == 6
    assert steps == [5, 6]
    after = read_progress(job.folder / "progress.json")
    assert after.seconds[:2] == before.seconds
    steps.clear()
    monkeypatch.setattr(child, "measure", None)
    outcome_of(job)  # a run whose evaluation was interrupted is not trained again
    assert steps == []


def test_a_run_can_start_from_weights(compared, phantom, tmp_path):
    weights = compared[0] / "out" / "runs" / "mini" / "fold_0_seed_0" / "training" / "model.pt"
    job = make_job(tmp_path, phantom, "mini", Schedule(1, 1, 1, 0), pretrained=str(weights), learning_rate=1e-9)
    assert outcome_of(job)["status"] == "done"
    before, after = (load_file(file) for file in (weights, job.folder / "training" / "model.pt"))
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in before.items())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("clumsy", "crashed with RuntimeError: Given groups=1, weight of size [3, 7, 1, 1, 1]"),
        ("greedy", "ran out of memory (the process had used"),
    ],
)
def test_a_network_that_fails_says_why(name, reason, phantom, tmp_path):
    outcome = outcome_of(make_job(tmp_path, phantom, name, Schedule(1, 1, 1, 0)))
    assert outcome["status"] == "failed"
    assert outcome["reason"].startswith(reason)


def test_a_network_that_needs_another_patch_says_which(phantom, tmp_path):
    outcome = outcome_of(make_job(tmp_path, phantom, "", Schedule(1, 1, 1, 0), network="swin_unetr"))
    assert "patch_size [16, 16, 16] should be multiples of 32" in outcome["reason"]


def test_reasons_are_one_bounded_line():
    assert child.reason_of(InputError("a: wrong\nb: wrong")) == "a: wrong; b: wrong"
    assert "ran out of memory" in child.reason_of(torch.OutOfMemoryError("CUDA out of memory"))
    assert "ran out of memory" in child.reason_of(MemoryError())
    outer = RuntimeError("Failed to instantiate")
    outer.__cause__ = ValueError("three\nlines")
    assert child.reason_of(outer) == "crashed with ValueError: three"
    assert child.reason_of(ValueError()) == "crashed with ValueError: no message"
    assert len(child.reason_of(ValueError("x" * 999))) == 400
