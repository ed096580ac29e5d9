"""Checkpoints of a training run: the best weights, and everything that a killed run needs to continue."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mednextv2.distributed import is_main_process, process_rank
from mednextv2.errors import InputError
from mednextv2.paths import expand, writing
from mednextv2.scores.results_json import LOG_NAME
from mednextv2.training.checkpoint_content import (
    ANEW,
    LATEST_NAME,
    PREVIOUS_NAME,
    case_names,
    check_optimizer_name,
    check_optimizer_state,
    check_state,
    find_optimizer_name,
    read_checkpoint,
)
from mednextv2.training.engine import workflow_state
from mednextv2.training.preflight import keep_previous
from mednextv2.version import __version__
from mednextv2.weights.files import digest_file, save_file
from mednextv2.weights.pretrained import load_pretrained
from mednextv2.weights.pretrained_report import REPORT_NAME, PretrainedReport
from mednextv2.weights.provenance import PRETRAINED, origin, read_about
from mednextv2.weights.safetensors_file import ENDING

logger = logging.getLogger(__name__)


class TrainingCheckpoint:
    """Save `checkpoint_latest.pt` after every epoch and `model.pt` at every best validation; resume from the former.

    Both files are replaced in one step, so at any moment a kill leaves a complete file; the checkpoint of the epoch
    before stays as `checkpoint_previous.pt`. A run that is started again with the same `output_dir` continues after the
    last finished epoch, with the same optimizer, schedule and best score.

    Weights that were set after this object was made are kept, and nothing is resumed: a server of federated learning
    gives each round its weights (see docs/federated.md).

    Args:
        output_dir: Folder of both files.
        network: The network, also when wrapped in DistributedDataParallel.
        optimizer: The optimizer, whose state is saved and restored.
        lr_scheduler: The schedule, whose state is saved and restored.
        evaluator: The validation engine; its key metric decides which weights are the best.
        resume: Continue from `checkpoint_latest.pt` if it exists. If False, an older run's files are kept under
            another name.
        pretrained: A file with weights to start from when there is nothing to resume: see
            :func:`mednextv2.weights.load_pretrained`. Its report is saved beside the checkpoint as
            `pretrained_report.csv`, with a line for each tensor.
        in_channels: The number of the network's input channels.
        out_channels: The number of the network's outputs.
        part: The part of the network whose weights `model.pt` contains, and which takes the pretrained weights, such as
            the ordinary network inside an autoencoder; by default, it is the whole network. Checkpoints contain the
            whole network in any case.
        seed: After a resume, :func:`monai.utils.set_determinism` seeds the random numbers of the process with `seed`,
            the epoch and the rank. If None, they are left as they are.
        cases: The training items. A checkpoint of other cases is not resumed: with another fold, validation cases would
            have been trained on.
        metric: The evaluator's key metric, if it remembers earlier epochs (`state_dict`); its state is saved and
            restored.
        about: What the weights shall record about their training, besides its progress: see
            :meth:`mednextv2.data.Split.about`.
        partial: Whether whatever fits of the pretrained weights is loaded, as of the same function.
        sha256: The checksum that their file must have, as of the same function.
        save_safetensors: Whether the best weights are also saved as `model.safetensors`.
        new_layers: The names of the tensors that the pretrained weights did not fill, which a checkpoint records: see
            :func:`check_start`.

    Raises:
        InputError: When the training starts, if the checkpoint is damaged, or the checkpoint or the pretrained weights
            belong to another network.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        network: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LambdaLR,
        evaluator: Engine | None = None,
        resume: bool = True,
        pretrained: str | os.PathLike | None = None,
        seed: int | None = None,
        cases: Sequence[dict[str, Any]] = (),
        metric: Any = None,
        about: Mapping[str, Any] | None = None,
        in_channels: int | None = None,
        out_channels: int | None = None,
        partial: bool = False,
        sha256: str | None = None,
        save_safetensors: bool = False,
        part: nn.Module | None = None,
        new_layers: Sequence[str] = (),
    ) -> None:
        self.folder = expand(output_dir)
        self.network = getattr(network, "module", network)
        self.part = self.network if part is None else part
        self.optimizer, self.lr_scheduler, self.evaluator = optimizer, lr_scheduler, evaluator
        self.resume, self.pretrained, self.seed = resume, pretrained, seed
        self.cases = case_names(cases)
        self.metric = metric
        self.about = dict(about or {})
        self.channels = in_channels, out_channels
        self.partial, self.sha256 = partial, sha256
        self.save_safetensors = save_safetensors
        self.new_layers = list(new_layers)
        self.epochs: int | None = None
        self._versions = _versions(self.network)

    @property
    def latest(self) -> Path:
        """The file to resume from."""
        return self.folder / LATEST_NAME

    @property
    def best(self) -> Path:
        """The weights of the best validation so far, as a bare state dict."""
        return self.folder / "model.pt"

    @property
    def report(self) -> Path:
        """The table of what was loaded of the pretrained weights."""
        return self.folder / REPORT_NAME

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer. Attach last, so that the schedule and the validation of an epoch come first."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save_latest)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._save_best)

    def _start(self, engine: Engine) -> None:
        self.epochs = engine.state.max_epochs
        if engine.state.iteration:  # a further round of federated learning, with weights from its server
            return
        given = _versions(self.network) != self._versions
        if self.resume and self.latest.is_file():
            if not given:
                self._load(engine, read_checkpoint(self.latest, self.network, self.cases))
                return
            logger.info("%s: not resumed, since the network was given other weights to start from", self.latest)
        report = self._load_pretrained(given) if self.pretrained else None
        if is_main_process():
            for file in (self.best, self.best.with_suffix(ENDING), self.latest, self.folder / LOG_NAME, self.report):
                keep_previous(file)
            self.latest.with_name(PREVIOUS_NAME).unlink(missing_ok=True)
            if report is not None:
                report.save(self.report)

    def _load_pretrained(self, given: bool) -> PretrainedReport | None:
        """Load the weights to start from, unless others were given, and record where the training started."""
        assert self.pretrained is not None
        self.about[PRETRAINED] = origin(self.pretrained)
        if given:
            return None
        labels = self.about.get("labels")
        report = load_pretrained(self.part, self.pretrained, *self.channels, labels, self.partial, self.sha256)
        self.about[PRETRAINED] |= {"sha256": digest_file(self.pretrained), "report": report.as_record()}
        return report

    def _load(self, engine: Engine, content: dict[str, Any]) -> None:
        settings = self.optimizer.param_groups[0]
        check_optimizer_name(self.latest, content, find_optimizer_name(settings))
        shapes = [tuple(weight.shape) for group in self.optimizer.param_groups for weight in group["params"]]
        check_optimizer_state(self.latest, content["optimizer"], shapes, self.optimizer.state_dict())
        scaler = getattr(engine, "scaler", None)  # MONAI's trainer has one
        for name, part in (("lr_scheduler", self.lr_scheduler), ("metric", self.metric), ("scaler", scaler)):
            if part is not None and content.get(name):
                check_state(self.latest, name, part.state_dict(), content[name])
        if content["epoch"] >= engine.state.max_epochs:
            logger.info(
                "%s: this training is finished (%d epochs of %d), so that nothing is left to do; with a larger "
                "--epochs it goes on, and with --resume False it begins anew",
                self.latest, content["epoch"], engine.state.max_epochs,
            )  # fmt: skip
        self.network.load_state_dict(content["model"])
        rates = [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]
        try:
            ways: list[dict[str, Any]] = [
                {k: group[k] for k in ("fused", "foreach") if k in group} for group in self.optimizer.param_groups
            ]
            self.optimizer.load_state_dict(content["optimizer"])
            for group, way in zip(self.optimizer.param_groups, ways, strict=True):
                group.update(way)  # an older file may have other settings for how to compute
            self.lr_scheduler.load_state_dict(content["lr_scheduler"])
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(f"{self.latest}: was trained with another optimizer or schedule ({e}). {ANEW}") from e
        self._set_rates(rates)
        if scaler is not None and content.get("scaler"):
            scaler.load_state_dict(content["scaler"])
        if before := read_about(self.latest).get(PRETRAINED):
            self.about[PRETRAINED] = before
        engine.state.epoch = content["epoch"]
        engine.state.iteration = content["epoch"] * engine.state.epoch_length
        if self.evaluator is not None and content.get("best_metric") is not None:
            validated = workflow_state(self.evaluator)
            validated.best_metric, validated.best_metric_epoch = content["best_metric"], content["best_metric_epoch"]
        if self.metric is not None and content.get("metric") is not None:
            self.metric.load_state_dict(content["metric"])
        if self.seed is not None:
            # new random numbers, different in each process, since otherwise all processes would draw the same patches
            set_determinism(self.seed + content["epoch"] + 10_000 * process_rank())
        if content["epoch"] < engine.state.max_epochs:
            logger.info("Resuming after epoch %d of %s", content["epoch"], self.latest)

    def _set_rates(self, rates: list[float]) -> None:
        """Let the schedule continue from its epoch with the learning rate and the length that are configured now."""
        self.lr_scheduler.base_lrs = [*rates]
        factors = [function(self.lr_scheduler.last_epoch) for function in self.lr_scheduler.lr_lambdas]
        for group, rate, factor in zip(self.optimizer.param_groups, rates, factors, strict=True):
            group["initial_lr"], group["lr"] = rate, rate * factor
        now: list[float | Tensor] = [group["lr"] for group in self.optimizer.param_groups]
        self.lr_scheduler._last_lr = now

    def _save_latest(self, engine: Engine) -> None:
        if not _finite(self.network):  # in every process, since all have these weights
            raise InputError(
                f"learning_rate {self.optimizer.param_groups[0]['lr']:g}: the last step of epoch {engine.state.epoch} "
                "made weights infinite or NaN; start again with a lower one. "
                f"{self.latest.parent} holds the epochs before"
            )
        if not is_main_process():
            return
        scaler = getattr(engine, "scaler", None)
        if self.latest.is_file():
            self._keep_one_before()
        state = workflow_state(self.evaluator) if self.evaluator is not None else None
        save_file(
            {
                "model": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "lr_scheduler": self.lr_scheduler.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "epoch": engine.state.epoch,
                "cases": self.cases,
                "new_layers": self.new_layers,
                "metric": self.metric.state_dict() if self.metric is not None else None,
                "best_metric": getattr(state, "best_metric", None),
                "best_metric_epoch": getattr(state, "best_metric_epoch", None),
            },
            self.latest,
            self._record(engine),
        )
        if state is None or state.best_metric_epoch < 1:  # no validation has chosen the best weights yet
            self._save_weights(engine)

    def _keep_one_before(self) -> None:
        """Keep the checkpoint of the epoch before under a second name, where the disk supports hard links."""
        before = self.latest.with_name(PREVIOUS_NAME)
        with suppress(InputError), writing(before) as temporary:
            os.link(self.latest, temporary)

    def _save_best(self, engine: Engine) -> None:
        # the evaluator's epoch was set to the trainer's by ValidationHandler, and best_metric was just updated
        if not is_main_process() or workflow_state(engine).best_metric_epoch != engine.state.epoch:
            return
        if _finite(self.network):  # else the training is about to be stopped
            self._save_weights(engine)

    def _save_weights(self, engine: Engine) -> None:
        save_file(self.part.state_dict(), self.best, self._record(engine))
        if self.save_safetensors:
            save_file(self.part.state_dict(), self.best.with_suffix(ENDING), self._record(engine))

    def _record(self, engine: Engine) -> dict[str, Any] | None:
        """Return what is written beside the weights, and beside a checkpoint, from which others may start."""
        if not self.about:
            return None
        progress = {"epoch": engine.state.epoch, "epochs": self.epochs, "mednextv2": __version__}
        return {**self.about, **progress, "date": datetime.now(timezone.utc).strftime("%Y-%m-%d")}


def _versions(network: torch.nn.Module) -> list[int]:
    """Return PyTorch's counters of changes of the weights, which differ after other weights were copied into them."""
    return [weight._version for weight in network.parameters()]


def _finite(network: torch.nn.Module) -> bool:
    """Tell whether no weight is infinite or NaN."""
    return all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())
