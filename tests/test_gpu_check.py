"""The check of a GPU goes through its code without one; limits, failures and leftovers are met with small stand-ins."""

import contextlib
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

from mednextv2.errors import InputError
from mednextv2.nets import create_mednext
from mednextv2.nets.blocks import MedNeXtBlock

if not sys.platform.startswith("linux"):
    pytest.skip("Triton is for Linux", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import gpu_check
import gpu_check_launches
import gpu_check_processes
import gpu_check_report
import gpu_check_stages
import gpu_check_steps
import gpu_check_training
from gpu_capture import Launch, TensorSpec
from gpu_check_processes import Ran, run
from gpu_check_stages import NO_GPU, STAGES, Settings, Table
from gpu_check_steps import MODES, Row, Subject
from gpu_compile import Compiled
from gpu_predict_launches import Done

SCRIPTS = Path(gpu_check.__file__).parent


def dry_run(folder, stages, *more):
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), "--dry", "--output", str(folder), "--minutes", "12"]
    done = subprocess.run([*command, "--stages", stages, *more], capture_output=True, text=True, timeout=900)
    report = json.loads((folder / "gpu_check.json").read_text(encoding="utf-8"))
    return done, {found["stage"]: found for found in report["stages"]}, (folder / "gpu_check.md").read_text("utf-8")


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """The quick stages of a dry run; the others have tests of their own, and a slow one."""
    return dry_run(tmp_path_factory.mktemp("check"), "environment,tests,sanitizer,launches,steps,profile")


def as_dicts(found):
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def test_a_dry_run_goes_through_its_stages_and_says_that_it_is_one(dry):
    done, stages, page = dry
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(stages) == ["environment", "tests", "sanitizer", "launches", "steps", "profile"]
    for name, found in stages.items():
        assert (found["status"], found["error"], found["well"]) == ("done", None, True)
        assert found["rows"]
        assert f"{name}: done, " in done.stdout
        assert f"\n## {name}\n" in page
    assert "**A dry run on a CPU at tiny sizes: no number says anything about a GPU.**" in page
    assert "Predicted: from compiled code, not measured" in page


def test_the_environment_names_versions_and_the_missing_gpu(dry):
    values = {row["what"]: row["value"] for row in as_dicts(dry[1]["environment"])}
    assert values["torch"] == torch.__version__
    assert values["GPU"] == NO_GPU


def test_tests_and_sanitizer_run_their_real_commands(dry):
    (test,) = as_dicts(dry[1]["tests"])
    assert test["file"].startswith("tests/")
    assert "skipped" in test["last line"] or "deselected" in test["last line"]
    assert (test["passed"], test["failed"]) == (0, 0)
    (step,) = as_dicts(dry[1]["sanitizer"])
    assert (step["variant"], step["status"], step["last line"]) == ("v2_tiny", 1, NO_GPU)
    for name in ("tests", "sanitizer"):  # it says that this is no success of a kernel
        (note,) = [note for note in dry[1][name]["notes"] if "dry run" in note]
        assert "without a GPU" in note
        assert f"- {note}" in dry[2]


def test_launches_of_training_and_inference_are_predicted(dry):
    rows = as_dicts(dry[1]["launches"])
    assert {row["part"].split(":")[0] for row in rows} == {"train", "inference"}
    assert all(row["measured (ms)"] is None for row in rows)
    assert sum(row["predicted (ms)"] is not None for row in rows) >= 0.9 * len(rows)
    for what, note in zip(("train", "inference"), dry[1]["launches"]["notes"], strict=True):
        own = [row for row in rows if row["part"].startswith(what) and row["predicted (ms)"]]
        total = sum(row["times a step"] * row["predicted (ms)"] for row in own)
        assert f"predicted {total:.2f} ms" in note


