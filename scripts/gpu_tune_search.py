"""The search for launch configurations, one wave of candidates after the other, for `gpu_tune.py`."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import NamedTuple

from mednextv2.ops._triton_configs import Config

TILES = (16, 32, 64, 128)
#: The choices for the two blocks of every kernel in the table. A product's inner dimension is also varied.
BLOCKS = {
    "depthwise_gather": ((2, 4, 8, 16), (512, 1024, 2048)),
    "depthwise_weight": ((32, 64, 128), (512, 1024, 2048)),
}
WARPS, STAGES, PROGRAMS, DEPTHS = (2, 4, 8), (1, 2, 3, 4), (132, 264, 528, 1056, 2112), (32, 64, 128)
Key = tuple[str, int]  # key of a launch: the kind of block, and the index among the kernel's launches in it
PRODUCTS = ("expand", "expand_again", "expanded_gradient", "compress", "input")


def neighbours(kernel: str, config: Config) -> Iterator[Config]:
    """Yield the configurations that differ from `config` in one parameter."""
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
        patch: The edge of the patch in voxels.
        dtype: A key of `gpu_launches.DTYPES`.
        kernel_size: The size of the depthwise kernels.
        arch: The compute capability as a number.
        kernel: The kernel's name in the table.
        size: The size in the table for which the configuration is used.
        config: The configuration.
        wanted: The keys of launches, or None for all.
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


class Search:
    """The search for the best configuration of one entry of the table, one wave of candidates after the other.

    Args:
        task: The task with the table's configuration, from which the search starts.

    Attributes:
        best: The best configuration so far.
        before: The seconds with the table's configuration: 0 if the network has no such launch, infinite if one of its
            launches is impossible, or none was timed.
        after: The seconds with the best configuration.
        tried: Configurations that were timed or cannot be launched, including the table's.
        waiting: Candidates of the next wave.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.best = task, task.config
        self.before = self.after = float("inf")
        self.tried, self.waiting, self._seen = 0, [task.config], {task.config}
        self._begin, self._begin_seconds = task.config, float("inf")  # the start of the present wave
        self._better: list[tuple[float, Config]] = []  # better configurations than that, with their seconds

    def take(self, config: Config, seconds: float) -> None:
        """Record the time of a configuration; it is infinite if it cannot be launched."""
        self.tried += 1
        self.waiting.remove(config)
        if self.tried == 1:
            self.before = self.after = seconds
            self._better.append((seconds, config))
            return
        if seconds < 0.99 * self._begin_seconds:  # infinite if the table's own cannot be launched
            self._better.append((seconds, config))
        if seconds < 0.99 * self.after:
            self.best, self.after = config, seconds

    def advance(self) -> None:
        """Choose the next wave, if the last one improved anything."""
        self.waiting = []
        if self.before == 0 or not self._better:
            return
        together = self._join()
        for config in [together, *neighbours(self.task.kernel, self.best)]:
            if config not in self._seen:
                self._seen.add(config)
                self.waiting.append(config)
        self._better, self._begin, self._begin_seconds = [], self.best, self.after

    def _join(self) -> Config:
        """Return the start of the last wave with all its improvements; of two for one parameter, the better."""
        config, start = {}, asdict(self._begin)
        for _, better in sorted(self._better, key=lambda found: -found[0]):
            config |= {name: value for name, value in asdict(better).items() if value != start[name]}
        return replace(self._begin, **config)


def tune(searches: list[Search], time_all: Callable[[list[tuple[Search, Config]]], None]) -> None:
    """Search until nothing helps, or until `time_all`, which gives times to searches, leaves some out."""
    while wave := [(search, config) for search in searches for config in search.waiting]:
        time_all(wave)
        if any(search.waiting for search in searches):
            return
        for search in searches:
            search.advance()
        searches.sort(key=lambda search: -search.after)  # the slowest first
