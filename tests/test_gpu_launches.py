"""What a network launches on a GPU, followed, compiled and predicted without one.

What is followed is compared with PyTorch's own dispatch and autograd engine, what is compiled with Triton's own launch,
and trips and sizes with plain loops and arithmetic.
"""

import importlib
import itertools
import math
import os
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

if not sys.platform.startswith("linux") and importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is for Linux", allow_module_level=True)  # there the tests' requirements bring it

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from mednextv2.nets import VARIANTS, create_mednext

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import gpu_compile
import gpu_launches
import gpu_predict
import gpu_standin
from gpu_capture import Capture, TensorSpec
from gpu_launches import follow_parts, follow_step

BF16 = torch.bfloat16
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles kernels, which the interpreter does not", allow_module_level=True)


@triton.jit(do_not_specialize=["free"])
def scale_kernel(x, y, n, free, factor, BLOCK: tl.constexpr, TWICE: tl.constexpr = False):  # noqa: N803
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + place, mask=place < n) * factor + free
    tl.store(y + place, value + value if TWICE else value, mask=place < n)


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


@triton.jit
def hungry_kernel(a, b, c, BLOCK: tl.constexpr):  # noqa: N803
    i = tl.arange(0, BLOCK)
    place = i[:, None] * BLOCK + i[None, :]
    tl.store(c + place, tl.dot(tl.load(a + place), tl.load(b + place)))


@triton.jit
def wrong_kernel(x, BLOCK: tl.constexpr):  # noqa: N803
    tl.store(x + tl.arange(0, BLOCK), tl.arange(0, 2 * BLOCK))


