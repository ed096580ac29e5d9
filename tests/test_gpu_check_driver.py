"""The driver of the check of a GPU, with stages of a few lines: its limits of time, failures and interruptions."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

if not sys.platform.startswith("linux"):
    pytest.skip("Triton is for Linux", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import gpu_check
import gpu_check_processes
from gpu_check_helpers import SCRIPTS, read_stages, settings
from gpu_check_processes import run


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Let the stages be a script whose lines the test gives, and return what the driver makes of it."""

    def use(*lines):
        script = tmp_path / "stage.py"
        start = f"import json, sys, time\nsys.path.insert(0, {str(SCRIPTS)!r})\nname, settings, file = sys.argv[1:]\n"
        start += (
            "def write(**found):\n    json.dump(dict(columns=['a'], notes=[], well=True) | found, open(file, 'w'))\n"
        )
        script.write_text(start + textwrap.dedent("\n".join(lines)), encoding="utf-8")
        monkeypatch.setattr(gpu_check, "SCRIPT", script)
        monkeypatch.setattr(gpu_check, "GRACE", 0.5)

    return use


def test_a_stage_that_takes_too_long_is_stopped_and_its_table_kept(stage):
    stage("write(rows=[[1.0]])", "print('half of it', flush=True)", "time.sleep(60)")
    start = time.monotonic()
    found = gpu_check.run_stage("steps", settings(1.5))
    assert time.monotonic() - start < 10
    assert found["status"] == "stopped"
    assert found["rows"] == [[1.0]]
    assert re.match(r"stopped after \d s; the table has what was found until then", found["error"])
    assert found["notes"] == ["printed: half of it"]


def test_the_time_of_a_stage_begins_when_it_has_imported_everything(stage, monkeypatch):
    stage("time.sleep(2)", "write(rows=[[1.0]])", "time.sleep(0.5)")
    found = gpu_check.run_stage("steps", settings(1))
    assert (found["status"], found["rows"]) == ("done", [[1.0]])
    assert 2 < found["start"] < found["seconds"]
    monkeypatch.setattr(gpu_check, "START", 1.0)
    found = gpu_check.run_stage("steps", settings(1))
    assert (found["status"], found["rows"]) == ("stopped", [])


def test_a_stage_that_fails_does_not_stop_the_others(stage, tmp_path, capsys):
    stage(
        "if name == 'tests':",
        "    sys.exit('RuntimeError: the GPU is on fire')",
        "write(rows=[['seconds', json.loads(settings)['seconds']]], well=name != 'trial')",
    )
    arguments = ["--output", str(tmp_path), "--dry", "--minutes", "2", "--peer", "none"]
    assert gpu_check.main([*arguments, "--stages", "environment,tests,trial,peer,training"]) == 1
    stages = {s["stage"]: s for s in json.loads((tmp_path / "gpu_check.json").read_text("utf-8"))["stages"]}
    assert {name: (s["status"], s["error"]) for name, s in stages.items()} == {
        "environment": ("done", None), "tests": ("failed", "RuntimeError: the GPU is on fire"), "trial": ("done", None),
        "peer": ("left out", "--peer none"), "training": ("done", None),
    }  # fmt: skip
    page = (tmp_path / "gpu_check.md").read_text("utf-8")
    assert "| tests | failed: RuntimeError: the GPU is on fire |" in page
    assert "| trial | done, with failures |" in page
    assert "written: " in capsys.readouterr().out
    # what a stage leaves goes to those after it: the last has all the rest, and the first its share
    share = gpu_check.SECONDS["environment"] / sum(
        gpu_check.SECONDS[name] for name in stages if stages[name]["status"] != "left out"
    )
    assert stages["environment"]["rows"][0][1] == pytest.approx(120 * share, rel=0.02)
    used = sum(s["seconds"] for s in stages.values())
    assert stages["training"]["rows"][0][1] == pytest.approx(120 - used, abs=3)


def test_without_data_training_is_left_out_on_a_gpu(monkeypatch, tmp_path, stage):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    stage("write(rows=[['settings', settings]])")
    assert gpu_check.main(["--output", str(tmp_path), "--stages", "environment,training"]) == 0
    first, last = json.loads((tmp_path / "gpu_check.json").read_text("utf-8"))["stages"]
    assert (last["status"], last["error"]) == ("left out", "it needs the hippocampus data set, --data DIR")
    given = json.loads(first["rows"][0][1])
    assert (given["variant"], given["patch"], given["dry"]) == ("v2_base", 128, False)


