import csv
import importlib.util
import logging
import sys
import time

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from torch import nn
from tqdm import tqdm

from mednextv2.training import (
    EarlyStopping,
    GradientClipping,
    Progress,
    TrainingLog,
    step_loss,
    tensorboard_available,
    warmup_poly,
)


class Scripted(Metric):
    """A metric whose values were written before."""

    def __init__(self, *values):
        self.values = iter(values)
        super().__init__()

    def reset(self):
        pass

    def update(self, output):
        pass

    def compute(self):
        return next(self.values)


def batches(count, scale=1.0):
    return [{"image": scale * torch.randn(2, 3), "label": scale * torch.randn(2, 1)} for _ in range(count)]


def make_trainer(network, optimizer, handlers, epochs=1, data=None, **settings):
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=batches(2) if data is None else data,
        network=network,
        optimizer=optimizer,
        loss_function=nn.MSELoss(),
        train_handlers=handlers,
        **settings,
    )


def make_evaluator(**metrics):
    first, *rest = metrics
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches(1),
        network=nn.Linear(3, 1),
        key_val_metric={first: metrics[first]},
        additional_metrics={name: metrics[name] for name in rest},
    )


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


# --- GradientClipping ------------------------------------------------------------------------------------------------


def one_step(max_norm, scale, amp=False):
    """Train one step of plain gradient descent at rate 1: the change of the weights is the gradient."""
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    handlers = [GradientClipping(network, optimizer, max_norm)] if max_norm else []
    make_trainer(network, optimizer, handlers, data=batches(1, scale), amp=amp).run()
    return nn.utils.parameters_to_vector(network.parameters()).detach() - before


@pytest.mark.parametrize("max_norm", [0.5, 12.0])
def test_large_gradients_are_clipped_to_the_largest_norm(max_norm):
    free, clipped = one_step(None, 100.0), one_step(max_norm, 100.0)
    assert free.norm() > 1000
    assert clipped.norm().item() == pytest.approx(max_norm, rel=1e-4)
    assert torch.allclose(clipped / clipped.norm(), free / free.norm(), atol=1e-5)  # the direction stays


def test_small_gradients_stay_as_they_are():
    free, clipped = one_step(None, 0.1), one_step(12.0, 0.1)
    assert 0 < free.norm() < 12
    assert torch.equal(free, clipped)


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_scaled_gradients_of_half_precision_are_unscaled_before_they_are_clipped(monkeypatch, scale):
    expected = one_step(12.0, scale)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: scaler)
    assert torch.allclose(one_step(12.0, scale, amp=True), expected, atol=1e-5)
    assert scaler.get_scale() == 1024.0


# --- Progress --------------------------------------------------------------------------------------------------------


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


# --- TrainingLog -----------------------------------------------------------------------------------------------------


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
    assert list(rows[0]) == ["epoch", "learning_rate", "train_loss"]
    assert [r["epoch"] for r in rows] == ["1", "2", "3", "4"]
    assert [float(r["learning_rate"]) for r in rows] == pytest.approx([1, 0.75, 0.5, 0.25])  # that the epoch ran with
    means = [sum(losses[i : i + 2]) / 2 for i in (0, 2, 4, 6)]
    assert [float(r["train_loss"]) for r in rows] == pytest.approx(means)
    assert [p.name for p in tmp_path.iterdir()] == ["training_log.csv"]


def test_loss_and_learning_rate_become_metrics_for_later_handlers(tmp_path):
    seen = []

    def look(trainer):
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(dict(e.state.metrics)))

    rows, _ = logged(tmp_path, before=look)
    assert seen == [{n: float(r[n]) for n in ("train_loss", "learning_rate")} for r in rows]


def test_scores_are_in_the_rows_of_the_epochs_that_were_validated(tmp_path):
    rows, _ = logged(tmp_path, val_mean_dice=Scripted(0.5, 0.7), val_dice_a=Scripted(0.4, 0.8))
    assert list(rows[0]) == ["epoch", "learning_rate", "train_loss", "val_mean_dice", "val_dice_a"]
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


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def pretend(monkeypatch, tmp_path, *modules):
    """Make Python find these modules, `name=its code`, before those that are installed, and none that was imported."""
    for module in modules:
        name, code = module.split("=", 1)
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)


def test_missing_tensorboard_is_said_with_the_remedy(monkeypatch, caplog):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else real(name))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # its import fails, as without the package
    with caplog.at_level(logging.WARNING, "mednextv2"):
        assert tensorboard_available() is False
    assert "it is not installed: pip install tensorboard." in caplog.text


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ModuleNotFoundError('No module named google')", "ModuleNotFoundError: No module named google"),
        ("raise TypeError('old')", "TypeError: old"),
        ("__version__ = '1.0'", "requires TensorBoard version 1.15 or above"),
    ],
)
def test_broken_tensorboard_is_said_with_the_reason(monkeypatch, caplog, tmp_path, code, reason):
    pretend(monkeypatch, tmp_path, f"tensorboard={code}")
    with caplog.at_level(logging.WARNING, "mednextv2"):
        assert tensorboard_available() is False
    assert "it cannot be imported" in caplog.text
    assert reason in caplog.text
    assert "pip install --force-reinstall tensorboard" in caplog.text


def test_tensorboard_is_found(caplog):
    assert tensorboard_available() is True
    assert caplog.text == ""


# --- EarlyStopping and the loss of a step ----------------------------------------------------------------------------


def epochs_of_a_training(patience, *scores):
    """How many epochs a training takes whose validations score like this."""
    network = nn.Linear(3, 1)
    evaluator = make_evaluator(score=Scripted(*scores))
    handlers = [ValidationHandler(validator=evaluator, interval=1), EarlyStopping(evaluator, patience)]
    trainer = make_trainer(network, torch.optim.SGD(network.parameters(), lr=0.0), handlers, epochs=len(scores))
    trainer.run()
    return trainer.state.epoch


def test_training_ends_so_many_epochs_after_the_best_validation():
    assert epochs_of_a_training(2, 0.1, 0.5, 0.4, 0.4, 0.6, 0.7) == 4
    assert epochs_of_a_training(3, 0.1, 0.5, 0.4, 0.4, 0.6, 0.5) == 6


def test_training_goes_on_without_patience():
    assert epochs_of_a_training(0, 0.5, 0.1, 0.1, 0.1, 0.1) == 5


def test_loss_of_a_step_is_found_in_every_form_of_output():
    loss = torch.tensor(0.5, requires_grad=True)
    for output in ({"loss": loss}, [{"loss": loss}, {"loss": loss}]):
        assert isinstance(step_loss(output), torch.Tensor)  # not read
        assert step_loss(output) == 0.5
        assert not step_loss(output).requires_grad
    assert step_loss({"loss": 0.5}) == 0.5
    assert step_loss({"pred": loss}) is None
    assert step_loss([]) is None
    assert step_loss(None) is None
