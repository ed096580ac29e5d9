"""The comparison of a trial: here between the C++ kernels, or PyTorch's operators, and these in double precision."""

import os
import subprocess
import sys

import pytest
import torch

from mednextv2.nets import create_mednext
from mednextv2.ops import (
    Mlp,
    Settings,
    _folded_mlp_launch,
    _trial_kernels_against_torch,
    _triton_configs,
    implementations,
)
from mednextv2.ops.problem_sizes import Problem

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
    assert _trial_kernels_against_torch.compare(PROBLEMS[name], "cpu", lambda: alive.append(True), work=2e4) is None
    assert len(alive) == 3 * 4
    assert not torch.are_deterministic_algorithms_enabled()


def tampered(monkeypatch, change):
    """Let the kernels give something else than the operators do."""
    run, calls = _trial_kernels_against_torch.run, []

    def wrong(problem, x):
        calls.append(True)
        out = run(problem, x)
        if implementations.wanted() == "triton":
            out["output"] = change(out["output"], x, len(calls))
        return out

    monkeypatch.setattr(_trial_kernels_against_torch, "run", wrong)


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
    fault = _trial_kernels_against_torch.compare(SMALL, "cpu", lambda: None, work=2e4)
    assert words in (fault or "nothing")


def test_memory_is_dirty_in_a_trial(monkeypatch):
    def leaves_a_hole(y, x, n):
        hole = torch.empty_like(y)
        return torch.cat([y[:, :-1], hole[:, -1:]], 1)

    tampered(monkeypatch, leaves_a_hole)
    assert "NaN" in _trial_kernels_against_torch.compare(SMALL, "cpu", lambda: None, work=2e4)


INTERPRETED = """
import json, torch
from mednextv2.ops import _trial_kernels_against_torch, implementations
from mednextv2.ops.problem_sizes import Problem
from mednextv2.ops._trial_kernel import add_one
choose = implementations.choose
def to_triton(device, dtype, size=None):
    asked = implementations.wanted() == implementations.TRITON
    return implementations.Choice(implementations.TRITON, "interpreted") if asked else choose(device, dtype, size)
implementations.choose = to_triton
torch.cuda.set_device = lambda _: None
torch.cuda.get_device_name = lambda _: "the interpreter"
_trial_kernels_against_torch._TINY[2] = (3, 2)
print(_trial_kernels_against_torch.prepare("cpu"))
problem = Problem(2, 3, 6, 3, 3, 1, False, True, True, torch.bfloat16)
_trial_kernels_against_torch.sizes = lambda *_: [_trial_kernels_against_torch.Size(1, (3, 2))]
print(_trial_kernels_against_torch.compare(problem, "cpu", lambda: None))
"""


def test_the_comparison_runs_triton_kernels():
    """In Triton's interpreter, which has to be chosen before Triton is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True, env=environment)
    assert result.stdout.splitlines() == ["the interpreter", "None"], result.stderr


def test_the_sizes_take_every_configuration_that_a_network_takes():
    # products have one for few tiles of voxels and one for many
    with torch.device("meta"):
        problems = create_mednext("v2_base").problems(torch.bfloat16)
    wide = [p for p in problems if not _folded_mlp_launch.is_thin(p.channels, p.expanded, p.out_channels, (9, 0))]
    assert len(wide) == 3 + 3 + 3
    for problem in wide:
        for name, width in (("compress", problem.out_channels), ("input", problem.channels)):
            found = [
                grid_of(problem, size, name, width)
                for size in _trial_kernels_against_torch.sizes(problem, _trial_kernels_against_torch.WORK)
            ]
            assert set(found) == {_triton_configs.SMALL, _triton_configs.LARGE}


def grid_of(problem, size, name, width):
    """Return which configuration a product takes."""
    y = torch.empty(size.samples, problem.channels, *size.space, dtype=problem.dtype, device="meta")
    w1, w2 = (torch.empty(n, problem.expanded, device="meta") for n in (problem.channels, problem.out_channels))
    mlp = Mlp(w1, w1, w1.t(), w1, w1, w1, w2, w2)
    config, _ = _folded_mlp_launch.Launch(y, mlp, Settings())._product_grid(name, width)
    table = _triton_configs.UNTUNED[name, _triton_configs.HALF]
    return next(size for size, entry in table.items() if entry.blocks[0] == config.blocks[0])
