"""Find launch configurations of the Triton kernels for the GPU at hand, on the launches of a network.

    python scripts/gpu_tune.py --variant v2_base --minutes 10

prints lines for `TUNED` in `mednextv2/ops/_triton_configs.py`. From the table's configuration on, one thing at a time
is changed for the better, until nothing helps or the time is over. What is compared is the sum over the kernel's
launches in one block of each kind, of all its sizes. An entry is a comment where there was no time to vary it. With
`--dry` the times are predicted for an H100 instead of measured, without a GPU.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import gpu_options
import torch
from gpu_capture import Launch
from gpu_check_launches import measure
from gpu_compile import compile_job, prepare
from gpu_launches import DTYPES, follow_parts
from gpu_options import add_minutes, add_patch
from gpu_predict import H100, predict

from mednextv2.nets import VARIANTS
from mednextv2.ops import _triton_configs as configs
from mednextv2.ops._triton_configs import Config

TILES = (16, 32, 64, 128)
#: Of every kernel in the table: the choices for its two blocks. A product's inner dimension is varied where it has one.
BLOCKS = {"depthwise_gather": ((2, 4, 8, 16), (512, 1024, 2048)), "depthwise_weight": ((16, 32, 64), (512, 1024, 2048))}
WARPS, STAGES, PROGRAMS, DEPTHS = (2, 4, 8), (1, 2, 3, 4), (132, 264, 528, 1056, 2112), (32, 64, 128)
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


class Problem:
    """The launches of one kernel in a training step of a network.

    Args:
        options: Of the command.
        kernel: Its name in the table.
        size: The table's size that its configuration is for.
    """

    def __init__(self, options: argparse.Namespace, kernel: str, size: int) -> None:
        self.options, self.kernel, self.size = options, kernel, size
        self.function = f"{kernel.removeprefix('depthwise_')}_kernel"

    def seconds(self, config: Config) -> float:
        """Return the time of all launches with a configuration; infinite where one of them cannot be."""
        total = 0.0
        for launch, times in self._launches(config):
            took = self._one(launch)
            if took is None:
                return float("inf")
            total += times * took
        return total

    def _launches(self, config: Config) -> list[tuple[Launch, int]]:
        own, lookup = self.options, configs.lookup

        def chosen(kernel: str, like: torch.Tensor, size: int) -> Config:
            # of other sizes and kernels, the table's
            table = lookup(kernel, like, size)
            wanted = configs.bucket(kernel, like, size) == self.size and kernel == self.kernel
            self._used = self._used or wanted
            return config if wanted else table

        self._used, configs.lookup = False, chosen
        try:
            capture = follow_parts(own.variant, (own.patch,) * 3, 2, True, DTYPES[own.dtype], own.kernel_size)
        finally:
            configs.lookup = lookup
        mine = [launch for launch in capture.launches if launch.name == self.function] if self._used else []
        counts = Counter(launch.key() for launch in mine)
        return [(launch, counts[launch.key()]) for launch in {launch.key(): launch for launch in mine}.values()]

    def _one(self, launch: Launch) -> float | None:
        compiled = compile_job(prepare(launch, self.options.arch))
        if compiled.faults():
            return None
        if not self.options.dry:
            return measure(launch)
        guess = predict(launch, compiled, H100)
        return guess and guess.seconds


class Tuned(NamedTuple):
    """What came out for one entry of the table.

    Attributes:
        best: The configuration.
        before: Seconds with the table's configuration: 0 where the network has no such launch, infinite where one of
            its launches cannot be.
        after: Seconds with the best one.
        timed: Configurations that were timed, the table's among them.
    """

    best: Config
    before: float
    after: float
    timed: int


def tune(problem: Problem, first: Config, end: float) -> Tuned:
    """Find the best configuration from `first` on, until the clock shows `end`."""
    best, seen = first, {first}
    before = shortest = problem.seconds(first)
    improved = shortest > 0
    while improved:
        improved = False
        for config in neighbours(problem.kernel, best):
            if config in seen or time.monotonic() > end:
                continue
            seen.add(config)
            took = problem.seconds(config)
            if took < 0.99 * shortest:
                best, shortest, improved = config, took, True
    return Tuned(best, before, shortest, len(seen))


def format_entry(capability: tuple[int, int], kernel: str, size: int, tuned: Tuned) -> str:
    """Return a line for the table, or a comment where nothing was found out for it."""
    if tuned.before == 0:
        return f"    # {kernel}, {size}: the network has no such launch"
    if tuned.after == float("inf"):
        return f"    # {kernel}, {size}: configurations tried: {tuned.timed}; none of them can be launched"
    before, after = tuned.before * 1e3, tuned.after * 1e3
    if tuned.timed == 1:
        return f"    # {kernel}, {size}: not tuned for lack of time; the table's configuration takes {after:.3f} ms"
    best = tuned.best
    values = f"{best.blocks}, {best.warps}, {best.stages}, {best.programs}, {best.depth}"
    values += ", whole=True" if best.whole else ""
    entry = f'({capability}, "{kernel}", HALF, {size}): Config({values})'
    return f"    {entry},  # {before:.3f} -> {after:.3f} ms; configurations tried: {tuned.timed}"


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
    tasks = [(kernel, size) for kernel in options.kernels for size in configs.UNTUNED[kernel, configs.HALF]]
    end = time.monotonic() + 60 * options.minutes
    for i, (kernel, size) in enumerate(tasks):
        share = time.monotonic() + (end - time.monotonic()) / (len(tasks) - i)
        first = configs.UNTUNED[kernel, configs.HALF][size]
        tuned = tune(Problem(options, kernel, size), first, share)
        print(format_entry(capability, kernel, size, tuned), flush=True)
    return 0


if __name__ == "__main__":
    gpu_options.end(main)
