"""Compile and time the launches of a network one by one, next to their predicted times, for `gpu_check.py`."""

import math
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
from gpu_capture import Launch, TensorSpec, find_kernel
from gpu_compile import compile_all, distinct, prepare, side_by_side
from gpu_launches import follow_step
from gpu_predict_launches import as_work, compile_and_predict

COMPILE_COLUMNS = ("kernel", "registers", "stack (B)", "shared (KiB)", "fault")
COLUMNS = (
    "part",
    "kernel",
    "times a step",
    "programs",
    "predicted (ms)",
    "limit",
    "measured (ms)",
    "measured/predicted",
)

SMALLEST = 32  # edge in voxels of a patch that every variant accepts
DRY = 4  # number of kernels that a dry run compiles


class Found(NamedTuple):
    """The launches of a step.

    Attributes:
        what: `train` or `inference`.
        launches: The distinct launches.
        times: How often each occurs.
    """

    what: str
    launches: list[Launch]
    times: list[int]


def follow(variant: str, patch: int, capability: tuple[int, int]) -> list[Found]:
    """Return the launches of a training step with two samples and an inference with one, in bfloat16."""
    found = []
    for what, batch in (("train", 2), ("inference", 1)):
        capture = follow_step(variant, (patch,) * 3, batch, what == "train", torch.bfloat16, capability=capability)
        counts = Counter(launch.key() for launch in capture.launches)
        launches = {launch.key(): launch for launch in capture.launches}
        found.append(Found(what, list(launches.values()), [counts[key] for key in launches]))
    return found


def compile_step(variant: str, patch: int, arch: int, dry: bool, save: Callable[..., None]) -> None:
    """Compile all launches in parallel, so that later stages find them in Triton's cache; a dry run compiles a few."""
    own = divmod(arch, 10)
    launches = [launch for each in follow(variant, patch, own) for launch in each.launches]
    if not dry:  # and the launches of the sanitizer's step
        launches += follow_step(variant, (SMALLEST,) * 3, 1, True, torch.bfloat16, capability=own).launches
    jobs = distinct(prepare(launch, arch) for launch in launches)
    jobs = list({job.kernel: job for job in jobs}.values())[:DRY] if dry else jobs
    rows = []
    for one in compile_all(jobs):
        numbers = (None,) * 3 if one.error else (one.registers, one.stack, one.shared / 1024)
        rows.append([one.job.describe(), *numbers, "; ".join(one.faults())])
        save(rows, [f"Compiled for sm_{arch}: {len(rows)} of {len(jobs)} kernels."])


def time_step(variant: str, patch: int, arch: int, dry: bool, save: Callable[..., None]) -> None:
    """Time every distinct launch, on random tensors of its shapes.

    Args:
        variant: A key of `mednextv2.nets.VARIANTS`.
        patch: The edge of the patch in voxels.
        arch: The compute capability of the GPU, such as 90.
        dry: Whether to time nothing, and predict a few launches for an H100.
        save: A function that is called with the table's rows and notes after every launch.
    """
    rows: list[list[Any]] = []
    sums: dict[str, list[float]] = {}
    found = follow(variant, patch, divmod(arch, 10))
    if dry:
        found = [_first_of_each_kernel(each)[:DRY] for each in found]
    else:
        found = [list(zip(each.launches, each.times, strict=True)) for each in found]
    works = as_work((launch for each in found for launch, _ in each), arch)
    done = {}
    for work, one in zip(works, side_by_side(compile_and_predict, works), strict=True):
        pairs = zip(work.launches, one.predictions, strict=True)
        done |= {launch.key(): (one.compiled.error, guess) for launch, guess in pairs}
    for what, launches in zip(("train", "inference"), found, strict=True):
        for launch, number in launches:
            error, guess = done[launch.key()]
            took = measure(launch) if not dry and not error else None
            ratio = took / guess.seconds if took and guess else None
            cells = [f"{what}: {launch.region}", launch.name, number, math.prod(launch.grid)]
            cells += [guess and guess.seconds * 1e3, error or (guess.limit if guess else "unknown")]
            rows.append([*cells, took and took * 1e3, ratio])
            total = sums.setdefault(what, [0.0, 0.0])
            total[0] += number * guess.seconds if guess else 0.0
            total[1] += number * took if took else 0.0
            save(rows, [_sum(name, *both) for name, both in sums.items()])


def _first_of_each_kernel(found: Found) -> list[tuple[Launch, int]]:
    pairs = zip(found.launches, found.times, strict=True)
    return list({launch.name: (launch, number) for launch, number in pairs}.values())


def _sum(what: str, predicted: float, measured: float) -> str:
    took = f", measured {measured * 1e3:.2f} ms" if measured else ""
    step = "training step" if what == "train" else "inference"
    return f"Launches in the table, of one {step}: predicted {predicted * 1e3:.2f} ms{took}."


def measure(launch: Launch) -> float:
    """Return the median time of a launch on a GPU in seconds."""
    tensors = {k: make_tensor(v, "cuda") if isinstance(v, TensorSpec) else v for k, v in launch.arguments.items()}
    kernel = find_kernel(launch.module, launch.name)
    times = triton.testing.do_bench(
        lambda: kernel[launch.grid](**tensors, **launch.options), warmup=5, rep=20, return_mode="all"
    )
    return statistics.median(times) / 1e3


def make_tensor(spec: TensorSpec, device: str) -> torch.Tensor:
    """Return a tensor of random numbers, or of zeros if it has whole numbers, which may be indices."""
    dtype = getattr(torch, spec.dtype)
    offset = spec.offset // dtype.itemsize
    memory = torch.zeros(offset + spec.nbytes // dtype.itemsize, dtype=dtype, device=device)
    if dtype.is_floating_point:
        memory.normal_()
    return memory.as_strided(spec.shape, spec.stride, offset)
