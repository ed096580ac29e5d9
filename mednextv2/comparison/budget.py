"""What a run may use: epochs, or minutes, from which each network's number of steps follows."""

from dataclasses import asdict, dataclass
from typing import Any

from mednextv2.errors import UsageError

#: Steps of a trial that do not count, since they build kernels and fill caches, and those that are measured.
WARM_UP, MEASURED = 3, 10
TRIAL_VALIDATIONS = 2
_FORWARD = 1 / 3  # part of a step's time that a batch of the validation takes: a forward pass without a backward pass
_VALIDATIONS = 0.2  # batches of the validation for each training step, as in the recipe: 50 for 250
_FEWEST_EPOCHS, _MOST_EPOCHS, _EPOCH_S = 10, 100, 30.0
_WARM_UP_EPOCHS = 5  # of the recipe


@dataclass(frozen=True)
class Schedule:
    """The length of a training, in the recipe's settings."""

    epochs: int
    iterations_per_epoch: int | None = None
    val_iterations: int | None = None
    warmup_epochs: int | None = None

    def settings(self) -> dict[str, Any]:
        """Return those that replace the recipe's."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Trial:
    """How long a network takes on this machine, in seconds.

    Attributes:
        step: A training step, with the reading of its patches: the median.
        epoch_end: The end of an epoch: its validation, of `TRIAL_VALIDATIONS` batches, and the checkpoint.
    """

    step: float
    epoch_end: float


def check_budget(epochs: int | None, minutes: float | None) -> None:
    """Raise a UsageError unless exactly one of the two is given and possible."""
    if (epochs is None) == (minutes is None):
        raise UsageError(
            "the budget of a run is missing: give --epochs (equal numbers of steps) or --minutes (equal time)"
            if epochs is None
            else "--epochs and --minutes: give only one of them, since both are the budget of a run"
        )
    if epochs is not None and epochs < 1:
        raise UsageError(f"--epochs {epochs}: should be a whole number from 1")
    if minutes is not None and not 0 < minutes < 1e6:
        raise UsageError(f"--minutes {minutes:g}: should be a number above 0, such as 60")


def equal_epochs(epochs: int) -> Schedule:
    """Return the schedule of a number of epochs, whose warm-up is the recipe's, but at most a quarter of it."""
    return Schedule(epochs, warmup_epochs=min(_WARM_UP_EPOCHS, epochs // 4))


def fit_schedule(minutes: float, trial: Trial) -> Schedule:
    """Choose the number of steps that a network can make in a time.

    All networks have the same number of epochs, between 10 and 100, about one in 30 s, so that the learning rate
    falls and the weights are validated equally often. An epoch has as many steps as fit. Only a network that cannot
    make one step in this time has fewer epochs.

    Args:
        minutes: The time of the training, with its validations.
        trial: How long the network takes.
    """
    seconds = 60 * minutes
    epochs = round(min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, seconds / _EPOCH_S)))
    validation = _FORWARD * trial.step
    fixed = max(0.0, trial.epoch_end - TRIAL_VALIDATIONS * validation)
    shortest = fixed + trial.step + validation
    if seconds / epochs < shortest:
        epochs = max(1, int(seconds // shortest))
    steps = max(1, int((seconds / epochs - fixed) / (trial.step + _VALIDATIONS * validation)))
    return Schedule(epochs, steps, max(1, int(_VALIDATIONS * steps)), min(_WARM_UP_EPOCHS, epochs // 4))
