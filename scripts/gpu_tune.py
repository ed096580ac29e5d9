"""Find launch configurations of the Triton kernels for the GPU at hand, on the launches of a network.

    python scripts/gpu_tune.py --variant v2_base --minutes 10

prints lines for `TUNED` in `mednextv2/ops/_triton_configs.py`. From the table's configurations on, each is changed in
one thing at a time; what made it faster is tried together, and is where the next changes start, until nothing helps or
the time is over. Candidates are compiled side by side. What is compared is the sum over the launches of a training step
that make up most of the kernel's time. An entry is a comment where there was no time to vary it. With `--dry` the times
are predicted for an H100 instead of measured, without a GPU.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import asdict, replace
from typing import NamedTuple

import gpu_options
import torch
from gpu_capture import Launch
from gpu_check_launches import measure
from gpu_compile import SHARED_LIMIT, compile_job, compiling_pool, prepare
from gpu_launches import DTYPES, follow_parts, follow_step
from gpu_options import add_minutes, add_patch
from gpu_predict import H100, MACHINES, predict
from triton.runtime.errors import OutOfResources

from mednextv2.nets import VARIANTS
from mednextv2.ops import _triton_configs as configs
from mednextv2.ops._triton_configs import Config

TILES = (16, 32, 64, 128)
#: Of every kernel in the table: the choices for its two blocks. A product's inner dimension is varied where it has one.
BLOCKS = {
    "depthwise_gather": ((2, 4, 8, 16), (512, 1024, 2048)),
    "depthwise_weight": ((32, 64, 128), (512, 1024, 2048)),
}
WARPS, STAGES, PROGRAMS, DEPTHS = (2, 4, 8), (1, 2, 3, 4), (132, 264, 528, 1056, 2112), (32, 64, 128)
HOPELESS = 1.35  # times the best prediction: not timed, since predictions are not as far off from one another
LARGEST = 0.85  # share of a kernel's time in a step, the launches of which are timed
Key = tuple[str, int]  # of a launch: the kind of block, and which of the kernel's launches in it
PRODUCTS = ("expand", "expand_again", "expanded_gradient", "compress", "input")


def neighbours(kernel: str, config: Config) -> Iterator[Config]:
    """Yield the configurations that differ from `config` in one thing."""
    for i, values in enumerate(BLOCKS.get(kernel, (TILES, TILES))):
        yield from (replace(config, blocks=(v, config.blocks[1]) if i == 0 else (config.blocks[0], v)) for v in values)
    yield from (replace(config, warps=v) for v in WARPS)
    if not kernel.startswith("depthwise"):
        yield from (replace(config, stages=v) for v in STAGES)
    if kernel in PRODUCTS:
        yield from (replace(config, depth=v) for v in DEPTHS)
    if config.programs:
        yield from (replace(config, programs=v) for v in PROGRAMS)


class Task(NamedTuple):
    """The launches of one kernel in a training step, with one configuration.

    Attributes:
        variant: A key of `mednextv2.nets.VARIANTS`.
        patch: Edge in voxels.
        dtype: A key of `gpu_launches.DTYPES`.
        kernel_size: Edge of the depthwise kernels.
        arch: Compute capability as a number.
        kernel: Its name in the table.
        size: The table's size that the configuration is for.
        config: That one.
        wanted: Keys of launches, or None for all.
    """

    variant: str
    patch: int
    dtype: str
    kernel_size: int
    arch: int
    kernel: str
    size: int
    config: Config
    wanted: frozenset[Key] | None = None


class Prepared(NamedTuple):
    """A task whose launches are compiled.

    Attributes:
        launches: By key.
        predicted: Seconds of each, for an H100 where the GPU's own machine is not known; 0 where it is not predicted.
    """

    launches: dict[Key, Launch]
    predicted: dict[Key, float]


def prepare_task(task: Task) -> Prepared | None:
    """Compile the launches of a task, so that Triton's cache has them; None where one of them cannot be launched.

    What a launch spills is not asked for: the clock tells what that costs.
    """
    found = _launches(task)
    if task.wanted is None:  # those that depend on this configuration: they are others where it is another
        probe = _launches(task._replace(config=replace(task.config, warps=4 if task.config.warps == 8 else 8)))
        found = {key: launch for key, launch in found.items() if key not in probe or probe[key].key() != launch.key()}
    else:
        found = {key: launch for key, launch in found.items() if key in task.wanted}
    predicted = {}
    for key, launch in found.items():
        compiled = compile_job(prepare(launch, task.arch))
        if compiled.error or compiled.shared > SHARED_LIMIT[task.arch]:
            return None
        guess = predict(launch, compiled, MACHINES.get(task.arch, H100))
        predicted[key] = guess.seconds if guess else 0.0
    return Prepared(found, predicted)


def _launches(task: Task) -> dict[Key, Launch]:
    lookup = configs.lookup

    def chosen(kernel: str, like: torch.Tensor, size: int) -> Config:
        # of other sizes and kernels, the table's
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


class Search:
    """The search for the best configuration of one entry of the table, one wave of candidates after the other.

    Args:
        task: With the table's configuration, from which it starts.

    Attributes:
        best: The configuration that is best so far.
        before: Seconds with the table's configuration: 0 where the network has no such launch, infinite where one of
            its launches cannot be, or none was timed.
        after: Seconds with the best one.
        tried: Configurations that were timed or cannot be launched, the table's among them.
        waiting: Candidates of the next wave.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.best = task, task.config
        self.before = self.after = float("inf")
        self.tried, self.waiting, self._seen = 0, [task.config], {task.config}
        self._better: list[tuple[float, Config]] = []
        self._begin = task.config  # of the wave

    def take(self, config: Config, seconds: float) -> None:
        """Note the time of a configuration; infinite where it cannot be launched."""
        self.tried += 1
        self.waiting.remove(config)
        if self.tried == 1:
            self.before = self.after = seconds
            self._better.append((seconds, config))
        elif seconds < 0.99 * self.after or (seconds < float("inf") and self.after == float("inf")):
            self.best, self.after = config, seconds
        if self.tried > 1 and seconds < 0.99 * self.before:
            self._better.append((seconds, config))

    def advance(self) -> None:
        """Choose the next wave, where the last one made anything better."""
        self.waiting = []
        if self.before == 0 or not self._better:
            return
        together = self._join()
        for config in [together, *neighbours(self.task.kernel, self.best)]:
            if config not in self._seen:
                self._seen.add(config)
                self.waiting.append(config)
        self._better, self._begin = [], self.best

    def _join(self) -> Config:
        """Return the start of the last wave with all its changes for the better, of two for one thing the better."""
        config, start = {}, asdict(self._begin)
        for _, better in sorted(self._better, key=lambda found: -found[0]):
            config |= {name: value for name, value in asdict(better).items() if value != start[name]}
        return replace(self._begin, **config)


