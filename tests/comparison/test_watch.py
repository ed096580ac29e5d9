import math
from pydoc import locate

import pytest
import torch
from ignite.engine import Engine, Events

from mednextv2.comparison.watch import Progress, RunWatch, WatchedTrainer, read_progress, watched


class Clock:
    """A clock that steps advance."""

    now = 100.0

    def __call__(self):
        return self.now


def make(file, budget=None, step=1.0, epoch_end=2.0):
    clock = Clock()
    engine = Engine(lambda engine, batch: setattr(clock, "now", clock.now + step))
    engine.network = torch.nn.Linear(3, 2)
    engine.network.bias.requires_grad_(False)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: setattr(clock, "now", clock.now + epoch_end))
    watch = RunWatch(file, budget, clock)
    watch.attach(engine)
    return engine, watch


def test_a_training_is_measured(tmp_path):
    engine, watch = make(tmp_path / "progress.json")
    engine.run(range(5), max_epochs=2)
    progress = read_progress(tmp_path / "progress.json")
    assert progress == watch.progress
    assert (progress.seconds, progress.steps, progress.epochs) == ([7.0, 14.0], [5, 10], 2)
    assert (progress.measured_steps, progress.step_seconds) == (7, 1.0)  # not the first three
    assert progress.parameters == 6
    assert progress.peak_memory > 2**20
    assert (progress.finished, progress.stopped) == (True, False)
    assert watch.ends == [2.0, 2.0]


@pytest.mark.parametrize(
    ("budget", "seconds", "steps"), [(10.5, [7.0, 13.0], [5, 9]), (7.0, [7.0], [5]), (3.0, [5.0], [3])]
)
def test_a_training_ends_when_its_time_is_over(budget, seconds, steps, tmp_path):
    """The step and the epoch in which the time runs out are completed, with the epoch's validation."""
    engine, watch = make(tmp_path / "progress.json", budget)
    engine.run(range(5), max_epochs=10)
    assert (watch.progress.seconds, watch.progress.steps) == (seconds, steps)
    assert watch.progress.finished
    assert watch.progress.stopped


def test_a_training_that_takes_as_long_as_it_may_is_complete(tmp_path):
    engine, watch = make(tmp_path / "progress.json", 13.0)
    engine.run(range(5), max_epochs=2)
    assert watch.progress.steps == [5, 10]
    assert not watch.progress.stopped


def test_a_training_goes_on_with_the_time_that_it_has_left(tmp_path):
    file = tmp_path / "progress.json"
    engine, first = make(file, 30.0)
    engine.add_event_handler(Events.ITERATION_STARTED(once=8), lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        engine.run(range(5), max_epochs=10)
    assert not first.progress.finished
    assert read_progress(file).steps == [5]
    engine, watch = make(file, 30.0)
    engine.state.epoch, engine.state.max_epochs, engine.state.epoch_length, engine.state.iteration = 1, 10, 5, 5
    engine.run(range(5))
    assert watch.progress.seconds == [7.0, 14.0, 21.0, 28.0, 32.0]  # the lost steps of epoch 2 cost nothing
    assert watch.progress.steps == [5, 10, 15, 20, 22]


def test_a_checkpoint_that_is_older_than_the_progress_counts(tmp_path):
    file = tmp_path / "progress.json"
    Progress([7.0, 14.0, 21.0], [5, 10, 15], 10).write(file)
    _, watch = make(file, 30.0)
    watch._start(type("E", (), {"state": type("S", (), {"epoch": 2, "max_epochs": 10})()})())
    assert (watch.progress.seconds, watch.progress.steps, watch.used) == ([7.0, 14.0], [5, 10], 14.0)


def test_without_time_left_no_step_is_made(tmp_path):
    file = tmp_path / "progress.json"
    Progress([31.0], [5], 10).write(file)
    engine, watch = make(file, 30.0)
    engine.state.epoch, engine.state.max_epochs, engine.state.epoch_length, engine.state.iteration = 1, 10, 5, 5
    engine.run(range(5))
    assert watch.progress.steps == [5]
    assert watch.progress.finished


@pytest.mark.parametrize(("every_step", "waits"), [(False, [3, 5, 10]), (True, [*range(1, 11)])])
def test_a_gpu_is_waited_for(every_step, waits, tmp_path, monkeypatch):
    engine, watch = make(tmp_path / "progress.json")
    watch.every_step = every_step
    found = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: found.append(engine.state.iteration))
    engine.state.device = torch.device("cuda")
    engine.run(range(5), max_epochs=2)
    assert found == waits
    assert watch.durations == [1.0] * 7


def test_nothing_was_measured_at_first(tmp_path):
    assert math.isnan(read_progress(tmp_path / "none.json").step_seconds)


def test_the_workflow_takes_the_trainer_by_its_name():
    (path,) = watched(watch := RunWatch.__new__(RunWatch)).values()
    assert locate(path) is WatchedTrainer
    assert WatchedTrainer.watch is watch
    WatchedTrainer.watch = None
