"""A short training of the hippocampus bundle, for `gpu_check.py`: the time of epochs, and of waiting on the GPU."""

import contextlib
import faulthandler
import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from mednextv2.bundle.run import find_bundle, workflow_files
from mednextv2.data import make_phantom_dataset
from mednextv2.errors import InputError

TASK = "Task04_Hippocampus"
COLUMNS = ("epoch", "steps", "seconds", "share of waiting for the loader", "loss", "Dice of random patches")
STEPS = 100  # number of steps in an epoch
PATIENCE = 3.0  # seconds after a training until the remaining processes are asked what they do
# small enough for seconds on a CPU
DRY = {"patch_size": [16, 32, 16], "batch_size": 1, "iterations_per_epoch": 2, "val_iterations": 1, "num_workers": 0}


def find_data(folder: str) -> Path:
    """Return the folder of the data set: the given one, or that of the task inside it.

    Raises:
        InputError: If neither is a data set.
    """
    for place in (Path(folder), Path(folder) / TASK):
        if (place / "dataset.json").is_file():
            return place
    raise InputError(f"--data {folder}: neither it nor {TASK} inside has a dataset.json; give the data set's folder")


def train(data: str | None, folder: Path, device: str, dry: bool, seconds: float, add: Callable[..., None]) -> float:
    """Train, and add a row for each epoch.

    Args:
        data: The folder for :func:`find_data`; None in a dry run, which creates a phantom.
        folder: The folder for the output of the training.
        device: The device of the training.
        dry: Whether to run two steps instead of epochs.
        seconds: The time after which no further epoch begins.
        add: A function that takes the cells of a row.

    Returns:
        The seconds that the loaders' worker processes took to end.
    """
    begin = time.monotonic()
    dataset = make_phantom_dataset(folder / "phantom", cases=6) if data is None else find_data(data)
    root = find_bundle(Path(__file__).parents[1] / "bundles" / "mednextv2_hippocampus")
    parser = ConfigParser()
    parser.read_config(workflow_files(root, "train"))
    settings: dict[str, Any] = {
        "bundle_root": str(root), "dataset_dir": str(dataset), "output_dir": str(folder / "output"),
        "prepared_dir": str(folder / "prepared"), "device": device, "check_data": False, "tensorboard": False,
        "epochs": 2 if dry else 50, "warmup_epochs": 1, "iterations_per_epoch": STEPS, "val_iterations": 10,
        "resume": False, **(DRY if dry else {}),
    }  # fmt: skip
    for name, value in settings.items():
        parser[name] = value
    for name in ("prepare", "start"):
        parser.get_parsed_content(name)
    trainer = parser.get_parsed_content("train::trainer")
    _Watch(parser.get_parsed_content("validate::evaluator"), begin + 0.8 * seconds, add).attach(trainer)
    trainer.run()
    watch = threading.Timer(PATIENCE, _tell_children)
    watch.daemon = True
    watch.start()
    ended = time.monotonic()
    del trainer, parser
    gc.collect()  # frees the loaders, whose worker processes end now
    watch.cancel()
    return time.monotonic() - ended


def _tell_children() -> None:
    """Print what this process and those that it has started are doing, to explain a delay."""
    children = Path("/proc/self/task").glob("*/children")  # exists only on Linux
    for child in sorted({number for file in children for number in file.read_text().split()}):
        with contextlib.suppress(OSError):  # raised if the process has ended
            waits = Path("/proc", child, "wchan").read_text()
            status = Path("/proc", child, "status").read_text().splitlines()
            state = next(line for line in status if line.startswith("State"))
            print("process", child, state, "in", waits, flush=True)
    faulthandler.dump_traceback()


class _Watch:
    """Adds a row after each epoch, and ends the training in time."""

    def __init__(self, evaluator: Engine, end: float, add: Callable[..., None]) -> None:
        self.evaluator, self.end, self.add = evaluator, end, add
        self.waited = self.loss = 0.0
        self.start = self.asked = time.monotonic()
        self.seconds = 0.0

    def attach(self, trainer: Engine) -> None:
        """Listen to a trainer."""
        trainer.add_event_handler(Events.EPOCH_STARTED, self._begin)
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self._got)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._add_loss)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _begin(self, trainer: Engine) -> None:
        self.start, self.waited, self.loss = time.monotonic(), 0.0, 0.0

    def _ask(self, trainer: Engine) -> None:
        self.asked = time.monotonic()

    def _got(self, trainer: Engine) -> None:
        self.waited += time.monotonic() - self.asked

    def _add_loss(self, trainer: Engine) -> None:
        if trainer.state.iteration % trainer.state.epoch_length == 0:  # the end of the epoch's steps
            output = trainer.state.output
            output = output[0] if isinstance(output, list) else output
            self.loss = float(output["loss"])  # waits for the GPU
            self.seconds = time.monotonic() - self.start

    def _write(self, trainer: Engine) -> None:
        dice = self.evaluator.state.metrics.get("val_mean_dice")
        share = self.waited / self.seconds
        self.add(trainer.state.epoch, trainer.state.epoch_length, self.seconds, share, self.loss, dice)
        if time.monotonic() > self.end:
            trainer.terminate()