class Dispatched(TorchDispatchMode):
    """Names of everything that PyTorch dispatches but views and memory, on real tensors."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view and "empty" not in func._schema.name and func.namespace == "aten":
            self.names[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def one_launch(run):
    """The only launch of what runs on the stand-in."""
    with gpu_standin.stand_in(), Capture() as capture:
        run()
    (launch,) = capture.launches
    return launch


# --- following -------------------------------------------------------------------------------------------------------


def test_the_walk_over_the_graph_leaves_the_gradients_of_pytorchs_engine():
    net = create_mednext("v2_tiny", init_filters=4, deep_supervision=True, activation_checkpointing=False)
    x, gradients = torch.randn(2, 1, 32, 32, 32), None
    found = []
    for walk in (torch.autograd.backward, lambda *both: gpu_standin.backward(*both)):
        net.zero_grad()
        outputs = net(x)
        gradients = gradients or [torch.randn_like(y) for y in outputs]
        walk(outputs, gradients)
        found.append([p.grad for p in net.parameters()])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)  # sums of two may come in another order


def test_gradients_of_other_dtype_and_shape_are_fitted_and_missing_ones_filled():
    class Two(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, one, two):
            assert two is not None  # PyTorch fills in zeros
            return one * 2 + two * 3

    class Silent(Two):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, one, two):
            assert two is None
            return one * 2

    for function in (Two, Silent):
        for a in (torch.randn(3, 1, requires_grad=True), torch.randn(3, 1, dtype=torch.float64, requires_grad=True)):
            grads = []
            for walk in (torch.autograd.backward, lambda *both: gpu_standin.backward(*both)):
                a.grad = None
                with gpu_standin.patch.object(
                    gpu_standin.FunctionCtx, "set_materialize_grads", gpu_standin._set_materialize_grads
                ):
                    y = function.apply(a)[0].float().expand(3, 4) + a.float()
                    walk([y, y.sum()], [torch.ones(3, 4), torch.ones(())])
                grads.append(a.grad)
            assert grads[0].dtype == grads[1].dtype == a.dtype
            torch.testing.assert_close(grads[1], grads[0])


def test_calls_are_those_that_pytorch_dispatches():
    def work(device):
        net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4))
        return net, torch.ones(3, 5, 8, device=device)

    net, x = work("cpu")
    with Dispatched() as expected:
        loss = net(x).softmax(-1)[..., 0].mean()
        loss.backward()
    with gpu_standin.stand_in():
        with torch.device("cuda"):
            net, x = work("cuda")
        with Capture() as capture:
            loss = net(x).softmax(-1)[..., 0].mean()
            gpu_standin.backward([loss], [torch.ones_like(loss)])
    assert Counter(call.name for call in capture.calls) == expected.names


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda x: x.view(-1).t().detach().unsqueeze(0).expand(2, -1)[:, 1:], []),
        (lambda x: (x.new_empty(3), torch.empty_like(x), torch.empty(2, device=x.device)), []),
        (lambda x: x.contiguous(), []),
        (lambda x: x.t().contiguous(), ["aten::clone"]),
        (lambda x: x.to(BF16), ["aten::_to_copy"]),
        (lambda x: F.linear(x, x, x[0]), ["aten::addmm"]),
        (lambda x: torch.zeros(3, device=x.device), ["aten::zeros"]),
        (lambda x: x.shape[0] + x.dim() + x.numel() + x.is_contiguous(), []),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_views_and_memory_are_no_calls(run, expected, inference):
    with gpu_standin.stand_in(), torch.inference_mode(inference):
        x = torch.empty(4, 4, device="cuda")
        with Capture() as capture:
            run(x)
    assert [call.name for call in capture.calls] == expected


def test_what_makes_the_processor_wait_is_named():
    with gpu_standin.stand_in():
        x = torch.empty(4, device="cuda")
        with Capture() as capture:
            torch.tensor(1.0, device="cuda")
            x.cpu()
            x.copy_(torch.empty(4))
            with pytest.raises(Exception, match="_local_scalar_dense"):
                x.sum().item()
    counts = capture.count()
    assert sum(counts.copies.values()) == 3
    assert counts.waits == {"aten::_local_scalar_dense": 1}


def test_a_launch_is_recorded_with_all_that_it_needs():
    def run():
        x = torch.empty(40, device="cuda", dtype=BF16)
        scale_kernel[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]), 1)](
            x[3:], x.view(8, 5).t(), 37, 4, 0.5, BLOCK=16, num_warps=2
        )

    launch = one_launch(run)
    assert (launch.module, launch.name, launch.grid) == (__name__, "scale_kernel", (3, 1))
    assert launch.arguments == {
        "x": TensorSpec((37,), (1,), "bfloat16", 6), "y": TensorSpec((5, 8), (1, 5), "bfloat16", 0), "n": 37, "free": 4,
        "factor": 0.5, "BLOCK": 16, "TWICE": False,
    }  # fmt: skip
    assert launch.options == {"num_warps": 2}
    assert launch.arguments["y"].nbytes == 80


def test_tensors_have_addresses_of_their_own():
    with gpu_standin.stand_in():
        x, y = torch.empty(64, device="cuda"), torch.empty(64, device="cuda")
        assert x.data_ptr() != y.data_ptr()
        assert x.data_ptr() % 512 == 0
        assert x[3:].data_ptr() == x.data_ptr() + 12
        assert x.view(8, 8).data_ptr() == x.data_ptr()


def test_blocks_followed_alone_launch_what_the_network_launches():
    settings = ("v2_tiny", (32, 32, 32), 2)
    for training in (True, False):
        alone = follow_parts(*settings, training)
        network = follow_step(*settings, training)
        kinds = [{launch.key() for launch in found.launches} for found in (alone, network)]
        assert kinds[0] == kinds[1] if training else kinds[0] >= kinds[1]  # what is kept between calls is made once
        assert len(alone.launches) < len(network.launches)
        regions = network.count().launches
        assert {name.split()[0] for name in regions} == {"standard", "down", "up"}
        blocks = VARIANTS["v2_tiny"].blocks  # the kinds of all encoder and decoder stages, and what is between them
        assert len(regions) == len(set(zip(blocks, (0, 1, 2, 3, 4, 3, 2, 1, 0), strict=True))) + 4 + 4


@pytest.fixture(scope="module")
def step():
    """A whole training step of v2_base and an inference."""
    edges = (128, 128, 128)
    return follow_step("v2_base", edges, 2, True, BF16, whole=True), follow_step("v2_base", edges, 1, False, BF16)


def test_a_step_neither_waits_for_the_gpu_nor_copies_from_the_host(step):
    for capture in step:
        counts = capture.count()
        assert not counts.waits
        assert not counts.copies
        assert {device for call in capture.calls for device in call.devices} == {"cuda"}
    assert {"loss", "clipping", "optimizer"} < set(step[0].count().calls)


def test_a_step_submits_few_launches(step):
    assert step[0].count().total <= 1500
    assert step[1].count().total <= 400


def test_the_command_prints_a_table(capsys):
    gpu_launches.main(["--variant", "v2_tiny", "--patch", "16", "--batch", "1"])
    out = capsys.readouterr().out
    assert "Training step of v2_tiny, batch 1" in out
    assert "Inference of v2_tiny, batch 1" in out
    assert "| standard 16→16 in 32, 16×16×16 |" in out
    assert out.count("Waits for the GPU: none.") == 2


# --- compiling -------------------------------------------------------------------------------------------------------


class Driver:
    """What Triton asks a GPU's driver for before it compiles."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


