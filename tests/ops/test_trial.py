"""The trial of GPU kernels, with a stand-in for the GPU; processes, files and locks are real."""

import ast
import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trial_standin as standin
from trial_standin import (
    DEVICE,
    ENDED,
    FULL,
    HANGING,
    ILLEGAL,
    KILLED,
    KILLED_ONCE,
    NAME,
    RIGHT,
    TOO_LARGE,
    WRONG,
    lines,
    new_process,
    problem,
)  # fmt: skip
from triton.compiler import CompilationError
from triton.runtime.errors import PTXASError

from mednextv2.nets import MedNeXt
from mednextv2.ops import _trial_store, _trial_worker, implementations, native, trial
from mednextv2.ops import _trial_worker_pool as children
from mednextv2.ops._trial_store import Verdict

STANDIN = Path(standin.__file__).parent


def test_every_failure_ends_on_pytorchs_path_with_one_line(gpu, monkeypatch, caplog):
    monkeypatch.setattr(children, "LIMIT_S", 3.0)
    kinds = [HANGING, RIGHT, WRONG, KILLED, ILLEGAL, FULL, TOO_LARGE]
    trial.ensure([problem(kind) for kind in kinds], DEVICE)
    found = {kind: trial.choice(problem(kind), DEVICE) for kind in kinds}
    assert found[RIGHT].name == "triton"
    reasons = {
        WRONG: "gave other numbers than PyTorch: gradient of w1 differs by 3e-01",
        KILLED: "ended their process: SIGSEGV",
        HANGING: "did not end within 3 s",
        FULL: "could not be tried, since there was no memory left for that",
        ILLEGAL: "ended their process: CUDA error: an illegal memory access was encountered",
        TOO_LARGE: "could not be compiled: out of resource: shared memory, Required: 264192, Hardware limit: 232448",
    }
    for kind, reason in reasons.items():
        assert found[kind] == implementations.Choice("torch", f"the Triton kernels {reason}")
    said = lines(caplog)
    assert said[0] == f"Trying the kernels for 7 kinds of blocks on {NAME}, once for this installation"
    assert len(said) == 1 + 5  # the two that ended their process have one line
    assert (
        f"On {NAME}, the kernels for 2 channels, expansion to 1024, kernel 3, bfloat16 gave other numbers than "
        "PyTorch: gradient of w1 differs by 3e-01. PyTorch's slower operators take their place" in said
    )
    assert sum("(and for 1 other kind of block) ended their process" in line for line in said) == 1

    caplog.clear()
    new_process(monkeypatch)
    before = standin.trials()
    trial.ensure([problem(kind) for kind in kinds], DEVICE)
    # what is no verdict on the kernels is tried again; the others are told again, not tried
    assert standin.trials() == [*before, FULL]
    assert trial.choice(problem(WRONG), DEVICE) == found[WRONG]
    assert len(lines(caplog)) == 1 + 5


@pytest.mark.parametrize("others", [(), pytest.param((RIGHT,), marks=pytest.mark.slow)])
def test_what_the_system_ended_is_no_verdict_on_the_kernels(gpu, caplog, monkeypatch, others):
    found = trial.verdicts([problem(kind) for kind in (ENDED, *others)], DEVICE)
    assert found[problem(ENDED)].kind == "unable"
    assert "could not be tried: the process for that was ended from outside (SIGKILL)" in found[problem(ENDED)].reason
    assert problem(ENDED) not in _trial_store.Store(_trial_store.card(DEVICE)).read()


