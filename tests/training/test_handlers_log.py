"""The table of a training."""

import csv
import logging

import pytest
import torch
from handler_helpers import Scripted, make_evaluator, make_trainer
from ignite.engine import Engine, Events
from monai.handlers import LrScheduleHandler, ValidationHandler
from torch import nn

from mednextv2.training import TrainingLog, warmup_poly


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def logged(folder, epochs=4, interval=2, before=None, **metrics):
    """Train with validation at intervals and the handlers in the order of the bundle."""
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    evaluator = make_evaluator(**metrics) if metrics else None
    handlers = [
        *([ValidationHandler(interval, evaluator)] if evaluator else []),
        TrainingLog(folder, optimizer, evaluator),
        LrScheduleHandler(warmup_poly(optimizer, epochs, power=1.0), print_lr=False),
    ]
    losses = []
    trainer = make_trainer(network, optimizer, handlers, epochs)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output[0]["loss"])))
    if before is not None:
        before(trainer)
    trainer.run()
    return read_csv(folder / "training_log.csv"), losses


def test_log_has_a_row_an_epoch_with_loss_and_learning_rate(tmp_path):
    rows, losses = logged(tmp_path)
    assert list(rows[0]) == ["epoch", "learning_rate", "train_loss", "steps", "seconds"]
    assert [r["epoch"] for r in rows] == ["1", "2", "3", "4"]
    assert [float(r["learning_rate"]) for r in rows] == pytest.approx([1, 0.75, 0.5, 0.25])  # that the epoch ran with
    means = [sum(losses[i : i + 2]) / 2 for i in (0, 2, 4, 6)]
    assert [float(r["train_loss"]) for r in rows] == pytest.approx(means)
    assert [p.name for p in tmp_path.iterdir()] == ["training_log.csv"]


def test_steps_and_seconds_count_on_after_a_resume(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr("mednextv2.training.handlers.time.monotonic", lambda: float(next(clock)))
    before, _ = logged(tmp_path, epochs=2)
    assert [r["steps"] for r in before] == ["2", "4"]
    spent = [float(r["seconds"]) for r in before]
    assert 0 < spent[0] < spent[1]

    def resume(trainer):
        def go_on(engine):
            engine.state.epoch, engine.state.iteration = 2, 4

        trainer.add_event_handler(Events.STARTED, go_on)

    rows, _ = logged(tmp_path, epochs=4, before=resume)
    assert [r["steps"] for r in rows] == ["2", "4", "6", "8"]
    assert [float(r["seconds"]) for r in rows[:2]] == spent
    assert [float(r["seconds"]) - spent[1] for r in rows[2:]] == spent  # the second session took as long as the first


def test_the_time_of_a_log_without_it_is_not_guessed(tmp_path):
    (tmp_path / "training_log.csv").write_text("epoch,learning_rate,train_loss\n1,9,9\n")

    def resume(trainer):
        def go_on(engine):
            engine.state.epoch, engine.state.iteration = 1, 2

        trainer.add_event_handler(Events.STARTED, go_on)

    rows, _ = logged(tmp_path, epochs=3, before=resume)
    assert [r["seconds"] for r in rows] == ["", "", ""]
    assert [r["steps"] for r in rows] == ["", "4", "6"]


def test_loss_and_learning_rate_become_metrics_for_later_handlers(tmp_path):
    seen = []

    def look(trainer):
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(dict(e.state.metrics)))

    rows, _ = logged(tmp_path, before=look)
    assert seen == [{n: float(r[n]) for n in ("train_loss", "learning_rate")} for r in rows]


def test_scores_are_in_the_rows_of_the_epochs_that_were_validated(tmp_path):
    rows, _ = logged(tmp_path, val_mean_dice=Scripted(0.5, 0.7), val_dice_a=Scripted(0.4, 0.8))
    assert list(rows[0]) == ["epoch", "learning_rate", "train_loss", "steps", "seconds", "val_mean_dice", "val_dice_a"]
    assert [r["val_mean_dice"] for r in rows] == ["", "0.5", "", "0.7"]
    assert [r["val_dice_a"] for r in rows] == ["", "0.4", "", "0.8"]


def test_table_is_whole_after_every_epoch(tmp_path):
    counts = []

    def count(trainer):
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda _: counts.append(len(read_csv(tmp_path / "training_log.csv")))
        )

    logged(tmp_path, before=count)
    assert counts == [1, 2, 3, 4]


def test_table_of_an_older_training_does_not_stay(tmp_path):
    (tmp_path / "training_log.csv").write_text("epoch,learning_rate,train_loss\n1,9,9\n9,9,9\n")
    rows, _ = logged(tmp_path, epochs=2)
    assert [r["epoch"] for r in rows] == ["1", "2"]


def test_one_line_an_epoch_goes_to_the_log(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "mednextv2"):
        logged(tmp_path, epochs=2, val_mean_dice=Scripted(0.54321))
    first, second = (r.getMessage() for r in caplog.records if r.name.startswith("mednextv2"))
    assert first.startswith("epoch 1/2  loss ")
    assert "val_mean_dice" not in first
    assert second.startswith("epoch 2/2  loss ")
    assert second.endswith("val_mean_dice 0.5432")


def test_line_of_many_structures_has_the_lowest_only_and_the_table_has_all(tmp_path, caplog):
    scores = {f"val_dice_rib_{i}": Scripted(0.9 - i / 100) for i in range(10)}
    scores["val_dice_liver"] = Scripted(float("nan"))
    with caplog.at_level(logging.INFO, "mednextv2"):
        rows, _ = logged(tmp_path, epochs=2, val_mean_dice=Scripted(0.5), **scores)
    line = [r.getMessage() for r in caplog.records if r.name.startswith("mednextv2")][1]
    assert line.endswith("val_mean_dice 0.5000  10 of 11 structures scored  lowest val_dice_rib_9 0.8100")
    assert float(rows[1]["val_dice_rib_3"]) == pytest.approx(0.87)
    assert rows[1]["val_dice_liver"] == "nan"


def test_log_of_steps_without_a_loss_is_refused():
    network, evaluator = nn.Linear(3, 1), make_evaluator(dice=Scripted(0.5))
    TrainingLog(".", torch.optim.SGD(network.parameters(), lr=1.0)).attach(evaluator)
    with pytest.raises(ValueError, match="no loss in its output"):
        evaluator.run()


def test_log_counts_no_steps_of_an_earlier_epoch():
    engine = Engine(lambda engine, batch: {"loss": batch})
    network = nn.Linear(1, 1)
    log = TrainingLog(".", torch.optim.SGD(network.parameters(), lr=1.0))
    rows = []
    log._append = rows.append
    log.attach(engine)
    engine.run([1.0, 3.0], max_epochs=2)
    assert [r["train_loss"] for r in rows] == [2.0, 2.0]