@pytest.mark.parametrize(
    ("offset", "n", "free", "factor"), [(0, 32, 16, 0.5), (1, 32, 16, 2), (8, 33, 16, 1), (0, 1, 1, 0.5), (0, 33, 5, 7)]
)
def test_a_kernel_is_compiled_as_triton_does_at_a_launch(offset, n, free, factor, monkeypatch, tmp_path):
    def arguments(device):
        x = torch.empty(512, device=device, dtype=BF16)
        return x[offset:], x, n, free, factor

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launch = one_launch(lambda: scale_kernel[(2,)](*arguments("cuda"), BLOCK=16, num_warps=2))
    compiled = gpu_compile.compile_job(gpu_compile.prepare(launch, 90))
    assert compiled.error is None
    kept = set(tmp_path.iterdir())
    assert kept
    monkeypatch.setattr(driver, "_active", Driver())
    scale_kernel.device_caches.clear()
    at_launch = scale_kernel.run(*arguments("cpu"), BLOCK=16, num_warps=2, grid=(2,), warmup=True)
    assert compiled.cubin == at_launch.asm["cubin"]
    assert set(tmp_path.iterdir()) == kept  # the launch found it in the cache


@pytest.mark.parametrize(("value", "fused"), [(None, True), ("1", True), ("0", False)])
def test_multiplications_and_additions_are_fused_as_at_a_launch_and_nothing_is_warned(value, fused, monkeypatch):
    """Where nobody says anything, our launches rely on Triton's default, which is said to change."""
    if value is None:
        monkeypatch.delenv("TRITON_DEFAULT_FP_FUSION", raising=False)
    else:
        monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", value)

    def arguments(device):
        return *[torch.empty(64, device=device)] * 2, 32, 7, 0.5

    launch = one_launch(lambda: scale_kernel[(2,)](*arguments("cuda"), BLOCK=16))
    if hasattr(triton._utils, "warn_once"):
        triton._utils.warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job = gpu_compile.prepare(launch, 90)
        compiled = gpu_compile.compile_job(job)
    assert dict(job.options)["enable_fp_fusion"] is fused
    monkeypatch.setattr(driver, "_active", Driver())
    scale_kernel.device_caches.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        at_launch = scale_kernel.run(*arguments("cpu"), BLOCK=16, grid=(2,), warmup=True)
    assert at_launch.metadata.enable_fp_fusion is fused
    assert compiled.cubin == at_launch.asm["cubin"]
    fused_code = "FFMA" in gpu_compile.disassemble(compiled.cubin, "-sass")
    assert fused_code is fused


def test_equal_launches_are_compiled_once_and_others_apart():
    def run(n, free):
        return one_launch(lambda: scale_kernel[(2,)](*[torch.empty(64, device="cuda")] * 2, n, free, 0.5, BLOCK=16))

    launches = [run(32, 1), run(48, 7), run(33, 1)]  # divisible by 16, so, too, and not
    jobs = gpu_compile.distinct(gpu_compile.prepare(launch, 90) for launch in launches)
    assert jobs == [gpu_compile.prepare(launches[i], 90) for i in (0, 2)]
    assert "scale_kernel fp32 BLOCK=16" in jobs[0].describe()


