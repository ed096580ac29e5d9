"""How long launches take on a GPU, predicted without one; trips and sizes are compared with plain loops."""

import importlib
import math
import os
import sys
from pathlib import Path

import pytest
import torch

if not sys.platform.startswith("linux") and importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is for Linux", allow_module_level=True)  # there the tests' requirements bring it

import triton
import triton.language as tl

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import gpu_compile
import gpu_predict
from gpu_launch_helpers import BF16, one_launch, scale_kernel

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles kernels, which the interpreter does not", allow_module_level=True)


@triton.jit(do_not_specialize=["n", "chunk"])
def loops_kernel(x, y, n, chunk, BLOCK: tl.constexpr):  # noqa: N803
    total = tl.zeros([BLOCK], tl.float32)
    first = tl.program_id(0) * chunk
    for i in range(first, tl.minimum(first + chunk, n)):
        for j in range(0, i + 2):
            total += tl.load(x + (i * 7 + j) * BLOCK + tl.arange(0, BLOCK))
        total = total * 0.5
    tl.store(y + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), total)


@triton.jit(do_not_specialize=["n"])
def branches_kernel(x, y, n, BLOCK: tl.constexpr):  # noqa: N803
    total = tl.zeros([BLOCK], tl.float32)
    if tl.program_id(0) % 2 == 1:
        for i in range(0, n):
            total += tl.load(x + i * BLOCK + tl.arange(0, BLOCK))
    else:
        for i in range(0, 2 * n):
            total += tl.load(x + 7 * i * BLOCK + tl.arange(0, BLOCK))
    for _ in range(5):
        total = total * 0.5 + tl.load(y + tl.arange(0, BLOCK))
    tl.store(y + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), total)


@triton.jit
def product_kernel(a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):  # noqa: N803
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    left = tl.load(a + m[:, None] * K + k[None, :])
    right = tl.load(b + k[:, None] * N + n[None, :])
    tl.store(c + m[:, None] * N + n[None, :], tl.dot(left, right))


def compiled(run):
    launch = one_launch(run)
    return launch, gpu_compile.compile_job(gpu_compile.prepare(launch, 90))


def test_trips_are_those_of_the_loops():
    n, chunk, programs = 19, 5, 4

    def run():
        tensors = [torch.empty(32 * 7 * 40, device="cuda") for _ in range(2)]
        loops_kernel[(programs,)](*tensors, n, chunk, BLOCK=32)

    launch, code = compiled(run)
    outer = [len(range(p * chunk, min(p * chunk + chunk, n))) for p in range(programs)]
    inner = [sum(i + 2 for i in range(p * chunk, min(p * chunk + chunk, n))) for p in range(programs)]
    found = gpu_predict.count_trips(launch, code.ttir)
    assert [loop.times for loop in found] == pytest.approx([sum(outer) / programs, sum(inner) / programs])
    assert [loop.fixed for loop in found] == [False, False]


def test_a_loop_behind_a_condition_runs_where_it_holds():
    n, programs = 6, 8

    def run():
        tensors = [torch.empty(4096, device="cuda") for _ in range(2)]
        branches_kernel[(programs,)](*tensors, n, BLOCK=32)

    launch, code = compiled(run)
    odd, even, always = gpu_predict.count_trips(launch, code.ttir)
    assert (odd.times, even.times) == (pytest.approx(n / 2), pytest.approx(2 * n / 2))
    assert always == (5.0, True)  # of constant bounds


@pytest.mark.parametrize(
    ("loops", "expected"), [(3, [7.0, 2.0, 4.0]), (2, [7.0, 4.0]), (1, [7.0]), (0, None), (4, None)]
)
def test_loops_that_are_missing_in_the_machine_code_are_short_ones_of_constant_bounds(loops, expected):
    trips = [gpu_predict.Trips(7.0, False), gpu_predict.Trips(2.0, True), gpu_predict.Trips(4.0, True)]
    assert gpu_predict.match(loops, trips) == expected


