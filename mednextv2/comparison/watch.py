"""The clock of a training: how long it takes, how many steps it makes, and when it must stop."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from mednextv2.comparison.budget import WARM_UP
from mednextv2.comparison.memory import peak_memory
from mednextv2.paths import writing
from mednextv2.text_files import read_json
from mednextv2.training.engine import Trainer


@dataclass
class Progress:
    """What is known of a training, written after each epoch.

    Attributes:
        seconds: The time from the first step to the end of each epoch, over all sessions.
        steps: The number of steps to the end of each epoch.
        epochs: The number of planned epochs.
        measured_seconds: The time of those steps that were measured.
        measured_steps: Their number: all but the first three of each session.
        parameters: The number of the network's trainable parameters.
        peak_memory: The most memory in bytes.
        memory_of: Whose memory that is: `GPU` or `process`.
        stopped: Whether the training was stopped because its time was over.
        finished: Whether it is complete.
    """

    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    epochs: int = 0
    measured_seconds: float = 0.0
    measured_steps: int = 0
    parameters: int = 0
    peak_memory: int = 0
    memory_of: str = ""
    stopped: bool = False
    finished: bool = False

    @property
    def step_seconds(self) -> float:
        """The mean time of a step; NaN if none was measured."""
        return self.measured_seconds / self.measured_steps if self.measured_steps else math.nan

    def write(self, file: Path) -> None:
        """Write it to a file."""
        with writing(file) as temporary:
            temporary.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def read_progress(file: Path) -> Progress:
    """Return the progress in a file; an empty one if there is no file."""
    return Progress(**read_json(file)) if file.is_file() else Progress()


class RunWatch:
    """Measures a training, writes its progress, and ends it when its time is over.

    The time begins with the first epoch, after cases were prepared and the network was built, and includes the
    reading of patches, validations and checkpoints. When it is over, the epoch ends with the step that is being made,
    is validated as any other, and the training is complete.

    Args:
        file: The file of the progress, from which a resumed training continues.
        budget: The time in seconds; None for no limit.
        clock: A function that returns the time in seconds.
        every_step: Whether a GPU is waited for after every step, so that each has its own time; otherwise, once an
            epoch.
    """

    def __init__(
        self,
        file: Path,
        budget: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_step: bool = False,
    ) -> None:
        self.file, self.budget, self.clock, self.every_step = file, budget, clock, every_step
        self.progress = read_progress(file)
        self.durations: list[float] = []  # seconds of the steps that were measured in this session
        self.ends: list[float] = []  # seconds from the last step of each epoch to the epoch's end
        self._steps = self._session = 0
        self._before = self._begin = self._mark = 0.0

    def attach(self, engine: Any) -> None:
        """Attach to a trainer after its other handlers."""
        self.progress.parameters = sum(p.numel() for p in engine.network.parameters() if p.requires_grad)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED | Events.TERMINATE, self._finish)

    @property
    def used(self) -> float:
        """The seconds that the training has taken so far."""
        return self._before + self.clock() - self._begin

    @property
    def _over(self) -> bool:
        return self.budget is not None and self.used >= self.budget

    def _start(self, engine: Engine) -> None:
        done = min(engine.state.epoch, len(self.progress.seconds))  # a checkpoint may be one epoch ahead
        self.progress.seconds, self.progress.steps = self.progress.seconds[:done], self.progress.steps[:done]
        self.progress.epochs = engine.state.max_epochs or 0
        self._before = self.progress.seconds[-1] if done else 0.0
        self._steps = self.progress.steps[-1] if done else 0
        self._begin = self.clock()
        self._end_if_over(engine)

    def _end_if_over(self, engine: Engine) -> None:
        if self._over and engine.state.epoch < self.progress.epochs:
            self.progress.stopped = True
            engine.terminate()

    def _start_epoch(self, engine: Engine) -> None:
        self._mark = self.clock()

    def _count(self, engine: Engine) -> None:
        self._steps += 1
        self._session += 1
        last = engine.state.iteration % (engine.state.epoch_length or 1) == 0
        if (self.every_step or last or self._session == WARM_UP) and _on_gpu(engine):
            torch.cuda.synchronize()  # steps are only started, so a time without waiting is not that of the steps
        now = self.clock()
        if self._session > WARM_UP:
            self.durations.append(now - self._mark)
            self.progress.measured_seconds += now - self._mark
            self.progress.measured_steps += 1
        self._mark = now
        if self._over and not last:
            self.progress.stopped = True
            engine.terminate_epoch()

    def _end_epoch(self, engine: Engine) -> None:
        self.ends.append(self.clock() - self._mark)
        self.progress.seconds.append(self.used)
        self.progress.steps.append(self._steps)
        self._end_if_over(engine)
        self._save()

    def _finish(self, engine: Engine) -> None:
        self.progress.finished = True
        self._save()

    def _save(self) -> None:
        most, self.progress.memory_of = peak_memory()
        self.progress.peak_memory = max(most, self.progress.peak_memory)
        self.progress.write(self.file)


def _on_gpu(engine: Engine) -> bool:
    return getattr(getattr(engine.state, "device", None), "type", "cpu") == "cuda"


class WatchedTrainer(Trainer):
    """The recipe's trainer with the process's watch; the arguments are those of the recipe's."""

    #: The watch of the training that this process runs.
    watch: RunWatch | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.watch is not None:
            self.watch.attach(self)


def watched(watch: RunWatch) -> dict[str, str]:
    """Return the settings of the workflow train with which a watch measures it.

    Args:
        watch: The watch; it replaces an earlier one of this process.
    """
    WatchedTrainer.watch = watch
    return {"train::trainer::_target_": f"{__name__}.{WatchedTrainer.__name__}"}