def ends(pid):
    """Whether a process is gone, or is a moment later; one that waits to be asked for its status is."""
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_a_command_that_is_stopped_takes_along_what_it_started(tmp_path):
    child = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '77']); print(p.pid, flush=True); time.sleep(77)"
    )
    ran = run([sys.executable, "-c", child], 3.0)
    assert ran.status is None
    assert ends(int(ran.last_line))
    assert run([sys.executable, "-c", "print('a'); print('the last'); raise SystemExit(3)"], 30)[:2] == (
        3, "a\nthe last\n",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["SIG_DFL", "SIG_IGN"])
def test_a_stage_that_is_stopped_stops_the_commands_it_waits_for(sign, tmp_path, stage, monkeypatch):
    stage(
        "import signal, subprocess, os",
        "import gpu_check_stages",
        "from gpu_check_processes import run",
        f'code = "import os, signal, time; signal.signal(signal.SIGTERM, signal.{sign}); "',
        f"code += \"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(77)\"",
        "gpu_check_stages.STAGES['steps'] = lambda settings, file: run([sys.executable, '-c', code], 70)",
        "sys.exit(gpu_check_stages.main(sys.argv[1:]))",
    )
    monkeypatch.setattr(gpu_check, "START", 12.0)  # this stage has no table
    found = gpu_check.run_stage("steps", settings(1))
    assert found["status"] == "stopped"
    assert ends(int((tmp_path / "pid").read_text()))


def start_check(folder, script, stages):
    """The command itself, whose stages are a script, with a pipe for what it prints."""
    # a shell's background job, as these tests may be, ignores SIGINT, and so would what it starts
    code = "import signal, sys, gpu_check, gpu_options; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from pathlib import Path; gpu_check.SCRIPT = Path(sys.argv.pop(1)); "
    command = [sys.executable, "-c", code + "gpu_options.end(gpu_check.main)", str(script), "--dry"]
    return subprocess.Popen(
        [*command, "--output", str(folder), "--stages", stages], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip


def wait_for(path):
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interruption_is_one_line_and_keeps_what_was_found(sign, tmp_path, stage):
    stage(
        "import os",
        "if name == 'environment':",
        "    write(rows=[['GPU', 'some']])",
        "    sys.exit()",
        "write(rows=[[1.0]])",
        f"open({str(tmp_path / 'part')!r}, 'w').write(str(os.getpid()))",
        f"os.rename({str(tmp_path / 'part')!r}, {str(tmp_path / 'pid')!r})",
        "time.sleep(77)",
    )
    folder = tmp_path / "out"
    process = start_check(folder, gpu_check.SCRIPT, "steps,peer")
    wait_for(tmp_path / "pid")
    process.send_signal(sign)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    place = folder / "gpu_check"
    assert error.splitlines() == [f"interrupted; what was found until then is in {place}.md and .json"]
    assert ends(int((tmp_path / "pid").read_text()))
    stages = json.loads((folder / "gpu_check.json").read_text("utf-8"))["stages"]
    assert [(s["stage"], s["status"]) for s in stages] == [("environment", "done"), ("steps", "interrupted")]
    assert stages[1]["rows"] == [[1.0]]


def test_an_interruption_before_anything_was_found_leaves_an_earlier_report(tmp_path, stage):
    stage(f"open({str(tmp_path / 'pid')!r}, 'w')", "time.sleep(77)")
    (tmp_path / "gpu_check.json").write_text("an earlier one")
    process = start_check(tmp_path, gpu_check.SCRIPT, "steps")
    wait_for(tmp_path / "pid")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "interrupted; nothing was found until then\n")
    assert process.returncode == 130
    assert (tmp_path / "gpu_check.json").read_text() == "an earlier one"


def test_a_second_interruption_still_kills(monkeypatch):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(77)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    wait, waits = process.wait, []

    def interrupted(seconds):
        waits.append(seconds)
        if len(waits) == 1:
            raise KeyboardInterrupt
        return wait(seconds)

    monkeypatch.setattr(process, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpu_check_processes.stop(process)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


# --- a folder that has a report --------------------------------------------------------------------------------------


def test_a_run_says_in_one_line_that_it_keeps_an_earlier_report(stage, tmp_path, capsys):
    (tmp_path / "gpu_check.json").write_text("half a rep")
    stage("write(rows=[['GPU', 'some']])")
    arguments = ["--output", str(tmp_path), "--dry"]
    assert gpu_check.main([*arguments, "--stages", "steps"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith("it is kept as gpu_check-earlier-1.json.")
    assert [line.split(":")[0] for line in rest] == ["environment", "steps", "written"]
    assert gpu_check.main([*arguments, "--stages", "tests"]) == 0
    assert list(read_stages(tmp_path)) == ["environment", "tests", "steps"]
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["environment", "tests", "written"]
    assert all(s["environment"] == {"GPU": "some"} for s in read_stages(tmp_path).values())
