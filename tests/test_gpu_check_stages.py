"""The stages of the check that need a GPU, against stand-ins."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mednextv2.errors import InputError

if not sys.platform.startswith("linux"):
    pytest.skip("Triton is for Linux", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import gpu_check_launches
import gpu_check_stages
import gpu_check_steps
import gpu_check_training
from gpu_capture import Launch, TensorSpec
from gpu_check_helpers import as_dicts, settings
from gpu_check_processes import Ran
from gpu_check_stages import Table
from gpu_check_steps import Row, Subject
from gpu_compile import Compiled
from gpu_predict_launches import Done


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
    assert re.search(rf"^process {process.pid} State:\s+[SRD] .* in \w+", told.out, re.MULTILINE)
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
