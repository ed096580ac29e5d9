"""Comparisons of the Triton kernels with the plain definitions: on a GPU if there is one, else by Triton's interpreter.

The interpreter has to be chosen before Triton is imported, and other tests import it through `torch.compile`: so in
each of these files, `test_the_interpreter_agrees` runs the file again, in a process of its own.
"""

import os
import subprocess
import sys

import pytest
import torch

from mednextv2.ops import memory_layout

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS warns under deterministic algorithms
GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if GPU else "cpu"

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-2}
DTYPES = list(TOLERANCE)
not_in_this_process = pytest.mark.skipif(GPU or INTERPRETED, reason="the kernels run in this process")


def interpret(file, long=(), longest=()):
    """Run a file with the interpreter.

    Args:
        file: The file.
        long: Names of tests of many sizes, of which only those in bfloat16 run.
        longest: Which tests do not run, as expressions of pytest's option `-k`.
    """
    fast = f"(bfloat16 or not ({' or '.join(long)})) and not ({' or '.join(longest)})" if longest else ""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", fast, file]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


def random(*shape, dtype=torch.float32, scale=1.0, shift=0.0):
    x = torch.randn(*shape, dtype=torch.float64) * scale + shift
    return x.to(device=DEVICE, dtype=dtype)


def image(*shape, **how):
    return memory_layout.channels_last(random(*shape, **how))


def check(got, wanted, dtype, names, floor=1e-3, tolerance=None):
    """Compare tensors by norms; the error may be that of a tensor whose norm is `floor`, where all cancels."""
    for name, a, b in zip(names, got, wanted, strict=True):
        assert a.shape == b.shape, name
        error, size = torch.linalg.vector_norm(a.double() - b), torch.linalg.vector_norm(b)
        assert error <= (tolerance or TOLERANCE[dtype]) * size.clamp_min(floor), f"{name}: {error:.2e} of {size:.2e}"


MLP_NAMES = ["out", "y", "norm_weight", "norm_bias", "w1", "b1", "gamma", "beta", "w2", "b2"]


def mlp_problem(samples, channels, expanded, out, space, dtype, with_grn=True, gain=1.0, mean=0.0):
    """Return `y` and the parameters, in the order of `Mlp`."""
    y = image(samples, channels, *space, dtype=dtype, scale=0.7, shift=mean)
    grn = (random(expanded, scale=gain), random(expanded)) if with_grn else (None, None)
    w1, w2 = random(expanded, channels, scale=channels**-0.5), random(out, expanded, scale=expanded**-0.5)
    return [y, random(channels, shift=1.0), random(channels), w1, random(expanded), *grn, w2, random(out)]