def test_steps_have_times_and_memory_in_every_mode(dry):
    found = dry[1]["steps"]
    rows = as_dicts(found)
    assert [row["how"] for row in rows] == [*MODES, *MODES]
    for row, raw in zip(rows, found["raw"], strict=True):
        assert row["note"] == ""
        times = sorted(raw["turns"][0]["seconds"])
        assert times[0] * 1e3 <= row["ms"] <= times[-1] * 1e3
        assert 0 < row["ms until submitted"] <= row["ms"] * 1.01
        assert row["peak (GiB)"] > 0
    assert [row["relative"] for row in rows if row["how"] == "eager"] == [1, 1]


def test_a_profile_sums_up_what_a_step_does(dry):
    found = dry[1]["profile"]
    rows = as_dicts(found)
    for part in ("train, batch 2, recorded", "inference, batch 1, recorded"):
        own = [row for row in rows if row["part"] == part]
        assert sum(row["share"] for row in own) == pytest.approx(1)
        assert [row["ms a step"] for row in own[:-1]] == sorted((row["ms a step"] for row in own[:-1]), reverse=True)
        blocks = sum(isinstance(m, MedNeXtBlock) for m in create_mednext("v2_tiny").modules())
        assert {row["kernel"]: row["times a step"] for row in own}["mednextv2::block"] == blocks
        (note,) = [note for note in found["notes"] if note.startswith(part)]
        told = float(re.search(r"take ([\d.]+) ms", note)[1])
        assert told == pytest.approx(sum(row["ms a step"] for row in own), abs=0.01)


