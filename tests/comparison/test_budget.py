import pytest

from mednextv2.comparison.budget import Trial, check_budget, equal_epochs, fit_schedule
from mednextv2.errors import UsageError


def duration_of(schedule, trial):
    """Add up what the parts of a training take: steps, validations of a third of a step a batch, and checkpoints."""
    checkpoint = trial.epoch_end - 2 * trial.step / 3
    epoch = schedule.iterations_per_epoch * trial.step + schedule.val_iterations * trial.step / 3 + checkpoint
    return schedule.epochs * epoch


@pytest.mark.parametrize("minutes", [2, 30, 600])
@pytest.mark.parametrize(("step", "checkpoint"), [(0.02, 0.05), (0.3, 0.3), (0.8, 2.0)])
def test_a_training_takes_the_time_that_it_may_take(minutes, step, checkpoint):
    trial = Trial(step, 2 * step / 3 + checkpoint)
    schedule = fit_schedule(minutes, trial)
    assert 0.85 * 60 * minutes < duration_of(schedule, trial) <= 60 * minutes


def test_all_networks_have_the_same_number_of_epochs():
    fast, slow = (fit_schedule(20, Trial(step, step)) for step in (0.01, 1.0))
    assert fast.epochs == slow.epochs == 40
    assert fast.warmup_epochs == slow.warmup_epochs == 5
    assert fast.iterations_per_epoch > 50 * slow.iterations_per_epoch
    assert fast.val_iterations == fast.iterations_per_epoch // 5  # 50 for 250 steps, as in the recipe


def test_a_network_that_cannot_make_a_step_in_an_epoch_has_fewer():
    schedule = fit_schedule(1, Trial(20.0, 14.0))
    assert (schedule.epochs, schedule.iterations_per_epoch, schedule.val_iterations) == (2, 1, 1)
    assert fit_schedule(0.1, Trial(100.0, 70.0)).epochs == 1


@pytest.mark.parametrize(("epochs", "warm_up"), [(1, 0), (8, 2), (1000, 5)])
def test_a_number_of_epochs_has_the_warm_up_of_the_recipe_but_at_most_a_quarter(epochs, warm_up):
    assert equal_epochs(epochs).settings() == {"epochs": epochs, "warmup_epochs": warm_up}


@pytest.mark.parametrize(
    ("epochs", "minutes", "message"),
    [
        (None, None, "the budget of a run is missing"),
        (1, 1.0, "give only one of them"),
        (0, None, "--epochs 0: should be a whole number from 1"),
        (None, 0.0, "--minutes 0: should be a number above 0"),
        (None, float("nan"), "--minutes nan"),
        (None, -1.0, "--minutes -1"),
    ],
)
def test_impossible_budgets_are_refused(epochs, minutes, message):
    with pytest.raises(UsageError, match=message):
        check_budget(epochs, minutes)