def test_a_search_path_may_have_paths_and_pythons_start_may_print(gpu, monkeypatch, tmp_path):
    Path(tmp_path, "sitecustomize.py").write_text("print('a line'); print(7); print('half a line', end='')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path, Path(tmp_path)])
    assert trial.verdicts([problem(RIGHT)], DEVICE)[problem(RIGHT)].passed


def test_the_lock_ends_although_a_process_that_was_forked_has_its_file(gpu):
    kept, ready = _trial_store.Store(_trial_store.card(DEVICE)), os.pipe()
    with kept.lock():
        child = os.fork()
        if child == 0:
            os.read(ready[0], 1)
            os._exit(0)
    try:
        file = os.open(kept.path.with_suffix(".lock"), os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where the lock is still held
        os.close(file)
    finally:
        os.write(ready[1], b"x")
        os.waitpid(child, 0)


def test_what_died_beside_others_is_tried_again_alone(gpu):
    found = trial.verdicts([problem(KILLED_ONCE), problem(RIGHT)], DEVICE)
    assert all(verdict.passed for verdict in found.values())
    assert sorted(standin.trials()) == [RIGHT, KILLED_ONCE, KILLED_ONCE]


def test_a_gpu_that_takes_one_process_at_a_time_is_served_by_one(gpu, monkeypatch):
    monkeypatch.setenv("TRIAL_PREPARE", "exclusive")
    found = trial.verdicts([problem(RIGHT), problem(RIGHT, torch.float16), problem(WRONG)], DEVICE)
    assert [verdict.kind for verdict in found.values()] == ["passed", "passed", "wrong"]


def test_nothing_goes_on_after_an_interruption(gpu):
    cases = [problem(kind) for kind in (HANGING, RIGHT)]
    steps = children._Round(cases, children.Job("cuda:0", NAME), 2)
    run = steps.run()
    assert next(run) == (cases[1], Verdict("passed"))
    processes = [child.process for child in steps.children]
    run.close()  # as a KeyboardInterrupt does
    assert processes
    assert all(process.returncode is not None for process in processes)


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (MemoryError(), "memory", "no memory left"),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "memory", "no memory left"),
        (RuntimeError("PassManager::run failed"), "compile", "could not be compiled: PassManager::run failed"),
        (PTXASError("Internal error"), "compile", "could not be compiled: PTXAS error: Internal error"),
        (
            CompilationError("x = y", ast.Constant(1), "y is\nnot defined"),
            "compile",
            "could not be compiled: not defined",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), "memory", "no memory left"),
        (PTXASError("`ptxas` failed with error code -9"), "memory", "no memory left"),
        (OSError(28, "No space left on device"), "unable", "could not be tried: [Errno 28] No space left on device"),
        (IndexError(), "ended", "ended their process: IndexError"),
    ],
)
def test_an_exception_says_whether_kernels_compile_run_or_found_no_memory(error, kind, reason):
    verdict = _trial_worker.classify(error)
    assert verdict.kind == kind
    assert reason in verdict.reason


SCRIPT = """
import logging, trial_standin as standin
from mednextv2.ops import trial
logging.basicConfig(format="%(message)s")
standin.install()
print(trial.choice(standin.problem(standin.RIGHT), standin.DEVICE).name)
"""


def start(gpu, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=STANDIN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{STANDIN}:{os.environ.get('PYTHONPATH', '')}", **environment},
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.strip(), err


def test_two_processes_at_once_try_once_and_a_third_not_at_all(gpu):
    results = [finish(process) for process in [start(gpu), start(gpu)]]
    assert [out for out, _ in results] == ["triton", "triton"]
    assert standin.trials() == [RIGHT]
    assert sum("Trying the kernels for 1 kind of block" in err for _, err in results) == 1
    assert finish(start(gpu)) == ("triton", "")
    assert standin.trials() == [RIGHT]
    left = sorted(path.suffix for path in gpu.iterdir())
    assert left == [".json", ".lock"]


def test_a_lock_is_waited_for_and_its_holders_verdicts_are_read(gpu, caplog, monkeypatch):
    kept = _trial_store.Store(_trial_store.card(DEVICE))
    flock, calls = __import__("fcntl").flock, []

    def busy_at_first(file, how):
        calls.append(how)
        if len(calls) == 1:
            kept.write({problem(RIGHT): Verdict("wrong", "gave other numbers")})  # what its holder does
            raise BlockingIOError
        flock(file, how)

    monkeypatch.setattr("fcntl.flock", busy_at_first)
    assert trial.choice(problem(RIGHT), DEVICE).reason == "the Triton kernels gave other numbers"
    assert standin.trials() == []
    assert "Another process is trying the GPU kernels" in lines(caplog)[0]


def test_a_folder_that_cannot_be_written_costs_a_line_and_a_trial(gpu, caplog, monkeypatch):
    gpu.write_text("a file in its place")
    assert trial.choice(problem(RIGHT), DEVICE).name == "triton"
    assert trial.choice(problem(RIGHT), DEVICE).name == "triton"
    said = lines(caplog)
    assert len(said) == 2
    assert said[0].startswith("The verdicts on the GPU kernels are not kept")
    assert str(gpu) in said[0]
    assert "MEDNEXTV2_CACHE names another folder" in said[0]
    assert standin.trials() == [RIGHT]  # kept in memory


def test_the_number_of_processes_fits_cores_and_memory(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert [children.workers(gib * 2**30) for gib in (1, 8, 24, 80)] == [1, 2, 8, 8]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    assert children.workers(80 * 2**30) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert children.workers(80 * 2**30) == 4


def test_a_child_ends_with_the_process_that_started_it(gpu):
    child = children._Child(children.Job("cuda:0", NAME))
    while not child.messages():
        assert child.process.poll() is None
    child.give(problem(HANGING))
    child.process.stdin.close()
    assert child.process.wait(timeout=60) == 0
    child.end()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_of_a_small_network_pass_on_this_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv(native.CACHE, str(tmp_path))
    found = trial.verdicts(MedNeXt(init_filters=16).problems(torch.bfloat16), torch.device("cuda"))
    assert all(verdict.passed for verdict in found.values()), found
    logging.getLogger(__name__).info("%s", found)
