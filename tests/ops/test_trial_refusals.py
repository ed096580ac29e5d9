"""Why no GPU kernel is tried at all: what is missing, said once, and nothing kept of it."""

import sys

import pytest
import torch
import trial_standin as standin
from trial_standin import DEVICE, NAME, RIGHT, WRONG, lines, new_process, problem  # fmt: skip

from mednextv2 import ops
from mednextv2.ops import _trial_store, implementations, trial
from mednextv2.ops import _trial_worker_pool as children


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("compiler", "there is no C compiler, which Triton needs (Debian: apt install gcc)"),
        pytest.param("exit", "the process for that ended (exit code 1: the driver said no)", marks=pytest.mark.slow),
        pytest.param("Another GPU", "cuda:0 is Another GPU in a process of its own", marks=pytest.mark.slow),
        pytest.param(
            "headers",
            "Python's headers are missing, which Triton needs (Debian: apt install python3-dev)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "busy",
            "the GPU takes one process at a time; run `mednextv2 doctor` before it is in use",
            marks=pytest.mark.slow,
        ),
        ("sleep", "the process for that was not ready within 2 s"),
    ],
)
def test_what_keeps_every_kernel_from_running_is_told_once_and_not_kept(gpu, caplog, monkeypatch, setting, words):
    monkeypatch.setenv("TRIAL_PREPARE", setting)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(children, "START_S", 2.0 if setting == "sleep" else children.START_S)
    trial.ensure([problem(RIGHT), problem(WRONG)], DEVICE)
    said = lines(caplog)
    assert len(said) == 2
    assert f"kernel 3, bfloat16 (and for 1 other kind of block) could not be tried: {words}" in said[1]
    assert trial.choice(problem(RIGHT), DEVICE).name == "torch"
    assert standin.trials() == []
    assert _trial_store.Store(_trial_store.card(DEVICE)).read() == {}


@pytest.mark.parametrize(
    ("executable", "frozen", "words"),
    [
        ("", False, "this program is no Python that can be started once more"),
        (None, False, "this program is no Python that can be started once more"),
        (sys.executable, True, "this program is no Python that can be started once more"),
        ("/no/such/python", False, "/no/such/python cannot be started (No such file or directory)"),
        ("/bin/false", False, "the process for that ended (exit code 1)"),
    ],
)
def test_a_program_that_is_no_python_has_no_trial(gpu, caplog, monkeypatch, executable, frozen, words):
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    assert trial.choice(problem(RIGHT), DEVICE).name == "torch"
    assert f"could not be tried: {words}" in lines(caplog)[-1]


def test_an_old_card_is_not_tried(gpu, caplog, monkeypatch):
    standin.install(monkeypatch.setattr, capability=(7, 5))
    for _ in range(2):
        path = trial.choice(problem(RIGHT), DEVICE)
        new_process(monkeypatch)
    reason = f"the Triton kernels need compute capability 8.0, {NAME} has 7.5"
    assert path == implementations.Choice("torch", reason)
    assert lines(caplog) == [f"PyTorch's slower operators take the place of the GPU kernels: {reason}"]
    assert standin.trials() == []


def test_without_triton_or_with_amd_or_without_a_gpu_there_is_a_reason(gpu, monkeypatch):
    def reason(index=0):
        new_process(monkeypatch)
        return trial.choice(problem(RIGHT), torch.device("cuda", index)).reason

    assert reason(3) == "there is no GPU 3 here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert reason() == "there is no GPU here that PyTorch can use"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert reason() == "the Triton kernels are for NVIDIA GPUs"
    monkeypatch.setattr(ops.triton_available, "available", lambda: (False, "Triton is not installed"))
    assert reason() == "Triton is not installed"


def test_a_recorded_graph_takes_pytorchs_operators_and_nothing_is_tried(gpu, caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for _ in range(2):
        path = trial.choice(problem(RIGHT), DEVICE)
    assert path.name == "torch"
    assert "a CUDA graph is being recorded" in path.reason
    assert len(lines(caplog)) == 1
    assert standin.trials() == []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert trial.choice(problem(RIGHT), DEVICE).name == "triton"