def tune(searches: list[Search], time_all: Callable[[list[tuple[Search, Config]]], None]) -> None:
    """Search until nothing helps any more, or `time_all`, which hands times to searches, leaves some out."""
    while wave := [(search, config) for search in searches for config in search.waiting]:
        time_all(wave)
        if any(search.waiting for search in searches):
            return
        for search in searches:
            search.advance()
        searches.sort(key=lambda search: -search.after)  # what takes longest first


class Timer:
    """Compiles candidates side by side, and times one after the other until the clock shows `end`.

    Args:
        options: Of the command.
        end: As `time.monotonic` counts.
        pool: Where to compile.
    """

    def __init__(self, options: argparse.Namespace, end: float, pool: Executor) -> None:
        self.options, self.end, self.pool = options, end, pool
        self._blocks = count_blocks(options)
        self._wanted: dict[tuple[str, int], frozenset[Key]] = {}
        self._predicted: dict[tuple[str, int], float] = {}

    def __call__(self, wave: list[tuple[Search, Config]]) -> None:
        """Hand a time to the search of each candidate."""
        tasks = [s.task._replace(config=c, wanted=self._wanted.get((s.task.kernel, s.task.size))) for s, c in wave]
        with closing(self.pool.map(prepare_task, tasks)) as all_prepared:  # which ends those that nobody waits for
            for (search, config), prepared in zip(wave, all_prepared, strict=True):
                if search.tried and time.monotonic() > self.end:
                    return  # the table's own configurations, which are the first wave, are timed in any case
                search.take(config, self._seconds(search, prepared))

    def _seconds(self, search: Search, prepared: Prepared | None) -> float:
        own = (search.task.kernel, search.task.size)
        if prepared is None or (own in self._wanted and self._hopeless(own, prepared)):
            return float("inf")
        try:
            times = prepared.predicted if self.options.dry else {k: measure(v) for k, v in prepared.launches.items()}
        except OutOfResources:
            return float("inf")
        if own not in self._wanted:
            self._wanted[own] = largest({key: took * self._blocks[key[0]] for key, took in times.items()})
            self._hopeless(own, prepared)
        return self._sum(times, self._wanted[own])

    def _hopeless(self, own: tuple[str, int], prepared: Prepared) -> bool:
        guess = self._sum(prepared.predicted, self._wanted[own])
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
    """Return the keys of the launches that take most of the time; the others are not worth the time to time them."""
    found, rest = set(), LARGEST * sum(times.values())
    for key in sorted(times, key=lambda key: -times[key]):
        if rest > 0:
            found.add(key)
        rest -= times[key]
    return frozenset(found)


def format_entry(capability: tuple[int, int], search: Search) -> str:
    """Return a line for the table, or a comment where nothing was found out for it."""
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
    """Tune the kernels that are asked for."""
    table = sorted({kernel for kernel, dtype in configs.UNTUNED if dtype == configs.HALF})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="v2_base", choices=VARIANTS)
    add_patch(parser)
    parser.add_argument("--kernel-size", type=int, default=3, choices=(3, 5, 7))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--kernels", nargs="+", default=table, choices=table, help="(default: all)")
    add_minutes(parser, 10.0, "for all kernels together; each entry's first configuration is timed in any case")
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
    finally:  # after an error on the GPU, too: nothing else can be timed then, but what was found holds
        print("\n".join(format_entry(capability, search) for search in searches if search.tried), flush=True)
    return 0


if __name__ == "__main__":
    gpu_options.end(main)
