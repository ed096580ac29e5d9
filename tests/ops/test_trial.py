"""The trial of GPU kernels, with a stand-in for the GPU; processes, files and locks are real."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trial_standin as standin
from trial_standin import DEVICE, FULL, HANGING, ILLEGAL, KILLED, KILLED_ONCE, NAME, RIGHT, TOO_LARGE, WRONG, problem

from mednextv2 import ops
from mednextv2.nets import MedNeXt
from mednextv2.ops import _trial_children as children
from mednextv2.ops import _trial_compare, _trial_store, native, paths, trial
from mednextv2.ops._trial_store import Case, Verdict
from mednextv2.ops.problems import Problem

STANDIN = Path(standin.__file__).parent


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU with kernels of its own, and an empty cache folder."""
    standin.install(monkeypatch.setattr)
    monkeypatch.setattr(paths, "_wanted", "auto")
    monkeypatch.setattr(children, "workers", lambda _: 2)
    monkeypatch.setenv("TRIAL_LOG", str(tmp_path / "log"))
    monkeypatch.setenv(native.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "_known", {})
    monkeypatch.setattr(trial, "_said", set())
    return tmp_path / "cache"


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def new_process(monkeypatch):
    """Forget what this process knows, as a new one does not know it."""
    monkeypatch.setattr(trial, "_known", {})


def test_every_failure_ends_on_pytorchs_path_with_one_line(gpu, monkeypatch, caplog):
    monkeypatch.setattr(children, "LIMIT_S", 3.0)
    kinds = [HANGING, RIGHT, WRONG, KILLED, ILLEGAL, FULL, TOO_LARGE]
    trial.ensure([problem(kind) for kind in kinds], DEVICE)
    found = {kind: trial.path(problem(kind), DEVICE) for kind in kinds}
    assert found[RIGHT].name == "triton"
    reasons = {
        WRONG: "gave other numbers than PyTorch: gradient of w1 differs by 3e-01",
        KILLED: "ended their process: SIGKILL",
        HANGING: "did not end within 3 s",
        FULL: "could not be tried, since there was no memory left for that",
        ILLEGAL: "ended their process: CUDA error: an illegal memory access was encountered",
        TOO_LARGE: "could not be compiled: out of resource: shared memory, Required: 264192, Hardware limit: 232448",
    }
    for kind, reason in reasons.items():
        assert found[kind] == paths.Path("torch", f"the Triton kernels {reason}")
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
    assert trial.path(problem(WRONG), DEVICE) == found[WRONG]
    assert len(lines(caplog)) == 1 + 5


def test_what_died_beside_others_is_tried_again_alone(gpu):
    found = trial.verdicts([problem(KILLED_ONCE), problem(RIGHT)], DEVICE)
    assert all(verdict.passed for verdict in found.values())
    assert sorted(standin.trials()) == [RIGHT, KILLED_ONCE, KILLED_ONCE]