@pytest.mark.slow
def test_a_whole_dry_run(tmp_path):
    done, stages, _ = dry_run(tmp_path, ",".join(STAGES))
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(stages) == list(STAGES)
    assert {found["status"] for found in stages.values()} == {"done"}
    assert [row["network"] for row in as_dicts(stages["peer"])] == ["v2_tiny", "monai", "monai"]
    assert [row["epoch"] for row in as_dicts(stages["training"])] == [1, 2]
    assert all(row["registers"] > 0 for row in as_dicts(stages["compile"]))


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PyTorch sees no GPU here; with --dry"),
        (["--dry", "--stages", "steps,stpes"], "there is no stage 'stpes'; choose of environment, compile,"),
        (["--dry", "--minutes", "0"], "argument --minutes: 0: give minutes from 0.1 to 1440"),
        (["--dry", "--patch", "40"], "argument --patch: 40: give a positive multiple of 16 up to 1024, such as 128"),
        (["--dry", "--data", "nowhere"], "--data nowhere: neither it nor Task04_Hippocampus inside"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as error:
        gpu_check.main(["--output", str(tmp_path / "out"), *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_and_a_peer_that_is_missing_are_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    for arguments, message in (
        (["--output", str(tmp_path / "file" / "out")], "cannot be written"),
        (["--output", ""], "argument --output: an empty name: give a folder, or . for this one"),
        (["--output", str(tmp_path), "--peer", "resenc_l"], "pip install dynamic-network-architectures"),
    ):
        with pytest.raises(SystemExit):
            gpu_check.main(["--dry", *arguments])
        assert message in capsys.readouterr().err.splitlines()[-1]


# --- the driver, with stages of a few lines --------------------------------------------------------------------------


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


def settings(seconds):
    return Settings("v2_tiny", 32, None, None, True, seconds)


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


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
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

ENVIRONMENT = {"GPU": "some", "torch": "2.11", "clocks.sm": "345 MHz"}


def found(stage, started="now", environment=ENVIRONMENT, **more):
    empty = {"columns": ["a"], "rows": [[1.0]], "notes": [], "well": True, "status": "done", "error": None}
    own = {"stage": stage, "seconds": 1.0, "started": started, "environment": environment}
    return {**empty, **own, "variant": "v2_tiny", "patch": 32, **more}


def report_of(folder, *stages, environment=ENVIRONMENT):
    """Write a report as a run does; returns what it says about an earlier one."""
    report = gpu_check_report.Report(folder, False)
    said = report.take_over(environment)
    for stage in stages:
        report.add(stage)
    return said


def read_stages(folder, name="gpu_check"):
    return {s["stage"]: s for s in json.loads((folder / f"{name}.json").read_text("utf-8"))["stages"]}


def test_stages_of_an_earlier_run_stay_unless_they_are_run_again(tmp_path):
    assert report_of(tmp_path, *(found(name, "then") for name in ("environment", "steps", "training"))) is None
    later = {**ENVIRONMENT, "clocks.sm": "1980 MHz"}
    again = [found(name, "now", later, variant="v2_small") for name in ("environment", "steps", "tests")]
    missing = found("training", "now", later, status="left out", rows=[])
    assert report_of(tmp_path, *again, missing, environment=later) is None
    stages = read_stages(tmp_path)
    assert [(name, s["started"], s["variant"]) for name, s in stages.items()] == [
        ("environment", "now", "v2_small"), ("tests", "now", "v2_small"), ("steps", "now", "v2_small"),
        ("training", "then", "v2_tiny"),
    ]  # fmt: skip
    assert stages["training"]["rows"] == [[1.0]]
    page = (tmp_path / "gpu_check.md").read_text("utf-8")
    assert "| training | done | 1 | v2_tiny, 32³ | then |" in page
    note = "This stage is of an earlier run, then, when the GPU had clocks.sm 345 MHz (now 1980 MHz)."
    assert page.count("of an earlier run") == page.count(note) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"gpu_check.json", "gpu_check.md"}


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({**ENVIRONMENT, "GPU": "another"}, "is of another machine or version (GPU: some there, another here)"),
        ({**ENVIRONMENT, "torch": "2.13"}, "is of another machine or version (torch: 2.11 there, 2.13 here)"),
        ({**ENVIRONMENT, "triton": "3.9"}, "is of another machine or version (triton: None there, 3.9 here)"),
        ({"a": 1, "b": 2}, "(GPU: some there, None here; torch: 2.11 there, None here; a: None there, 1 here; …)"),
        ({}, "cannot be compared with this machine"),
    ],
)
def test_a_report_of_another_machine_or_version_is_kept_under_another_name(environment, reason, tmp_path):
    for number in (1, 2):
        report_of(tmp_path, found("environment", "then"), found("steps", "then"))
        said = report_of(tmp_path, found("environment", environment=environment), environment=environment)
        assert said.startswith(f"The report of an earlier run in {tmp_path} ")
        assert reason in said
        names = f"gpu_check-earlier-{number}.json and gpu_check-earlier-{number}.md"
        assert said.endswith(f"; it is kept as {names}.")
        assert list(read_stages(tmp_path)) == ["environment"]
        assert list(read_stages(tmp_path, f"gpu_check-earlier-{number}")) == ["environment", "steps"]
        for ending in (".json", ".md"):
            (tmp_path / "gpu_check").with_suffix(ending).unlink()


WHOLE = {"dry": False, "stages": [found("steps")]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is damaged"), ("[]", "is damaged"), ("{}", "is damaged"), ("\udcff", "is damaged"),
        (json.dumps(WHOLE)[:-9], "is damaged"),
        (json.dumps({**WHOLE, "stages": [found("stpes")]}), "is damaged"),
        (json.dumps({**WHOLE, "stages": [found("steps", environment=3)]}), "is damaged"),
        (json.dumps({**WHOLE, "stages": [found("steps", rows=[3])]}), "is damaged"),
        (json.dumps({**WHOLE, "stages": [{k: v for k, v in found("steps").items() if k != "started"}]}), "is damaged"),
        (json.dumps({**WHOLE, "stages": [found("steps", environment={})]}), "does not tell from which machine it is"),
        (None, "has no gpu_check.json beside it"),
    ],
)  # fmt: skip
def test_a_damaged_report_is_kept_under_another_name(text, reason, tmp_path):
    name = "gpu_check.json" if text is not None else "gpu_check.md"
    content = (text or "").encode("utf-8", "surrogateescape")
    (tmp_path / name).write_bytes(content)
    said = report_of(tmp_path, found("environment"))
    assert f" {reason}" in said
    other = f"gpu_check-earlier-1{Path(name).suffix}"
    assert said.endswith(f"it is kept as {other}.")
    assert (tmp_path / other).read_bytes() == content
    assert list(read_stages(tmp_path)) == ["environment"]


