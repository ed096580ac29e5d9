import json
import os
import subprocess
import sys

import pytest
from comparison_helpers import make_done

from mednextv2.comparison import runner
from mednextv2.comparison.entries import Entry
from mednextv2.comparison.runs import Job, Run, list_runs
from mednextv2.comparison.watch import Progress

POPEN = subprocess.Popen
ENTRIES = [Entry(name, {"variant": name}) for name in ("a", "b")]


def job_of(run):
    return Job(run.folder, "bundle", {}, {})


def stand_in(monkeypatch, code):
    """Let another program be the process of a run; `folder` is the folder of the run."""
    start = "import json, os, pathlib, signal, sys, time; folder = pathlib.Path(sys.argv[1]).parent; "
    monkeypatch.setattr(runner, "_POLL_S", 0.02)
    monkeypatch.setattr(
        subprocess, "Popen", lambda words, **more: POPEN([sys.executable, "-S", "-c", start + code, words[-1]], **more)
    )


def write(**outcome):
    return f"(folder / 'outcome.json').write_text({json.dumps(outcome)!r})"


@pytest.fixture
def run(tmp_path) -> Run:
    return list_runs(tmp_path, ENTRIES[:1], [0], [0])[0]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (write(status="done"), ""),
        (write(status="failed", reason="the patch is wrong") + "; sys.exit(1)", "the patch is wrong"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "its process was killed by the system, probably for lack of memory; "),
        ("os.kill(os.getpid(), signal.SIGABRT)", "its process ended with SIGABRT; "),
        ("sys.exit(3)", "its process ended with status 3 before it was done; "),
    ],
)
def test_what_becomes_of_a_process(code, reason, run, monkeypatch):
    stand_in(monkeypatch, "print('hello'); " + code)
    found = runner.make_run(run, job_of(run))
    assert found == reason or (reason and found.startswith(reason) and str(run.folder / "log.txt") in found)
    assert (run.folder / "log.txt").read_text() in ("hello\n", "")


def test_a_reason_of_an_earlier_start_is_forgotten(run, monkeypatch):
    stand_in(monkeypatch, write(status="failed", reason="old"))
    assert runner.make_run(run, job_of(run)) == "old"
    stand_in(monkeypatch, "sys.exit(3)")
    assert "status 3" in runner.make_run(run, job_of(run))


def test_ctrl_c_ends_the_process(run, monkeypatch):
    stand_in(
        monkeypatch,
        "(folder / 'pid').write_text(str(os.getpid())); signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)",
    )
    monkeypatch.setattr(runner, "_PATIENCE_S", 0.2)

    def stop(_):
        if (run.folder / "pid").exists() and (run.folder / "pid").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.make_run(run, job_of(run), stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int((run.folder / "pid").read_text()), 0)


def test_a_network_that_failed_is_not_tried_again_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    runs = list_runs(tmp_path, ENTRIES, [0], [0, 1])
    started = []

    def make(run, job, report):
        started.append(run.name)
        return "no memory" if run.entry.name == "a" else ""

    monkeypatch.setattr(runner, "make_run", make)
    assert runner.make_runs(runs, job_of, lambda run: "Dice 0.5") == {"a": "no memory"}
    assert started == ["a, fold 0, seed 0", "b, fold 0, seed 0", "b, fold 0, seed 1"]
    lines = [line[line.index("run ") :] for line in capsys.readouterr().err.splitlines() if "seed" in line]
    assert lines[0].startswith("run 1 of 4: a, fold 0, seed 0: failed: no memory; ")
    assert lines[1].startswith("run 2 of 4: b, fold 0, seed 0: Dice 0.5; 1 second (1 second elapsed, about ")
    assert lines[2].startswith("run 3 of 4: a, fold 0, seed 1: not started, since another run of this network failed; ")
    assert lines[3] == "run 4 of 4: b, fold 0, seed 1: Dice 0.5; 1 second"


def test_runs_that_are_done_are_not_made_again(tmp_path, monkeypatch):
    done = make_done(tmp_path, "a", {"case": [0.5]})
    monkeypatch.setattr(runner, "make_run", lambda *args: pytest.fail("was made"))
    assert runner.make_runs([done], job_of, str) == {}


def test_the_state_of_a_run_is_told(run):
    assert runner._state(run) == "starting"
    run.folder.mkdir(parents=True)
    Progress([1.0], [5], 4).write(run.folder / "progress.json")
    assert runner._state(run) == "epoch 1 of 4"
    Progress([1.0], [5], 4, finished=True).write(run.folder / "progress.json")
    assert runner._state(run) == "evaluating"
    (run.folder / "progress.json").write_text("{")
    assert runner._state(run) == "running"


def test_a_process_imports_this_copy_of_the_package(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    first, second = runner._environment()["PYTHONPATH"].split(":")
    assert second == "elsewhere"
    assert (runner.Path(first) / "mednextv2" / "comparison").is_dir()