def test_what_does_not_compile_or_takes_too_much_is_named():
    def compile_one(run, arch=90):
        return gpu_compile.compile_job(gpu_compile.prepare(one_launch(run), arch))

    wrong = compile_one(lambda: wrong_kernel[(1,)](torch.empty(64, device="cuda"), BLOCK=16))
    (fault,) = wrong.faults()
    assert "\n" not in fault
    assert "CompilationError" in fault

    def hungry():
        tensors = [torch.empty(128, 128, device="cuda", dtype=BF16) for _ in range(2)]
        hungry_kernel[(1,)](*tensors, torch.empty(128, 128, device="cuda"), BLOCK=128)

    large = compile_one(hungry)
    assert large.error is None
    assert large.shared >= 2 * 128 * 128 * 2  # both factors lie there
    assert not large.faults()
    job = large.job._replace(arch=86)
    over = large._replace(job=job, shared=99 * 1024 + 1, stack=gpu_compile.STACK_LIMIT + 1)
    assert [f.split()[0] for f in over.faults()] == [str(gpu_compile.STACK_LIMIT + 1), str(99 * 1024 + 1)]
    exact = large._replace(job=job, shared=99 * 1024, stack=gpu_compile.STACK_LIMIT)
    assert not exact.faults()


def check(jobs):
    """Compile jobs; none may have a fault."""
    found = list(gpu_compile.compile_all(jobs))
    assert len(found) == len(jobs)
    faults = [f"sm_{one.job.arch} {one.job.describe()}: {fault}" for one in found for fault in one.faults()]
    assert not faults, "\n".join(faults)
    assert all(0 < one.registers <= 255 for one in found)


def test_every_kernel_compiles_for_hopper_and_some_for_each_other_architecture():
    """A sample: every kernel in one precision, and in turn one of another network for each other architecture."""
    names = itertools.cycle(["v2_tiny/5", "v2_small", "v2_tiny/24"])
    hopper = [gpu_compile.prepare(x, 90) for x in gpu_compile.launches_of("v2_base", 90, "bfloat16", 3, (128,) * 3)]
    jobs = list({job.kernel: job for job in hopper}.values())
    for i, (arch, dtype) in enumerate({80: "float32", 86: "float16", 100: "bfloat16"}.items()):
        found = gpu_compile.launches_of(next(names), arch, dtype, (5, 7, 3)[i], (32,) * 3)
        kernels = list({x.name: gpu_compile.prepare(x, arch) for x in found}.values())
        jobs.append(kernels[i % len(kernels)])
    check(jobs)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*VARIANTS, *(f"v2_tiny/{n}" for n in gpu_compile.ODD_FILTERS)])
@pytest.mark.parametrize("arch", gpu_compile.SHARED_LIMIT)
def test_every_kernel_of_every_variant_compiles(arch, variant):
    check(gpu_compile.all_jobs([variant], [arch], gpu_launches.DTYPES, gpu_compile.KERNEL_SIZES))


def test_the_command_compiles_in_processes_and_ends_with_the_faults(capsys, monkeypatch):
    monkeypatch.setattr(gpu_compile, "KERNEL_SIZES", (3,))
    whole = gpu_compile.all_jobs

    def few(variants, *rest):
        return whole(variants, *rest)[:8]

    monkeypatch.setattr(gpu_compile, "all_jobs", few)
    arguments = ["--variants", "v2_tiny", "--arch", "90", "--dtypes", "bfloat16", "--kernel-sizes", "3"]
    assert gpu_compile.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("8 kernels")
    assert out.count(" | 90 | ") == 8
    assert "0 faults in 8 kernels" in out
    monkeypatch.setattr(gpu_compile, "STACK_LIMIT", -1)
    assert gpu_compile.main(arguments) == 1
    assert "sm_90: " in capsys.readouterr().out


# --- predicting ------------------------------------------------------------------------------------------------------


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
