"""The bar that shows the progress of a training or an evaluation."""

import sys
import time

import pytest
import torch
from handler_helpers import Scripted, batches, make_evaluator, make_trainer
from ignite.engine import Events
from torch import nn
from tqdm import tqdm

from mednextv2.training import Progress


def train(handlers, epochs=2, data=None, before=None):
    network = nn.Linear(3, 1)
    trainer = make_trainer(network, torch.optim.SGD(network.parameters(), lr=0.01), handlers, epochs, data)
    if before is not None:
        before(trainer)
    trainer.run()


def test_progress_counts_all_steps_and_shows_epoch_and_loss(capsys):
    progress = Progress("training")
    train([progress])
    last = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("training: 100%")
    assert " 4/4 " in last
    assert "epoch 2/2, loss " in last
    assert progress.bar is None


class Endless:
    """Two batches an epoch, which nothing says beforehand."""

    def __iter__(self):
        return iter(batches(2))


def test_progress_counts_the_steps_of_a_loader_that_has_no_length(capsys):
    train([Progress("training")], epochs=2, data=Endless())
    last = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("training: 4step")
    assert "epoch 2/2, loss " in last


def read_at(monkeypatch, *times):
    """The iterations at which the loss is read, of steps that end at these seconds."""
    found, now = [], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    read = Progress._describe

    def describe(self, bar, state):
        found.append(state.iteration)
        read(self, bar, state)

    monkeypatch.setattr(Progress, "_describe", describe)

    def wait(trainer):
        trainer.add_event_handler(Events.ITERATION_STARTED, lambda e: now.__setitem__(0, times[e.state.iteration - 1]))

    train([Progress("training")], epochs=len(times) // 2, before=wait)
    return found


def test_progress_reads_the_loss_no_more_often_than_the_bar_is_drawn(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert read_at(monkeypatch, 0, 0.3, 0.6, 0.9, 1.2, 1.5, 2.1, 2.3, 2.4, 2.5) == [1, 5, 8, 10]  # and at the end
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert read_at(monkeypatch, 0, 1, 2, 19, 20, 21) == [1, 5, 6]


class Failing:
    """Two batches an epoch; the third of all fails."""

    def __init__(self, error):
        self.error, self.rest = error, 2

    def __len__(self):
        return 2

    def __iter__(self):
        for batch in batches(2):
            if self.rest == 0:
                raise self.error
            self.rest -= 1
            yield batch


@pytest.mark.parametrize("error", [ZeroDivisionError("third batch"), KeyboardInterrupt()])
def test_progress_closes_and_raises_again_what_went_wrong(error):
    progress, bars = Progress("training"), []

    def remember(trainer):
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: bars.append(progress.bar))

    with pytest.raises(type(error)) as caught:
        train([progress], data=Failing(error), before=remember)
    assert caught.value is error
    assert isinstance(bars[0], tqdm)
    assert bars[0].n == 2
    assert bars[0].disable  # how tqdm marks a closed bar
    assert progress.bar is None


def test_progress_raises_what_a_handler_raises_before_the_first_step():
    def stop(engine):
        raise ValueError("no such weights")

    def add(trainer):
        trainer.add_event_handler(Events.STARTED, stop)

    with pytest.raises(ValueError, match="no such weights"):
        train([Progress("training")], before=add)


def test_progress_of_a_resumed_run_starts_where_it_was():
    progress, shown = Progress("training"), []

    def resume(trainer):
        def load(engine):
            engine.state.epoch, engine.state.iteration = 1, 2

        trainer.add_event_handler(Events.STARTED, load)
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda _: shown.append((progress.bar.n, progress.bar.initial))
        )

    train([progress], epochs=3, before=resume)
    assert shown == [(3, 2), (4, 2), (5, 2), (6, 2)]


def test_progress_of_an_evaluator_counts_cases(capsys):
    evaluator = make_evaluator(score=Scripted(0.5))
    Progress("evaluating", unit="case").attach(evaluator)
    evaluator.run()
    text = capsys.readouterr().err
    assert "evaluating: 100%" in text
    assert "1/1" in text
    assert "case" in text
    assert "epoch" not in text
