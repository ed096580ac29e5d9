"""Compile Triton launches ahead of time for any GPU, without a GPU, and show the resources that the code needs.

    python scripts/gpu_compile.py --variants v2_base --arch 90

This prints the registers, stack and shared memory of every kernel of the variants. The exit code is 1 if a kernel does
not compile or exceeds a limit. Specialisation, alignment and options are those of a launch at run time, because
Triton's own code chooses them.
"""

import argparse
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import triton
from gpu_capture import Launch, TensorSpec, find_kernel
from gpu_launches import DTYPES, follow_parts
from gpu_options import end
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from mednextv2.nets import VARIANTS
from mednextv2.wording import count

#: Bytes of shared memory that one block may have, by compute capability. Source: CUDA C++ Programming Guide,
#: table "Technical Specifications per Compute Capability".
SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}
# Bytes of local memory per thread. Arrays there would be slow. Some sums of `expansion_kernel` for 64 channels are
# there, 528 bytes: even with its loads and stores counted, it is predicted to take 0.6 times as long as without.
STACK_LIMIT = 768
KERNEL_SIZES = (3, 5, 7)
ODD_FILTERS = (5, 12, 24)  # numbers of channels that are not powers of two, and for which no vector of 16 bytes fits


T, R = TypeVar("T"), TypeVar("R")


class Job(NamedTuple):
    """One compilation.

    Attributes:
        module: The module that defines the kernel.
        kernel: Its name.
        arch: The compute capability as a number, such as 90.
        signature: The name and type of every argument.
        constants: The position and value of every constant.
        attributes: The position and attributes of every argument that has some, such as divisibility by 16.
        options: The name and value of every compiler option.
    """

    module: str
    kernel: str
    arch: int
    signature: tuple[tuple[str, Any], ...]
    constants: tuple[tuple[tuple[int, ...], Any], ...]
    attributes: tuple[tuple[tuple[int, ...], Any], ...]
    options: tuple[tuple[str, Any], ...]

    def describe(self) -> str:
        """Return the kernel and what distinguishes it from others, such as `w1_kernel bf16 C=32 E=96`."""
        names = [name for name, _ in self.signature]
        types = list(dict.fromkeys(t[1:] for _, t in self.signature if isinstance(t, str) and t.startswith("*")))
        values = [f"{names[path[0]]}={value}" for path, value in self.constants if value is not None]
        options = dict(self.options)
        return " ".join([self.kernel, *types[:1], *values, f"warps={options.get('num_warps')}"])


class Compiled(NamedTuple):
    """The result of a compilation.

    Attributes:
        job: The job that was compiled.
        error: The reason why it failed, in one line, or None.
        registers: The number of registers of a thread.
        stack: Bytes of local memory of a thread.
        shared: Bytes of shared memory of a block.
        cubin: The machine code.
        ttir: Triton's first intermediate form of it, as text.
    """

    job: Job
    error: str | None
    registers: int = 0
    stack: int = 0
    shared: int = 0
    cubin: bytes = b""
    ttir: str = ""

    def faults(self) -> list[str]:
        """Return the problems of the result, one line each."""
        if self.error:
            return [self.error]
        found = []
        if self.stack > STACK_LIMIT:
            found.append(f"{self.stack} bytes of stack a thread, of {STACK_LIMIT}")
        if self.shared > SHARED_LIMIT[self.job.arch]:
            found.append(f"{self.shared} bytes of shared memory, of {SHARED_LIMIT[self.job.arch]}")
        return found


class _Pointer:
    """A tensor as Triton's specialisation sees it."""

    def __init__(self, spec: TensorSpec) -> None:
        self.dtype, self._offset = getattr(torch, spec.dtype), spec.offset

    def data_ptr(self) -> int:
        return 512 + self._offset  # PyTorch's allocator aligns to 512


def prepare(launch: Launch, arch: int) -> Job:
    """Return the compilation that a launch needs on a GPU."""
    kernel, backend = find_kernel(launch.module, launch.name), make_backend(GPUTarget("cuda", arch, 32))
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    values = {k: _Pointer(v) if isinstance(v, TensorSpec) else v for k, v in launch.arguments.items()}
    # the default of a launch is given explicitly, since Triton 3.9 warns if it is missing
    fusion = triton.knobs.language.default_fp_fusion
    given = {"enable_fp_fusion": fusion, **values, **launch.options}
    bound, specialization, options = binder(**given)
    options, signature, constants, attributes = kernel._pack_args(backend, given, bound, specialization, options)
    return Job(
        launch.module,
        launch.name,
        arch,
        *(tuple(found.items()) for found in (signature, constants, _hashable(attributes), _hashable(vars(options)))),
    )


def _hashable(values: dict[Any, Any]) -> dict[Any, Any]:
    def freeze(value: Any) -> Any:
        return tuple(freeze(v) for v in value) if isinstance(value, (list, tuple)) else value

    return {key: freeze(value) for key, value in values.items()}


def distinct(jobs: Iterable[Job]) -> list[Job]:
    """Leave out jobs that are equal to an earlier one."""
    return list({repr(job): job for job in jobs}.values())


