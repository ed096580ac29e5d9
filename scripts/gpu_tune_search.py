"""The search for launch configurations, one wave of candidates after the other, for `gpu_tune.py`."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import NamedTuple

from mednextv2.ops._triton_configs import Config

TILES = (16, 32, 64, 128)
#: Of every kernel in the table: the choices for its two blocks. A product's inner dimension is varied where it has one.
BLOCKS = {
    "depthwise_gather": ((2, 4, 8, 16), (512, 1024, 2048)),
    "depthwise_weight": ((32, 64, 128), (512, 1024, 2048)),
}
WARPS, STAGES, PROGRAMS, DEPTHS = (2, 4, 8), (1, 2, 3, 4), (132, 264, 528, 1056, 2112), (32, 64, 128)
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
        self._begin, self._begin_seconds = task.config, float("inf")  # where the present wave starts
        self._better: list[tuple[float, Config]] = []  # than that

    def take(self, config: Config, seconds: float) -> None:
        """Note the time of a configuration; infinite where it cannot be launched."""
        self.tried += 1
        self.waiting.remove(config)
        if self.tried == 1:
            self.before = self.after = seconds
            self._better.append((seconds, config))
            return
        if seconds < 0.99 * self._begin_seconds:  # infinite, where the table's own cannot be launched
            self._better.append((seconds, config))
        if seconds < 0.99 * self.after:
            self.best, self.after = config, seconds

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
        self._better, self._begin, self._begin_seconds = [], self.best, self.after

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
