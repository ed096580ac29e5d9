"""The check of a GPU goes through its code without one; and what its command line refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mednextv2.nets import create_mednext
from mednextv2.nets.blocks import MedNeXtBlock

if not sys.platform.startswith("linux"):
    pytest.skip("Triton is for Linux", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import gpu_check
from gpu_check_helpers import SCRIPTS, as_dicts
from gpu_check_stages import NO_GPU, STAGES
from gpu_check_steps import MODES


def dry_run(folder, stages, *more):
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), "--dry", "--output", str(folder), "--minutes", "12"]
    done = subprocess.run([*command, "--stages", stages, *more], capture_output=True, text=True, timeout=900)
    report = json.loads((folder / "gpu_check.json").read_text(encoding="utf-8"))
    return done, {found["stage"]: found for found in report["stages"]}, (folder / "gpu_check.md").read_text("utf-8")


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """The quick stages of a dry run; the others have tests of their own, and a slow one."""
    return dry_run(tmp_path_factory.mktemp("check"), "environment,launches,profile")


def test_a_dry_run_goes_through_its_stages_and_says_that_it_is_one(dry):
    done, stages, page = dry
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(stages) == ["environment", "launches", "profile"]
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


@pytest.mark.slow
def test_tests_and_sanitizer_run_their_real_commands(tmp_path):
    _, stages, page = dry_run(tmp_path, "tests,sanitizer")
    (test,) = as_dicts(stages["tests"])
    assert test["file"].startswith("tests/")
    assert "skipped" in test["last line"] or "deselected" in test["last line"]
    assert (test["passed"], test["failed"]) == (0, 0)
    (step,) = as_dicts(stages["sanitizer"])
    assert (step["variant"], step["status"], step["last line"]) == ("v2_tiny", 1, NO_GPU)
    for name in ("tests", "sanitizer"):  # it says that this is no success of a kernel
        (note,) = [note for note in stages[name]["notes"] if "dry run" in note]
        assert "without a GPU" in note
        assert f"- {note}" in page


def test_launches_of_training_and_inference_are_predicted(dry):
    rows = as_dicts(dry[1]["launches"])
    assert {row["part"].split(":")[0] for row in rows} == {"train", "inference"}
    assert all(row["measured (ms)"] is None for row in rows)
    assert sum(row["predicted (ms)"] is not None for row in rows) >= 0.9 * len(rows)
    for what, note in zip(("train", "inference"), dry[1]["launches"]["notes"], strict=True):
        own = [row for row in rows if row["part"].startswith(what) and row["predicted (ms)"]]
        total = sum(row["times a step"] * row["predicted (ms)"] for row in own)
        assert f"predicted {total:.2f} ms" in note


@pytest.mark.slow
def test_steps_have_times_and_memory_in_every_mode(tmp_path):
    found = dry_run(tmp_path, "steps")[1]["steps"]
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
