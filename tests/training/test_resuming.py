"""A training that goes on from its checkpoint: as if it had never stopped."""

import csv
import logging

import pytest
import torch
from checkpoint_helpers import EPOCHS, STEPS, KilledError, Run, load, names, same
from ignite.engine import Events

from mednextv2.errors import InputError
from mednextv2.training import check_start


@pytest.mark.parametrize("kill_at", [STEPS + 1, 2 * STEPS + 2, 3 * STEPS])
def test_killed_and_resumed_training_ends_as_one_that_was_not(tmp_path, kill_at):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = Run(tmp_path / "whole").run()
    first = Run(tmp_path / "killed", kill_at=kill_at)
    with pytest.raises(KilledError):
        first.run()
    second = Run(tmp_path / "killed").run()
    done = (kill_at - 1) // STEPS  # whole epochs
    assert second.steps == list(range(done * STEPS + 1, EPOCHS * STEPS + 1))
    assert same(second.network.state_dict(), whole.network.state_dict())
    assert same(second.optimizer.state_dict(), whole.optimizer.state_dict())  # exp_avg, exp_avg_sq, step and rate
    assert any("exp_avg" in state for state in second.optimizer.state_dict()["state"].values())
    assert second.schedule.get_last_lr() == whole.schedule.get_last_lr()
    assert second.trainer.state.epoch == whole.trainer.state.epoch == EPOCHS
    assert second.trainer.state.iteration == whole.trainer.state.iteration
    for name in ("best_metric", "best_metric_epoch"):
        assert getattr(second.evaluator.state, name) == getattr(whole.evaluator.state, name)
    for name in ("model.pt", "checkpoint_latest.pt"):
        assert same(load(tmp_path / "killed" / name), load(tmp_path / "whole" / name))
    assert names(tmp_path / "killed") == names(tmp_path / "whole")  # nothing was kept under other names


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path):
    """It has one group of parameters, and does not record which layers were new in a fine-tuning."""
    with pytest.raises(KilledError):
        Run(tmp_path, kill_at=2 * STEPS + 1).run()
    file = tmp_path / "checkpoint_latest.pt"
    old = load(file)
    del old["new_layers"]
    assert len(old["optimizer"]["param_groups"]) == 1
    torch.save(old, file)
    second = Run(tmp_path)
    assert check_start(tmp_path, second.network, []) == []
    assert second.run().steps == list(range(2 * STEPS + 1, EPOCHS * STEPS + 1))


