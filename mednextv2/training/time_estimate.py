"""An estimate of how long a training will take, logged after its first steps."""

import logging
import time
from collections.abc import Callable

from ignite.engine import Engine, Events

from mednextv2.distributed import is_main_process
from mednextv2.wording import count

logger = logging.getLogger(__name__)

_SKIPPED = 3  # number of first steps that do not count, since they build kernels and allocate memory
_STEPS = 20
_LONG_H = 3.0  # from this many hours on a CPU, a shorter training is suggested


class TimeEstimate:
    """Log once, after some steps, how long a training will take; on a CPU, also suggest one that takes an hour.

    Args:
        device: The type of the device, such as `cpu`.
        clock: A function that returns the time in seconds.
    """

    def __init__(self, device: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.device, self.clock = device, clock
        self._first: tuple[int, float] | None = None
        self._told = False

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Look at the clock after a step."""
        if self._told or not is_main_process():
            return
        step, now = engine.state.iteration, self.clock()
        if self._first is None:
            self._begin = step
            self._first = (step, now)
        if step == self._begin + _SKIPPED - 1:
            self._first = (step, now)
        if step < self._begin + _SKIPPED + _STEPS - 1:
            return
        self._told = True
        length, epochs = engine.state.epoch_length or 0, engine.state.max_epochs or 0
        left = length * epochs - step
        if left <= 3 * _STEPS:
            return
        each = (now - self._first[1]) / (step - self._first[0])
        logger.info(
            "The training will take about %s: %s left, %.3g s each", duration(each * left), count(left, "step"), each
        )
        if self.device == "cpu" and each * left > _LONG_H * 3600:
            shorter = max(1, min(length, int(3600 / each / 10)))
            logger.info(
                "On this CPU, a training of about an hour is --epochs %d --iterations_per_epoch %d",
                max(1, round(3600 / each / shorter)), shorter,
            )  # fmt: skip


def duration(seconds: float) -> str:
    """Return a time for people, such as `53 hours` or `12 minutes`."""
    if seconds >= 3 * 86400:
        return count(round(seconds / 86400), "day")
    if seconds >= 5400:
        return count(round(seconds / 3600), "hour")
    if seconds >= 90:
        return count(round(seconds / 60), "minute")
    return count(max(1, round(seconds)), "second")
