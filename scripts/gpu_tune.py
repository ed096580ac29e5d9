"""Find the fastest launch configurations of the Triton kernels for a network on the GPU at hand.

    python scripts/gpu_tune.py --variant v2_base --minutes 10

This prints lines for `TUNED` in `mednextv2/ops/_triton_configs.py`. The search starts from the table's configurations
and changes one parameter at a time. The changes that made a kernel faster are combined, and the next changes start
from there, until nothing helps or the time is over. Candidates are compiled in parallel. The time that is compared is
the sum over those launches of a training step that make up most of the kernel's time. If there was no time to vary an
entry, it is printed as a comment. With `--dry`, times are predicted for an H100 instead of measured, without a GPU.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import NamedTuple

import gpu_options
import torch
from gpu_capture import Launch
from gpu_check_launches import measure
from gpu_compile import SHARED_LIMIT, compiling_pool
from gpu_launches import DTYPES, follow_parts, follow_step
from gpu_options import add_minutes, add_patch
from gpu_predict_launches import as_work, compile_and_predict
from gpu_tune_search import Key, Search, Task, tune
from triton.runtime.errors import OutOfResources

from mednextv2.nets import VARIANTS
from mednextv2.ops import _triton_configs as configs
from mednextv2.ops._triton_configs import Config

HOPELESS = 1.35  # times the best prediction: slower ones are not timed, since relative errors are smaller than this
LARGEST = 0.85  # share of a kernel's time in a step whose launches are timed


def follow_task(task: Task) -> dict[Key, Launch]:
    """Return the launches of a task."""
    found = _launches(task)
    if task.wanted is not None:
        return {key: launch for key, launch in found.items() if key in task.wanted}
    # those that depend on this configuration, and so differ with another one
    probe = _launches(task._replace(config=replace(task.config, warps=4 if task.config.warps == 8 else 8)))
    return {key: launch for key, launch in found.items() if key not in probe or probe[key].key() != launch.key()}


def _launches(task: Task) -> dict[Key, Launch]:
    lookup = configs.lookup

    def chosen(kernel: str, like: torch.Tensor, size: int) -> Config:
        # for other sizes and kernels, the table's
        wanted = configs.bucket(kernel, like, size) == task.size and kernel == task.kernel
        return task.config if wanted else lookup(kernel, like, size)

    configs.lookup = chosen
    try:
        edges, dtype = (task.patch,) * 3, DTYPES[task.dtype]
        capture = follow_parts(task.variant, edges, 2, True, dtype, task.kernel_size, divmod(task.arch, 10))
    finally:
        configs.lookup = lookup
    function, numbers = f"{task.kernel.removeprefix('depthwise_')}_kernel", Counter()
    found = {}
    for launch in capture.launches:
        if launch.name == function:
            found[launch.region, numbers[launch.region]] = launch
            numbers[launch.region] += 1
    return found


class Candidate(NamedTuple):
    """A configuration whose kernels are being compiled.

    Attributes:
        search: The search that needs its time.
        config: The configuration.
        launches: The launches by key.
        done: The future result of the compilation for each launch, and the launch's index in it.
    """

    search: Search
    config: Config
    launches: dict[Key, Launch]
    done: dict[Key, tuple[Future, int]]


class Timer:
    """Compiles candidates in parallel, and times them one after the other until the clock shows `end`.

    Args:
        options: The options of the command.
        end: The end, in seconds of `time.monotonic`.
        pool: The processes that compile.
    """

    def __init__(self, options: argparse.Namespace, end: float, pool: Executor) -> None:
        self.options, self.end, self.pool = options, end, pool
        self._blocks = count_blocks(options)
        self._wanted: dict[tuple[str, int], frozenset[Key]] = {}
        self._predicted: dict[tuple[str, int], float] = {}

    def __call__(self, wave: list[tuple[Search, Config]]) -> None:
        """Give a time to the search of each candidate."""
        candidates = self._compile(wave)
        try:
            for one in candidates:
                if one.search.tried and time.monotonic() > self.end:
                    return  # the table's own configurations, which are the first wave, are timed in any case
                one.search.take(one.config, self._seconds(one))
        finally:  # cancels those that are no longer needed
            for future in [future for one in candidates for future, _ in one.done.values()]:
                future.cancel()

    def _compile(self, wave: list[tuple[Search, Config]]) -> list[Candidate]:
        tasks = [s.task._replace(config=c, wanted=self._wanted.get((s.task.kernel, s.task.size))) for s, c in wave]
        followed = list(self.pool.map(follow_task, tasks))
        works = as_work([launch for launches in followed for launch in launches.values()], self.options.arch)
        places: dict[tuple, tuple[Future, int]] = {}
        for work in works:  # in the order in which they are needed
            future = self.pool.submit(compile_and_predict, work)
            places |= {launch.key(): (future, i) for i, launch in enumerate(work.launches)}
        return [
            Candidate(*own, launches, {key: places[launch.key()] for key, launch in launches.items()})
            for own, launches in zip(wave, followed, strict=True)
        ]

    def _seconds(self, one: Candidate) -> float:
        """Return the time, or infinity if the candidate cannot be launched or is predicted to be far too slow.

        Register spills are ignored, since their cost is part of the time.
        """
        own, predicted = (one.search.task.kernel, one.search.task.size), {}
        for key, (future, place) in one.done.items():
            compiled, guesses = future.result()
            if compiled.error or compiled.shared > SHARED_LIMIT[self.options.arch]:
                return float("inf")
            predicted[key] = guesses[place].seconds if guesses[place] else 0.0
        if own in self._wanted and self._hopeless(own, predicted):
            return float("inf")
        try:
            times = predicted if self.options.dry else {k: measure(v) for k, v in one.launches.items()}
        except OutOfResources:
            return float("inf")
        if own not in self._wanted:
            self._wanted[own] = largest({key: took * self._blocks[key[0]] for key, took in times.items()})
            self._hopeless(own, predicted)
        return self._sum(times, self._wanted[own])

    def _hopeless(self, own: tuple[str, int], predicted: dict[Key, float]) -> bool:
        guess = self._sum(predicted, self._wanted[own])
        self._predicted[own] = min(guess, self._predicted.get(own, guess))
        return guess > HOPELESS * self._predicted[own]

    def _sum(self, times: dict[Key, float], wanted: Iterable[Key]) -> float:
        return sum(times[key] * self._blocks[key[0]] for key in wanted if key in times)


def count_blocks(options: argparse.Namespace) -> Counter:
    """Return how many blocks of each kind the network has, by the name of the kind."""
    own = divmod(options.arch, 10)
    edges, dtype = (options.patch,) * 3, DTYPES[options.dtype]
    step = follow_step(options.variant, edges, 2, False, dtype, options.kernel_size, own)
    return Counter(launch.region for launch in step.launches if launch.name == "gather_kernel")


def largest(times: dict[Key, float]) -> frozenset[Key]:
    """Return the keys of the launches that take most of the time; the others are not worth timing."""
    found, rest = set(), LARGEST * sum(times.values())
    for key in sorted(times, key=lambda key: -times[key]):
        if rest > 0:
            found.add(key)
        rest -= times[key]
    return frozenset(found)


def format_entry(capability: tuple[int, int], search: Search) -> str:
    """Return a line for the table, or a comment if nothing was found for it."""
    kernel, size = search.task.kernel, search.task.size
    if search.before == 0:
        return f"    # {kernel}, {size}: the network has no such launch"
    if search.after == float("inf"):
        return f"    # {kernel}, {size}: configurations tried: {search.tried}; none of them can be launched"
    before, after = search.before * 1e3, search.after * 1e3
    if search.tried == 1:
        return f"    # {kernel}, {size}: not tuned for lack of time; the table's configuration takes {after:.3f} ms"
    best = search.best
    values = f"{best.blocks}, {best.warps}, {best.stages}, {best.programs}, {best.depth}"
    values += ", whole=True" if best.whole else ""
    entry = f'({capability}, "{kernel}", HALF, {size}): Config({values})'
    return f"    {entry},  # {before:.3f} -> {after:.3f} ms; configurations tried: {search.tried}"


def main(arguments: list[str] | None = None) -> int:
    """Tune the requested kernels."""
    table = sorted({kernel for kernel, dtype in configs.UNTUNED if dtype == configs.HALF})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="v2_base", choices=VARIANTS, help="size of MedNeXt (default: v2_base)")
    add_patch(parser)
    parser.add_argument("--kernel-size", type=int, default=3, choices=(3, 5, 7), help="kernel size (default: 3)")
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("bfloat16", "float16"), help="data type (default: bfloat16)"
    )
    parser.add_argument("--kernels", nargs="+", default=table, choices=table, help="kernels to tune (default: all)")
    add_minutes(parser, 10.0, "minutes for all kernels together; the first configuration of each entry is always timed")
    parser.add_argument("--dry", action="store_true", help="predict for an H100 instead of measuring")
    options = parser.parse_args(arguments)
    if not (options.dry or torch.cuda.is_available()):
        print("There is no GPU to measure on; --dry predicts for an H100.", file=sys.stderr)
        return 2
    capability = (9, 0) if options.dry else torch.cuda.get_device_capability()
    options.arch = 10 * capability[0] + capability[1]
    what = "predicted, for an H100" if options.dry else torch.cuda.get_device_name()
    print(f"# {what}, {options.variant}, {options.dtype}", flush=True)
    end = time.monotonic() + 60 * options.minutes
    own = (options.variant, options.patch, options.dtype, options.kernel_size, options.arch)
    searches = [
        Search(Task(*own, kernel, size, config))
        for kernel in options.kernels for size, config in configs.UNTUNED[kernel, configs.HALF].items()
    ]  # fmt: skip
    try:
        with compiling_pool() as pool:
            tune(list(searches), Timer(options, end, pool))
    finally:  # also after an error on the GPU: nothing else can be timed then, but the results are valid
        print("\n".join(format_entry(capability, search) for search in searches if search.tried), flush=True)
    return 0


if __name__ == "__main__":
    gpu_options.end(main)
