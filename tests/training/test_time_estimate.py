"""The time that a training will take."""

import logging

import pytest
from ignite.engine import Engine

from mednextv2.training.time_estimate import TimeEstimate, duration


def train(device, seconds, epochs, length, caplog):
    """Run an engine whose steps take these seconds by the estimate's clock, the first three ten times as long."""
    now = [0.0]

    def step(engine, batch):
        now[0] += seconds * (10 if engine.state.iteration <= 3 else 1)

    engine = Engine(step)
    TimeEstimate(device, lambda: now[0]).attach(engine)
    caplog.set_level(logging.INFO, "mednextv2")
    caplog.clear()
    engine.run(range(length), max_epochs=epochs, epoch_length=length)
    return [record.message for record in caplog.records if record.name == "mednextv2.training.time_estimate"]


def test_the_steps_that_are_left_are_counted_without_the_first(caplog):
    assert train("cuda", 0.5, 10, 40, caplog) == [
        "The training will take about 3 minutes: 377 steps left, 0.5 s each"  # 400 - 23 steps, 188 s
    ]


def test_on_a_cpu_an_hour_is_offered_for_what_would_take_days(caplog):
    first, second = train("cpu", 8.0, 10, 300, caplog)
    assert first == "The training will take about 7 hours: 2977 steps left, 8 s each"
    assert second.startswith("On this CPU, a training of about an hour is --epochs ")
    epochs, steps = (int(word) for word in second.split() if word.isdigit())
    assert epochs * steps * 8 == pytest.approx(3600, rel=0.1)


def test_short_trainings_are_not_commented(caplog):
    assert train("cpu", 100.0, 2, 30, caplog) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "1 second"), (59, "59 seconds"), (600, "10 minutes"), (5300, "88 minutes"), (190_800, "53 hours"),
     (864_000, "10 days")],
)  # fmt: skip
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text