SCRIPT = """
import logging, trial_standin as standin
from mednextv2.ops import trial
logging.basicConfig(format="%(message)s")
standin.install()
print(trial.path(standin.problem(standin.RIGHT), standin.DEVICE).name)
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
            kept.write({Case(problem(RIGHT), ""): Verdict("wrong", "gave other numbers")})  # what its holder does
            raise BlockingIOError
        flock(file, how)

    monkeypatch.setattr("fcntl.flock", busy_at_first)
    assert trial.path(problem(RIGHT), DEVICE).reason == "the Triton kernels gave other numbers"
    assert standin.trials() == []
    assert "Another process is trying the GPU kernels" in lines(caplog)[0]


def test_a_folder_that_cannot_be_written_costs_a_line_and_a_trial(gpu, caplog, monkeypatch):
    gpu.write_text("a file in its place")
    assert trial.path(problem(RIGHT), DEVICE).name == "triton"
    assert trial.path(problem(RIGHT), DEVICE).name == "triton"
    said = lines(caplog)
    assert len(said) == 2
    assert said[0].startswith("The verdicts on the GPU kernels are not kept")
    assert str(gpu) in said[0]
    assert "MEDNEXTV2_CACHE names another folder" in said[0]
    assert standin.trials() == [RIGHT]  # kept in memory


def test_a_disk_that_is_full_leaves_no_half_file(gpu, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_trial_store.os, "replace", full)
    _trial_store.Store(_trial_store.card(DEVICE)).write({})
    assert list(gpu.iterdir()) == []
    assert "No space left on device" in lines(caplog)[0]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"verdicts": [{}]}', '{"verdicts": [{"case": {"dtype": "rn"}, "kind": "passed", "reason": ""}]}'],
)
def test_a_damaged_file_is_made_anew(gpu, caplog, content):
    kept = _trial_store.Store(_trial_store.card(DEVICE))
    kept.write({})
    kept.path.write_text(content)
    assert kept.read() == {}
    assert len(lines(caplog)) == 1
    assert f"{kept.path} is damaged" in lines(caplog)[0]
    assert not kept.path.exists()


def test_verdicts_survive_writing_and_reading(gpu):
    kept = _trial_store.Store(_trial_store.card(DEVICE))
    verdicts = {
        Case(problem(1), ""): Verdict("passed"),
        Case(problem(2, torch.float32), "tf32x3"): Verdict("hung", "did not end within 60 s"),
    }
    kept.write({**verdicts, Case(problem(3), ""): Verdict("memory", "could not be tried")})
    assert kept.read() == verdicts
    kept.path.write_text(kept.path.read_text().replace('"hung"', '"bored"'))
    assert kept.read() == {}


def test_verdicts_are_for_one_combination(gpu, monkeypatch):
    first = _trial_store.Store(_trial_store.card(DEVICE)).path
    monkeypatch.setattr(_trial_store, "_driver", lambda: "590.2")
    assert _trial_store.Store(_trial_store.card(DEVICE)).path != first


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("compiler", "there is no C compiler, which Triton needs (Debian: apt install gcc)"),
        ("exit", "the process for that ended (exit code 1: the driver said no)"),
        ("Another GPU", "cuda:0 is Another GPU in a process of its own"),
    ],
)
def test_what_keeps_every_kernel_from_running_is_told_once_and_not_kept(gpu, caplog, monkeypatch, setting, words):
    monkeypatch.setenv("TRIAL_PREPARE", setting)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    trial.ensure([problem(RIGHT), problem(WRONG)], DEVICE)
    said = lines(caplog)
    assert len(said) == 2
    assert f"kernel 3, bfloat16 (and for 1 other kind of block) could not be tried: {words}" in said[1]
    assert trial.path(problem(RIGHT), DEVICE).name == "torch"
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
    assert trial.path(problem(RIGHT), DEVICE).name == "torch"
    assert f"could not be tried: {words}" in lines(caplog)[-1]


def test_an_old_card_is_not_tried(gpu, caplog, monkeypatch):
    standin.install(monkeypatch.setattr, capability=(7, 5))
    for _ in range(2):
        path = trial.path(problem(RIGHT), DEVICE)
        new_process(monkeypatch)
    reason = f"the Triton kernels need compute capability 8.0, {NAME} has 7.5"
    assert path == paths.Path("torch", reason)
    assert lines(caplog) == [f"PyTorch's slower operators take the place of the GPU kernels: {reason}"]
    assert standin.trials() == []


def test_without_triton_or_with_amd_or_without_a_gpu_there_is_a_reason(gpu, monkeypatch):
    def reason(index=0):
        new_process(monkeypatch)
        return trial.path(problem(RIGHT), torch.device("cuda", index)).reason

    assert reason(3) == "there is no GPU 3 here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert reason() == "there is no GPU here that PyTorch can use"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert reason() == "the Triton kernels are for NVIDIA GPUs"
    monkeypatch.setattr(ops.kernels, "available", lambda: (False, "Triton is not installed"))
    assert reason() == "Triton is not installed"


def test_a_recorded_graph_takes_pytorchs_operators_and_nothing_is_tried(gpu, caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for _ in range(2):
        path = trial.path(problem(RIGHT), DEVICE)
    assert path.name == "torch"
    assert "a CUDA graph is being recorded" in path.reason
    assert len(lines(caplog)) == 1
    assert standin.trials() == []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert trial.path(problem(RIGHT), DEVICE).name == "triton"


def test_a_path_that_is_asked_for_needs_no_verdict(gpu):
    for name in ("triton", "torch", "reference"):
        with ops.use(name):
            assert paths.choose_for(problem(RIGHT), DEVICE).name == name
    assert standin.trials() == []
    assert paths.choose_for(problem(RIGHT, torch.float64), DEVICE).name == "torch"
    assert paths.choose_for(problem(RIGHT)._replace(kernel_size=9), DEVICE).name == "torch"
    assert standin.trials() == []
    assert paths.choose_for(problem(RIGHT), torch.device("cuda")).name == "triton"  # the current one
    assert paths.choose_for(problem(RIGHT), DEVICE).name == "triton"
    assert standin.trials() == [RIGHT]


def test_a_verdict_in_single_precision_is_for_one_way_of_multiplying(gpu):
    exact = problem(RIGHT, torch.float32)
    assert paths.choose_for(exact, DEVICE).name == "triton"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert paths.choose_for(exact, DEVICE).name == "triton"
    finally:
        torch.set_float32_matmul_precision(before)
    assert standin.trials() == [RIGHT, RIGHT]


def test_a_network_tries_all_its_kernels_before_the_first_of_them(monkeypatch):
    asked = []
    monkeypatch.setattr(paths, "_wanted", "auto")
    # the CPU in the GPU's place
    monkeypatch.setattr(paths, "by_verdict", lambda device: device.type == "cpu" and paths._wanted == "auto")
    monkeypatch.setattr(paths, "choose_for", lambda problem, device: paths.choose("cpu", problem.dtype))
    monkeypatch.setattr(trial, "ensure", lambda problems, device: asked.append((list(problems), device)) or True)
    network = MedNeXt(init_filters=4).eval()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        expected = network(x)
        network(x)
    ((problems, device),) = asked
    assert device == x.device
    assert problems == network.problems(torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(x)
    assert asked[1][0] == network.problems(torch.bfloat16)
    with ops.use("torch"), torch.no_grad():
        network(x)
    assert len(asked) == 2

    # a compiled network, too, without a break of its graph
    other = MedNeXt(init_filters=4).eval()
    other.load_state_dict(network.state_dict())
    compiled = torch.compile(other, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x), expected, atol=1e-5)
        compiled(x)
    assert len(asked) == 3
    assert asked[2] == (network.problems(torch.float32), x.device)


def test_problems_are_those_of_the_blocks():
    network = MedNeXt(init_filters=4, encoder_expansion_ratio=3, bottleneck_expansion_ratio=2, kernel_size=5)
    found = network.problems(torch.float16)
    assert found[0] == Problem(3, 4, 12, 4, 5, 1, False, True, True, torch.float16)
    down = Problem(3, 4, 12, 8, 5, 2, False, True, True, torch.float16)
    up = Problem(3, 64, 128, 32, 5, 2, True, True, False, torch.float16)
    assert {down, up} <= set(found)
    assert len(found) == len(set(found)) == 4 + 4 + 1 + 4 + 4  # encoder and decoder differ in their expansion
    assert all(p.kernel_size == 0 and p.stride == 1 for p in MedNeXt(kernel_size=9).problems(torch.float16))
    dropped = MedNeXt(init_filters=4, drop_path_rate=0.5).problems(torch.float32)
    assert Problem(3, 64, 128, 64, 3, 1, False, True, False, torch.float32) in dropped


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "8 channels, expansion to 1024, kernel 3, bfloat16"),
        ({"out_channels": 16, "stride": 2, "grn": False}, "8 channels, expansion to 1024, compression to 16, kernel 3, "
         "stride 2, no GRN, bfloat16"),
        ({"transposed": True, "stride": 2, "residual": False, "spatial_dims": 2},
         "8 channels, expansion to 1024, kernel 3, transposed, stride 2, no residual, 2D, bfloat16"),
        ({"expanded": 0, "kernel_size": 5}, "8 channels, kernel 5, bfloat16"),
        ({"kernel_size": 0}, "8 channels, expansion to 1024, bfloat16"),
    ],
)  # fmt: skip
def test_problems_in_words(changes, words):
    assert trial.in_words(problem(8)._replace(**changes)) == words


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
    child.give(Case(problem(HANGING), ""))
    child.process.stdin.close()
    assert child.process.wait(timeout=60) == 0
    child.end()


# --- the comparison itself, for once between the C++ kernels and PyTorch's operators


SMALL = Problem(3, 6, 18, 6, 3, 1, False, True, True, torch.float32)
PROBLEMS = {
    "block": SMALL,
    "half": SMALL._replace(dtype=torch.bfloat16),
    "down": SMALL._replace(stride=2, out_channels=12),
    "up": SMALL._replace(stride=2, transposed=True, residual=False, out_channels=3),
    "up with residual": SMALL._replace(stride=2, transposed=True, out_channels=3),
    "no GRN, no residual": SMALL._replace(grn=False, residual=False),
    "inside": SMALL._replace(kernel_size=0),
    "convolution": SMALL._replace(expanded=0, kernel_size=5),
    "images": SMALL._replace(spatial_dims=2, stride=2),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_comparison_passes_what_is_right(name):
    alive = []
    case = Case(PROBLEMS[name], "ieee" if PROBLEMS[name].dtype == torch.float32 else "")
    assert _trial_compare.compare(case, "cpu", lambda: alive.append(True), work=2e4) is None
    assert len(alive) == 3 * 4
    assert not torch.are_deterministic_algorithms_enabled()


def tampered(monkeypatch, change):
    """Let the kernels give something else than the operators do."""
    run, calls = _trial_compare.run, []

    def wrong(problem, x):
        calls.append(True)
        out = run(problem, x)
        if paths.wanted() == "triton":
            out["output"] = change(out["output"], x, len(calls))
        return out

    monkeypatch.setattr(_trial_compare, "run", wrong)


def spoiled(y, x):
    x["b2"].data[0] += 1e-6
    return y


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y, x, n: y * 1.01, "gave other numbers than PyTorch: output differs by 1e-02 (for 1 × 3×5×7 voxels)"),
        (lambda y, x, n: y + (y - y.detach()) * 0.3 * x["w1"].mean().detach().sign(), "gradient of x differs by 3e-01"),
        (lambda y, x, n: y + 0.1 * x["gamma"].sum() - 0.1 * x["gamma"].sum().detach(), "gradient of gamma differs by"),
        (lambda y, x, n: y * torch.where(y == y.max(), torch.nan, 1.0), "gave NaN or infinity in the output"),
        (lambda y, x, n: y * (1 + 1e-6 * n), "gave other numbers the second time: output"),
        (lambda y, x, n: y * (1.1 if torch.is_inference_mode_enabled() else 1), "output differs by 1e-01"),
        (lambda y, x, n: spoiled(y, x), "changed their input b2"),
    ],
)
def test_the_comparison_finds_what_is_wrong(monkeypatch, change, words):
    tampered(monkeypatch, change)
    fault = _trial_compare.compare(Case(SMALL, ""), "cpu", lambda: None, work=2e4)
    assert words in (fault or "nothing")


def test_memory_is_dirty_in_a_trial(monkeypatch):
    def leaves_a_hole(y, x, n):
        hole = torch.empty_like(y)
        return torch.cat([y[:, :-1], hole[:, -1:]], 1)

    tampered(monkeypatch, leaves_a_hole)
    assert "NaN" in _trial_compare.compare(Case(SMALL, ""), "cpu", lambda: None, work=2e4)


INTERPRETED = """
import json, torch
from mednextv2.ops import _trial_compare, paths
from mednextv2.ops._trial_store import Case
from mednextv2.ops.problems import Problem
from mednextv2.ops._trial_kernel import add_one
choose = paths.choose
def to_triton(device, dtype, size=None):
    asked = paths.wanted() == paths.TRITON
    return paths.Path(paths.TRITON, "interpreted") if asked else choose(device, dtype, size)
paths.choose = to_triton
torch.cuda.set_device = lambda _: None
torch.cuda.get_device_name = lambda _: "the interpreter"
_trial_compare._TINY[2] = (3, 2)
print(_trial_compare.prepare("cpu"))
problem = Problem(2, 3, 6, 3, 3, 1, False, True, True, torch.float32)
_trial_compare.sizes = lambda *_: [_trial_compare.Size(1, (3, 2))]
print(_trial_compare.compare(Case(problem, "ieee"), "cpu", lambda: None))
"""


def test_the_comparison_runs_triton_kernels():
    """In Triton's interpreter, which has to be chosen before Triton is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True, env=environment)
    assert result.stdout.splitlines() == ["the interpreter", "None"], result.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_of_a_small_network_pass_on_this_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv(native.CACHE, str(tmp_path))
    found = trial.verdicts(MedNeXt(init_filters=16).problems(torch.bfloat16), torch.device("cuda"))
    assert all(verdict.passed for verdict in found.values()), found
    logging.getLogger(__name__).info("%s", found)
