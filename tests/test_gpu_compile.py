"""What a network launches on a GPU, compiled without one, compared with Triton's own launch."""

import importlib
import itertools
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch

if not sys.platform.startswith("linux") and importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is for Linux", allow_module_level=True)  # there the tests' requirements bring it

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from mednextv2.nets import VARIANTS

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import gpu_compile
import gpu_launches
from gpu_launch_helpers import BF16, one_launch, scale_kernel

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles kernels, which the interpreter does not", allow_module_level=True)


@triton.jit
def hungry_kernel(a, b, c, BLOCK: tl.constexpr):  # noqa: N803
    i = tl.arange(0, BLOCK)
    place = i[:, None] * BLOCK + i[None, :]
    tl.store(c + place, tl.dot(tl.load(a + place), tl.load(b + place)))


@triton.jit
def wrong_kernel(x, BLOCK: tl.constexpr):  # noqa: N803
    tl.store(x + tl.arange(0, BLOCK), tl.arange(0, 2 * BLOCK))


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
@pytest.mark.parametrize("arch", gpu_compile.SHARED_LIMIT)
def test_every_kernel_of_every_variant_compiles(arch):
    """All at once, since variants have half of their kernels in common."""
    variants = [*VARIANTS, *(f"v2_tiny/{n}" for n in gpu_compile.ODD_FILTERS)]
    jobs = gpu_compile.all_jobs(variants, [arch], gpu_launches.DTYPES, gpu_compile.KERNEL_SIZES)
    assert len(jobs) > 2000
    check(jobs)


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