def test_a_report_that_cannot_be_read_is_a_mistake(tmp_path):
    (tmp_path / "gpu_check.json").mkdir()
    with pytest.raises(InputError, match=r"gpu_check.json: cannot be read or renamed \(Is a directory\)"):
        report_of(tmp_path, found("environment"))


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


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.00"), (12.345, "12.3"), (123.4, "123"), (1234.5, "1234"), (7, "7"), ("a|b", "a\\|b"),
     ("/home/me/x/run.py: bad", "run.py: bad"), (0.000123456, "0.000123")],
)  # fmt: skip
def test_cells(value, text):
    assert gpu_check_report.format_cell(value) == text


# --- what needs a GPU, against stand-ins -----------------------------------------------------------------------------


def test_a_row_that_fails_is_a_row_with_its_error(tmp_path):
    saved = []
    rows = [
        Row("ours", "inference", "eager", "v2_tiny", 32, 1, "cpu"),
        Row("ours", "train", "eager", "v9", 32, 1, "cpu"),
    ]
    gpu_check_steps.measure_rows(rows, 60, lambda *found: saved.append(found), rounds=1)
    well, failed = (dict(zip(gpu_check_steps.COLUMNS, row, strict=True)) for row in saved[-1][0])
    assert well["ms"] > 0
    assert failed["ms"] is None
    assert "v9" in failed["note"]


def test_a_row_that_is_not_ready_in_time_is_left_out():
    saved = []
    rows = [Row("ours", "inference", "eager", "v2_tiny", 32, 1, "cpu")]
    gpu_check_steps.measure_rows(rows, 0.01, lambda *found: saved.append(found), rounds=1)
    assert saved[-1][0][0][-1] == "was not ready in time"


@pytest.mark.parametrize("what", ["train", "inference"])
def test_a_step_is_recorded_after_a_warm_up_on_another_stream(what, monkeypatch):
    done = []

    class Stream:
        def wait_stream(self, other):
            done.append("wait")

    class Graph:
        def replay(self):
            done.append("replay")

    @contextlib.contextmanager
    def context(name, thing):
        done.append(f"{name} {type(thing).__name__}")
        yield
        done.append("end")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: context("stream", stream))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: context("graph", graph))
    subject = Subject(Row("ours", what, "graph", "v2_tiny", 16, 1, "cpu"))
    step = subject.step
    monkeypatch.setattr(subject, "step", lambda: (done.append("step"), step()))
    subject.record()
    warm = ["wait", "stream Stream", "step", "step", "end", "wait"]
    assert done == [*warm, "graph Graph", "step", "end"]
    subject.run()
    assert done[-1] == "replay"


def test_tensors_for_a_launch_have_its_shapes_and_places():
    x = gpu_check_launches.make_tensor(TensorSpec((5, 8), (1, 5), "bfloat16", 6), "cpu")
    assert (x.shape, x.stride(), x.dtype, x.storage_offset()) == ((5, 8), (1, 5), torch.bfloat16, 3)
    assert x.float().std() > 0.5
    whole = gpu_check_launches.make_tensor(TensorSpec((4,), (1,), "int64", 0), "cpu")
    assert whole.tolist() == [0, 0, 0, 0]