def compile_job(job: Job) -> Compiled:
    """Compile and read the machine code; an error is part of the result."""
    kernel = find_kernel(job.module, job.kernel)
    attributes = {path: [list(pair) for pair in pairs] for path, pairs in job.attributes}
    source = ASTSource(fn=kernel, signature=dict(job.signature), constexprs=dict(job.constants), attrs=attributes)
    try:
        compiled = triton.compile(source, target=GPUTarget("cuda", job.arch, 32), options=dict(job.options))
    except Exception as error:  # an error of Triton, MLIR, LLVM or ptxas
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Compiled(job, f"{type(error).__name__}: {' … '.join(lines[:1] + lines[-1:])}"[:300])
    cubin = compiled.asm["cubin"]
    registers, stack = read_usage(cubin)
    return Compiled(job, None, registers, stack, compiled.metadata.shared, cubin, str(compiled.asm["ttir"]))


def read_usage(cubin: bytes) -> tuple[int, int]:
    """Return the registers and the bytes of stack of a thread."""
    text = disassemble(cubin, "-res-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if not found:
        raise RuntimeError(f"cuobjdump -res-usage answers something unknown: {text[:200]!r}")
    return int(found[1]), int(found[2])


def disassemble(cubin: bytes, what: str) -> str:
    """Return what cuobjdump, which comes with Triton, says about machine code: `-res-usage` or `-sass`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, what, str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compile_all(jobs: Iterable[Job], processes: int | None = None) -> Iterator[Compiled]:
    """Compile in parallel; yield in the order of the jobs. The arguments are those of :func:`side_by_side`."""
    yield from side_by_side(compile_job, jobs, processes)


def side_by_side(work: Callable[[T], R], items: Iterable[T], processes: int | None = None) -> Iterator[R]:
    """Call a function in processes for compiling; yield results in the order of the items.

    Args:
        work: A function of a module.
        items: The arguments of the calls.
        processes: The number of processes: by default that of cores, but none for fewer than eight items, since
            starting them takes time.
    """
    items = list(items)
    processes = processes or min(len(os.sched_getaffinity(0)), len(items) // 8)
    if processes <= 1:
        yield from map(work, items)
        return
    with compiling_pool(processes) as pool:
        # processes that start now do not get Ctrl-C, which a terminal sends to all; this process does, and ends the
        # others
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            found = pool.map(work, items)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield from found


def compiling_pool(processes: int | None = None) -> ProcessPoolExecutor:
    """Return processes that compile, by default as many as there are cores, and that import everything once."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", Path(__file__).stem])
    return ProcessPoolExecutor(processes or len(os.sched_getaffinity(0)), context)


# --- which ones ------------------------------------------------------------------------------------------------------


def launches_of(variant: str, arch: int, dtype: str, kernel_size: int, patch: tuple[int, ...]) -> list[Launch]:
    """Return the launches of each kind of block of a variant, in training and in inference.

    Args:
        variant: A key of :data:`mednextv2.nets.VARIANTS`; with `/n` after it, it begins with n filters.
        arch: The compute capability as a number.
        dtype: A key of :data:`gpu_launches.DTYPES`.
        kernel_size: The size of the depthwise kernels.
        patch: The number of voxels along each axis.
    """
    name, _, filters = variant.partition("/")
    changes = {"init_filters": int(filters)} if filters else {}
    capability = divmod(arch, 10)
    found = []
    for training, batch in ((True, 2), (False, 1)):
        settings = (batch, training, DTYPES[dtype], kernel_size, capability)
        found += follow_parts(name, patch, *settings, **changes).launches
    return found


def all_jobs(
    variants: Iterable[str], archs: Iterable[int], dtypes: Iterable[str], kernel_sizes: Iterable[int]
) -> list[Job]:
    """Return every distinct compilation that these networks need, on patches of 128³ voxels, and of 256² in 2D."""
    jobs: list[Job] = []
    for arch in archs:
        for variant in variants:
            for dtype in dtypes:
                for kernel_size in kernel_sizes:
                    found = launches_of(variant, arch, dtype, kernel_size, (128,) * 3)
                    if variant == "v2_tiny":
                        found += launches_of(variant, arch, dtype, kernel_size, (256,) * 2)
                    jobs += distinct(prepare(launch, arch) for launch in found)
    return distinct(jobs)


# --- the command -----------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Compile the kernels that the options name and print a table; return 1 if something is wrong."""
    everything = [*VARIANTS, *(f"v2_tiny/{n}" for n in ODD_FILTERS)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "sizes of MedNeXt; v2_tiny/N is v2_tiny with N filters (default: all)"
    parser.add_argument("--variants", nargs="+", default=everything, choices=everything, help=text)
    text = "compute capabilities, such as 90 for 9.0 (default: all)"
    parser.add_argument("--arch", nargs="+", type=int, default=list(SHARED_LIMIT), choices=SHARED_LIMIT, help=text)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES, help="data types (default: all)")
    text = "kernel sizes of the depthwise convolutions (default: all)"
    parser.add_argument("--kernel-sizes", nargs="+", type=int, default=KERNEL_SIZES, choices=KERNEL_SIZES, help=text)
    options = parser.parse_args(arguments)
    wrong = []
    jobs = all_jobs(options.variants, options.arch, options.dtypes, options.kernel_sizes)
    print(f"{count(len(jobs), 'kernel')}\n", flush=True)
    print("| kernel | sm | registers | stack (B) | shared (KiB) |\n|---|---:|---:|---:|---:|")
    for one in compile_all(jobs):
        cells = [one.job.describe(), one.job.arch, one.registers, one.stack, f"{one.shared / 1024:.1f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        wrong += [f"sm_{one.job.arch}: {one.job.describe()}: {fault}" for fault in one.faults()]
    print("\n".join(["", *wrong, f"{count(len(wrong), 'fault')} in {count(len(jobs), 'kernel')}"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    end(main)
