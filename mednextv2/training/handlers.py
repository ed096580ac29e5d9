"""Event handlers for MONAI's trainer: progress, a table of scores, gradient clipping."""

import csv
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events, State
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from mednextv2.distributed import is_main_process
from mednextv2.errors import InputError
from mednextv2.paths import expand, writing
from mednextv2.scores.results_json import LOG_NAME
from mednextv2.training.engine import workflow_state
from mednextv2.training.finetuning import NewLayersFirst

logger = logging.getLogger(__name__)

#: With what the names of the structures' scores begin among the metrics of a validation.
_STRUCTURE = "val_dice_"
_SHOWN_STRUCTURES = 10  # in the line of an epoch


def step_loss(output: Any) -> torch.Tensor | float | None:
    """Return the loss of a training step, or None if there is none, as in an evaluation.

    It stays on its device: reading a number from a GPU means waiting for everything that was started there.

    Args:
        output: The output of a MONAI engine: a dict, or the list of dicts into which it was decollated.
    """
    output = output[0] if isinstance(output, (list, tuple)) and output else output
    loss = output.get("loss") if isinstance(output, dict) else None
    return loss.detach() if isinstance(loss, torch.Tensor) else loss


class GradientClipping:
    """Clip the gradients to a maximum L2 norm before each optimizer step.

    Args:
        network: The network whose gradients are clipped.
        optimizer: The trainer's optimizer, which is needed to unscale half-precision gradients first.
        max_norm: The maximum norm; nnU-Net and MedNeXt use 12.
        new_layers: What drops the gradients of the other layers in the first epochs of a fine-tuning, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        max_norm: float = 12.0,
        new_layers: NewLayersFirst | None = None,
    ) -> None:
        self.parameters, self.optimizer, self.max_norm = list(network.parameters()), optimizer, max_norm
        self.new_layers = new_layers

    def attach(self, engine: Engine) -> None:
        """Attach to MONAI's SupervisedTrainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: Engine) -> None:
        if self.new_layers is not None:
            self.new_layers.prepare_step(engine.state.epoch, self.optimizer)
        scaler = getattr(engine, "scaler", None)  # MONAI's trainer has one
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)


def _steps(state: State) -> int:
    return (state.epoch_length or 0) * (state.max_epochs or 1)


class Progress:
    """Show one bar for the whole run with the remaining time, or without a terminal an occasional line.

    The loss is read once a second at most, because reading it means waiting for the GPU.

    Args:
        description: The text in front of the bar.
        unit: The name of what is counted.
    """

    def __init__(self, description: str, unit: str = "step") -> None:
        self.description, self.unit = description, unit
        self.bar: tqdm | None = None
        self._begin: int | None = None
        self._next = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer or an evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _start(self, engine: Engine) -> None:
        if not is_main_process():
            return
        state = engine.state
        self.bar = tqdm(
            total=_steps(state),
            desc=self.description,
            unit=self.unit,
            mininterval=1 if sys.stderr.isatty() else 20,
            dynamic_ncols=True,
        )
        self._begin, self._next = None, 0.0

    def _advance(self, engine: Engine) -> None:
        if self.bar is None:
            return
        state = engine.state
        if self._begin is None:  # after a resume, it is known only now
            self.bar.initial = self.bar.n = self._begin = state.iteration - 1
        if time.monotonic() >= self._next or state.iteration == _steps(state):
            self._next = time.monotonic() + self.bar.mininterval
            self._describe(self.bar, state)
        self.bar.update(1)

    def _describe(self, bar: tqdm, state: State) -> None:
        loss = step_loss(state.output)
        epoch = f"epoch {state.epoch}/{state.max_epochs}" if (state.max_epochs or 1) > 1 else ""
        text = ", ".join(t for t in (epoch, f"loss {float(loss):.3f}" if loss is not None else "") if t)
        if text:
            bar.set_postfix_str(text, refresh=False)

    def _close(self, engine: Engine) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _fail(self, engine: Engine, error: Exception) -> None:
        self._close(engine)
        raise error