def test_a_launch_is_timed_with_its_arguments_grid_and_options(monkeypatch):
    seen = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda **given: seen.append((grid, given))

    def bench(function, warmup, rep, return_mode):
        function()
        assert return_mode == "all"
        return [3.0, 1.0, 2.0]

    made = gpu_check_launches.make_tensor
    monkeypatch.setattr(gpu_check_launches, "make_tensor", lambda spec, device: made(spec, "cpu"))
    monkeypatch.setattr(gpu_check_launches, "find_kernel", lambda *where: Kernel())
    monkeypatch.setattr(gpu_check_launches.triton.testing, "do_bench", bench)
    spec = TensorSpec((3,), (1,), "float32", 0)
    launch = Launch("somewhere", "some_kernel", (7, 2), {"x": spec, "n": 5, "BLOCK": 16}, {"num_warps": 2}, "block")
    assert gpu_check_launches.measure(launch) == 2e-3
    ((grid, given),) = seen
    assert grid == (7, 2)
    assert given.pop("x").shape == (3,)
    assert given == {"n": 5, "BLOCK": 16, "num_warps": 2}


def test_on_a_gpu_every_launch_is_timed_and_summed(monkeypatch):
    monkeypatch.setattr(gpu_check_launches, "measure", lambda launch: 1e-3)
    guess = FakeGuess()
    monkeypatch.setattr(gpu_check_launches, "side_by_side", lambda work, items: [
        Done(Compiled(item.job, None), (guess,) * len(item.launches)) for item in items
    ])  # fmt: skip
    saved = []
    gpu_check_launches.time_step("v2_tiny", 32, 90, False, lambda *found: saved.append(found))
    rows, notes = saved[-1]
    rows = [dict(zip(gpu_check_launches.COLUMNS, row, strict=True)) for row in rows]
    assert all(row["measured (ms)"] == 1 and row["measured/predicted"] == 0.5 for row in rows)
    counts = {w: sum(r["times a step"] for r in rows if r["part"].startswith(w)) for w in ("train", "inference")}
    expected = [sum(found.times) for found in gpu_check_launches.follow("v2_tiny", 32, (9, 0))]
    assert list(counts.values()) == expected
    assert all(f"measured {n:.2f} ms" in note for n, note in zip(expected, notes, strict=True))
    # on a GPU whose numbers nobody compared with predictions there are none
    guess = None
    gpu_check_launches.time_step("v2_tiny", 32, 90, False, lambda *found: saved.append(found))
    assert {tuple(row[4:6]) for row in saved[-1][0]} == {(None, "unknown")}


class FakeGuess:
    seconds, limit = 2e-3, "instructions"