def test_a_copy_is_limited_by_memory_and_a_product_counts_its_operations():
    n = 2**26

    def copy():
        tensors = [torch.empty(n, device="cuda") for _ in range(2)]
        scale_kernel[(n // 1024,)](*tensors, n, 1, 0.5, BLOCK=1024)

    found = gpu_predict.predict(*compiled(copy), gpu_predict.H100)
    assert found.limit == "memory"
    assert found.nbytes == 2 * 4 * n
    assert found.flops == 0
    assert found.seconds == pytest.approx(2 * 4 * n / gpu_predict.H100.bandwidth / 0.9)

    for m, n, k, warps in ((64, 64, 32, 4), (64, 128, 64, 4), (16, 32, 64, 1)):

        def product(m=m, n=n, k=k, warps=warps):
            a, b = torch.empty(m, k, device="cuda", dtype=BF16), torch.empty(k, n, device="cuda", dtype=BF16)
            product_kernel[(7,)](a, b, torch.empty(m, n, device="cuda"), M=m, N=n, K=k, num_warps=warps)

        found = gpu_predict.predict(*compiled(product), gpu_predict.H100)
        assert found.flops == 7 * 2 * m * n * k
        assert found.limit == "launch"


def test_warps_that_do_the_same_are_limited_by_instructions():
    def run():
        tensors = [torch.empty(2**26, device="cuda", dtype=BF16) for _ in range(2)]
        scale_kernel[(2**21,)](*tensors, 2**26, 1, 0.5, BLOCK=32, num_warps=8)  # 8 warps for the values of one

    assert gpu_predict.predict(*compiled(run), gpu_predict.H100).limit == "instructions"


@pytest.mark.parametrize(
    ("operation", "rest", "expected"),
    [
        ("arith.constant", "-7 : i32", -7),
        ("arith.constant", "true", 1),
        ("arith.constant", "false", 0),
        ("arith.constant", "dense<3> : tensor<4xi32>", None),
        ("arith.constant", "5.0e-01 : f32", None),
        ("arith.divsi", "%a, %b : i32", -3),  # C's division: towards zero
        ("arith.remsi", "%a, %b : i32", -1),
        ("arith.addi", "%a, %missing : i32", None),
        ("arith.addi", "%a, %b overflow<nsw> : i32", -5),
        ("arith.cmpi", "slt, %a, %b : i32", 1),
        ("arith.select", "%zero, %a, %b : i32", 2),
        ("arith.extsi", "%a : i32 to i64", -7),
        ("arith.addf", "%a, %b : f32", None),
        ("tt.get_program_id", "y : i32", 1),
        ("tt.get_num_programs", "x : i32", 4),
        ("tt.load", "%a : i32", None),
    ],
)
def test_values_of_single_operations(operation, rest, expected):
    known = {"%a": -7, "%b": 2, "%zero": 0}
    assert gpu_predict.compute(operation, rest, known, (4, 3, 2), (0, 1, 0)) == expected


def test_the_share_of_busy_multiprocessors():
    assert gpu_predict._busy(132, 1, 132) == 1
    assert gpu_predict._busy(133, 1, 132) == pytest.approx(133 / 264)
    assert gpu_predict._busy(66, 4, 132) == 0.5
    assert gpu_predict._busy(132 * 4 * 3, 4, 132) == 1


def test_code_whose_loops_are_not_the_kernels_is_not_predicted():
    launch, code = compiled(lambda: scale_kernel[(1,)](*[torch.empty(64, device="cuda")] * 2, 64, 1, 0.5, BLOCK=64))
    assert gpu_predict.predict(launch, code, gpu_predict.H100) is not None
    loop = "    scf.for %i = %a to %b step %c : i32 {\n    }\n    tt.return"
    other = code._replace(ttir=code.ttir.replace("    tt.return", loop, 1))
    assert gpu_predict.predict(launch, other, gpu_predict.H100) is None


@pytest.mark.slow
def test_the_launches_of_the_network_are_predicted_but_for_a_few():
    launches = gpu_compile.launches_of("v2_tiny", 90, "bfloat16", 3, (32,) * 3)
    kinds = list({x.name: x for x in launches}.values())
    found = []
    for launch in kinds:
        code = gpu_compile.compile_job(gpu_compile.prepare(launch, 90))
        found.append(gpu_predict.predict(launch, code, gpu_predict.H100))
        assert found[-1] is None or found[-1].limit in ("instructions", "integers", "functions", "memory", "launch")
        assert found[-1] is None or found[-1].instructions > math.prod(launch.grid) * 32
    assert len([one for one in found if one]) >= 0.9 * len(found)