def test_table_of_scores_of_a_resumed_training_has_every_epoch(tmp_path):
    with pytest.raises(KilledError):
        Run(tmp_path, kill_at=2 * STEPS + 2).run()
    Run(tmp_path).run()
    with (tmp_path / "training_log.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(r["epoch"], r["score"]) for r in rows] == [("1", "0.1"), ("2", "0.3"), ("3", "0.2"), ("4", "0.25")]


def test_best_weights_are_not_replaced_by_worse_ones_after_a_resume(tmp_path):
    first = Run(tmp_path, (0.1, 0.9, 0.2, 0.3), kill_at=2 * STEPS + 1)
    with pytest.raises(KilledError):
        first.run()
    Run(tmp_path, (0.1, 0.9, 0.2, 0.3)).run()
    assert same(load(tmp_path / "model.pt"), first.weights[1])


def test_best_weights_are_replaced_by_better_ones_after_a_resume(tmp_path):
    with pytest.raises(KilledError):
        Run(tmp_path, (0.1, 0.2, 0.9, 0.3), kill_at=2 * STEPS + 1).run()
    second = Run(tmp_path, (0.1, 0.2, 0.9, 0.3)).run()
    assert same(load(tmp_path / "model.pt"), second.weights[0])
    assert load(tmp_path / "checkpoint_latest.pt")["best_metric_epoch"] == 3


@pytest.mark.parametrize(("interval", "epoch"), [(3, 3), (9, EPOCHS)])
def test_until_the_first_validation_the_weights_are_the_latest(interval, epoch, tmp_path):
    run = Run(tmp_path, (0.1, 0.2, 0.9, 0.3), interval=interval).run()
    assert same(load(tmp_path / "model.pt"), run.weights[epoch - 1])


def test_finished_training_started_again_does_nothing(tmp_path):
    Run(tmp_path).run()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    again = Run(tmp_path).run()
    assert again.steps == []
    assert again.trainer.state.epoch == EPOCHS
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_finished_training_goes_on_when_more_epochs_are_asked_for(tmp_path):
    Run(tmp_path, epochs=2).run()
    again = Run(tmp_path).run()
    assert again.steps == list(range(2 * STEPS + 1, EPOCHS * STEPS + 1))


def test_random_numbers_after_a_resume_are_new_ones_and_the_same_each_time(tmp_path):
    with pytest.raises(KilledError):
        Run(tmp_path, kill_at=2 * STEPS + 1, seed=40).run()
    drawn = []
    for _ in range(2):
        run = Run(tmp_path, seed=40, epochs=2)  # both epochs are done: only the loading happens
        run.trainer.add_event_handler(Events.STARTED, lambda _: drawn.append((torch.initial_seed(), torch.rand(3))))
        run.run()
    assert drawn[0][0] == 42
    assert torch.equal(drawn[0][1], drawn[1][1])


def test_random_numbers_go_on_after_a_resume_without_a_seed(tmp_path):
    Run(tmp_path, epochs=2).run()
    run = Run(tmp_path, epochs=2)
    torch.manual_seed(11)
    run.run()
    assert torch.initial_seed() == 11


def test_resume_is_said_in_the_log(tmp_path, caplog):
    with pytest.raises(KilledError):
        Run(tmp_path, kill_at=2 * STEPS + 1).run()
    with caplog.at_level(logging.INFO, "mednextv2"):
        Run(tmp_path).run()
    assert f"Resuming after epoch 2 of {tmp_path / 'checkpoint_latest.pt'}" in caplog.text


def test_longer_training_goes_on_with_the_rate_and_length_that_are_given_now(tmp_path):
    Run(tmp_path, epochs=2).run()
    longer = Run(tmp_path, epochs=4)
    for group in longer.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 0.02
    longer.schedule.base_lrs = [0.02]
    longer.run()
    with (tmp_path / "training_log.csv").open(newline="") as f:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(f)]
    # warm-up of one epoch, then the decay over three of which one was run before
    assert rates[2:] == pytest.approx([0.02 * (1 - 1 / 3) ** 0.9, 0.02 * (1 - 2 / 3) ** 0.9])


def test_training_on_other_cases_is_not_resumed(tmp_path):
    Run(tmp_path, cases=[{"case": "a"}, {"case": "b"}], epochs=1).run()
    before = (tmp_path / "checkpoint_latest.pt").read_bytes()
    with pytest.raises(InputError, match=r"other cases.*--output_dir"):
        Run(tmp_path, cases=[{"case": "a"}, {"case": "c"}]).run()
    assert (tmp_path / "checkpoint_latest.pt").read_bytes() == before
    Run(tmp_path, cases=[{"case": "b"}, {"case": "a"}]).run()  # the order does not matter
    assert load(tmp_path / "checkpoint_latest.pt")["epoch"] == EPOCHS


def test_an_optimizer_computes_after_a_resume_as_it_was_made_to(tmp_path):
    Run(tmp_path, epochs=1).run()
    content = load(tmp_path / "checkpoint_latest.pt")
    assert content["optimizer"]["param_groups"][0]["fused"] is None
    run = Run(tmp_path)
    run.optimizer.param_groups[0]["fused"] = True  # as `create_optimizer` has it since checkpoints of before
    run.run()
    assert run.optimizer.param_groups[0]["fused"] is True
    assert run.steps[0] == STEPS + 1


def test_each_process_draws_other_random_numbers_after_a_resume(tmp_path, monkeypatch):
    Run(tmp_path, epochs=1).run()
    drawn = []
    for rank in (0, 1):
        monkeypatch.setattr("mednextv2.training.checkpoint.process_rank", lambda rank=rank: rank)
        run = Run(tmp_path, epochs=1, seed=0)
        run.trainer.add_event_handler(Events.STARTED, lambda _: drawn.append(torch.rand(4)))
        run.run()
    assert not torch.equal(*drawn)


def test_finished_training_says_so(tmp_path, caplog):
    Run(tmp_path).run()
    with caplog.at_level(logging.INFO, "mednextv2"):
        Run(tmp_path).run()
    assert f"this training is finished ({EPOCHS} epochs of {EPOCHS}), so that nothing is left to do" in caplog.text