def test_errors_of_the_sanitizer_fail_the_stage(tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        "#!/bin/sh\necho '===== Invalid __shared__ read of size 1024'\necho '===== ERROR SUMMARY: 2 errors'\nexit 99\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    gpu_check_stages.sanitizer(settings(60)._replace(dry=False), tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert not found["well"]
    rows = as_dicts(found)
    assert rows[0]["variant"] == "v2_tiny"
    assert [row["errors"] for row in rows] == [2] * len(gpu_check_stages.VARIANTS)
    assert any("Invalid __shared__ read" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("last_line", "status", "well", "counts"),
    [
        ("2 passed, 1 skipped in 3.00s", 0, True, (2, 0, 1)),
        ("1 passed, 2 failed, 3 errors in 3.00s", 1, False, (1, 5, 0)),
        ("1 error in 0.10s", 2, False, (0, 1, 0)),
        ("4 skipped in 0.10s", 0, False, (0, 0, 4)),
        ("7 deselected in 0.10s", 5, False, (0, 0, 0)),
        ("", None, False, (0, 0, 0)),
    ],
)
def test_tests_of_which_none_ran_on_a_gpu_are_no_success(last_line, status, well, counts, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check_stages, "run", lambda *given, **environment: Ran(status, last_line, 1.0))
    gpu_check_stages.tests(settings(60)._replace(dry=False), tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert found["well"] is well
    for row in as_dicts(found):
        assert tuple(row[name] for name in ("passed", "failed", "skipped")) == counts
    nothing = ["No test that needs a GPU ran, so this stage shows nothing: see the last lines."]
    assert found["notes"] == (nothing if counts[:2] == (0, 0) else [])


def test_one_file_of_tests_that_the_gpu_is_not_for_is_no_failure(tmp_path, monkeypatch):
    answers = iter(["3 skipped in 0.10s"])
    monkeypatch.setattr(
        gpu_check_stages, "run", lambda *given, **environment: Ran(0, next(answers, "1 passed in 1.00s"), 1.0)
    )
    gpu_check_stages.tests(settings(60)._replace(dry=False), tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text("utf-8"))["well"]


def test_the_driver_of_a_gpu_is_asked_for_its_clocks(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '580.1, 1980 MHz, 1980 MHz, 2619 MHz, 700.00 W, 35'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    class Properties:
        name, total_memory, multi_processor_count, major, minor = "Some GPU", 80 * 2**30, 132, 9, 0

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties())
    gpu_check_stages.environment(settings(30)._replace(dry=False), tmp_path / "result.json")
    values = {row["what"]: row["value"] for row in as_dicts(json.loads((tmp_path / "result.json").read_text("utf-8")))}
    assert values["GPU"] == "Some GPU, 80.0 GiB"
    assert values["compute capability"] == "9.0"
    assert values["driver_version"] == "580.1"
    assert values["temperature.gpu"] == "35"


def test_the_trial_is_the_doctors_and_its_status_counts(tmp_path, monkeypatch):
    called = []

    def answer(command, limit):
        called.append(command[1:])
        return Ran(1, "GPU  works\nkernels  failed\n", 2.0)

    monkeypatch.setattr(gpu_check_stages, "run", answer)
    gpu_check_stages.trial(settings(30), tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert called == [["-m", "mednextv2", "doctor", "--network", "v2_tiny", "--repeat"]]
    assert not found["well"]
    assert found["rows"][0][-1] == "kernels  failed"
    assert found["notes"] == ["GPU  works", "kernels  failed"]


def test_a_short_training_tells_seconds_waiting_and_scores(tmp_path):
    table = Table(tmp_path / "result.json", gpu_check_training.COLUMNS)
    assert 0 <= gpu_check_training.train(None, tmp_path, "cpu", True, 600, table.add) < 60
    first, second = as_dicts(json.loads((tmp_path / "result.json").read_text("utf-8")))
    for row in (first, second):
        assert row["steps"] == 2
        assert 0 < row["share of waiting for the loader"] < 1
        assert row["seconds"] > 0
        assert 0 <= row["Dice of random patches"] <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what processes wait for")
def test_what_is_slow_to_end_is_told(capfd):
    process = subprocess.Popen(["sleep", "60"])
    try:
        gpu_check_training._tell_children()
    finally:
        process.kill()
        process.wait()
    told = capfd.readouterr()
    assert re.search(rf"^process {process.pid} State:\s+[SR] .* in \w+", told.out, re.MULTILINE)
    assert "most recent call first" in told.err  # where the threads of this process are


def test_a_training_without_time_ends_after_an_epoch(tmp_path):
    rows = []
    gpu_check_training.train(None, tmp_path, "cpu", True, 0.0, lambda *cells: rows.append(cells))
    assert [row[0] for row in rows] == [1]


def test_the_data_set_or_its_parent_is_found(tmp_path):
    with pytest.raises(InputError, match="neither it nor Task04_Hippocampus"):
        gpu_check_training.find_data(str(tmp_path))
    task = tmp_path / "Task04_Hippocampus"
    task.mkdir()
    (task / "dataset.json").touch()
    assert gpu_check_training.find_data(str(tmp_path)) == gpu_check_training.find_data(str(task)) == task