class EarlyStopping:
    """End the training when the validation has not improved for a number of epochs.

    Args:
        evaluator: The validation engine, whose key metric counts.
        patience: The number of epochs; 0 never ends the training.
    """

    def __init__(self, evaluator: Engine, patience: int) -> None:
        self.evaluator, self.patience = evaluator, patience

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after the validation handler."""
        if self.patience:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop)

    def _stop(self, engine: Engine) -> None:
        best = workflow_state(self.evaluator).best_metric_epoch
        if best > 0 and engine.state.epoch - best >= self.patience:
            logger.info(
                "Training ends after epoch %d: the best validation was %d epochs ago", engine.state.epoch, self.patience
            )
            engine.terminate()


def _scores_in_words(scores: Mapping[str, float]) -> str:
    """Return the scores of a validation for one line; of many structures, it has a count and the lowest only."""
    structures = [name for name in scores if name.startswith(_STRUCTURE)]
    if len(structures) <= _SHOWN_STRUCTURES:
        return "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    words = [f"{name} {value:.4f}" for name, value in scores.items() if name not in structures]
    scored = {name: scores[name] for name in structures if math.isfinite(scores[name])}
    words.append(f"{len(scored)} of {len(structures)} structures scored")
    if scored:
        worst = min(scored, key=scored.__getitem__)
        words.append(f"lowest {worst} {scored[worst]:.4f}")
    return "  ".join(words)


class TrainingLog:
    """Write one row an epoch to `training_log.csv`, and one line to the log: loss, learning rate, Dice of each class.

    With more than ten classes, the line has only their mean and the lowest; the table has all.

    A row also has the number of steps and the seconds of training so far, with validations and with the sessions before
    a resume; the seconds are empty if a log without them is continued.

    The loss of the steps is added up on their device. Its mean and the learning rate become the engine's metrics, for
    handlers that come after.

    Args:
        output_dir: Folder of the table; a resumed run keeps the rows of earlier epochs.
        optimizer: The optimizer, whose learning rate is written.
        evaluator: The validation engine, whose metrics become columns.
    """

    def __init__(self, output_dir: str | os.PathLike, optimizer: Optimizer, evaluator: Engine | None = None) -> None:
        self.file = expand(output_dir) / LOG_NAME
        self.optimizer, self.evaluator = optimizer, evaluator
        self.loss_sum: torch.Tensor | float = 0.0
        self.steps, self.validated = 0, False
        self._begin = time.monotonic()
        self._before: float | None = None  # seconds of earlier sessions; NaN if their log does not have them

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after the validation handler and before the schedule's."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._mark)

    def _start(self, engine: Engine) -> None:
        self._begin, self._before = time.monotonic(), None

    def _mark(self, engine: Engine) -> None:
        self.validated = True

    def _add(self, engine: Engine) -> None:
        loss = step_loss(engine.state.output)
        if loss is None:
            raise ValueError("TrainingLog: a step has no loss in its output; attach it to a trainer")
        self.loss_sum += loss
        self.steps += 1

    def _write(self, engine: Engine) -> None:
        row = {
            "epoch": engine.state.epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": float(self.loss_sum) / max(self.steps, 1),
        }
        if not math.isfinite(row["train_loss"]):  # before the checkpoint of this epoch is written
            raise InputError(
                f"learning_rate {self.optimizer.param_groups[0]['lr']:g}: the loss is {row['train_loss']} in epoch "
                f"{row['epoch']}; start again with a lower one. {self.file.parent} holds the epochs before"
            )
        metrics = self.evaluator.state.metrics if self.evaluator is not None and self.validated else {}
        self.loss_sum, self.steps, self.validated = 0.0, 0, False
        engine.state.metrics |= {name: row[name] for name in ("train_loss", "learning_rate")}
        if not is_main_process():
            return
        row |= {"steps": engine.state.iteration, "seconds": time.monotonic() - self._begin}
        row |= {name: float(value) for name, value in metrics.items()}
        self._append(row)
        scores = _scores_in_words({name: value for name, value in row.items() if name in metrics})
        logger.info(
            "epoch %d/%d  loss %.4f  lr %.2e  %s",
            row["epoch"],
            engine.state.max_epochs,
            row["train_loss"],
            row["learning_rate"],
            scores,
        )

    def _append(self, row: dict) -> None:
        rows = []
        if self.file.exists():
            with self.file.open(newline="", encoding="utf-8") as f:
                rows = [r for r in csv.DictReader(f) if int(r["epoch"]) < row["epoch"]]
        if self._before is None:
            self._before = _number(rows[-1].get("seconds")) if rows else 0.0
        total = self._before + row["seconds"]
        row["seconds"] = "" if math.isnan(total) else round(total, 3)
        columns = list(dict.fromkeys([*(rows[0] if rows else []), *row]))  # epochs without validation have fewer
        with writing(self.file) as temporary, temporary.open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, columns, restval="")
            writer.writeheader()
            writer.writerows([*rows, row])


def _number(text: str | None) -> float:
    """Return the number in a cell of the table, or NaN."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
