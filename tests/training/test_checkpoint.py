import copy

import pytest
import torch
from checkpoint_helpers import EPOCHS, STEPS, KilledError, Run, load, names, same
from ignite.engine import Events
from torch import nn

from mednextv2.errors import InputError
from mednextv2.paths import prepare_folder
from mednextv2.training import TrainingCheckpoint, warmup_poly

# --- what is saved ---------------------------------------------------------------------------------------------------


def test_files_of_a_training_are_whole_and_hold_what_is_promised(tmp_path):
    run = Run(tmp_path).run()
    assert names(tmp_path) == ["checkpoint_latest.pt", "checkpoint_previous.pt", "model.pt", "training_log.csv"]
    latest = load(tmp_path / "checkpoint_latest.pt")
    assert same(latest["model"], run.network.state_dict())
    assert same(latest["optimizer"], run.optimizer.state_dict())
    assert latest["lr_scheduler"]["last_epoch"] == EPOCHS
    assert (latest["epoch"], latest["best_metric"], latest["best_metric_epoch"]) == (4, 0.3, 2)


@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.3, 0.2, 0.25), 2), ((0.4, 0.3, 0.2, 0.1), 1), ((0.1, 0.2, 0.3, 0.4), 4)]
)
def test_best_weights_are_those_of_the_best_validation(tmp_path, scores, best):
    run = Run(tmp_path, scores).run()
    assert same(load(tmp_path / "model.pt"), run.weights[best - 1])
    assert not same(run.weights[best - 1], run.weights[best % EPOCHS])


def test_best_weights_are_not_replaced_by_equal_ones(tmp_path):
    run = Run(tmp_path, (0.3, 0.3, 0.3, 0.3)).run()
    assert same(load(tmp_path / "model.pt"), run.weights[0])


def test_without_validation_the_latest_weights_are_the_best(tmp_path):
    run = Run(tmp_path, scores=None).run()
    assert same(load(tmp_path / "model.pt"), run.weights[-1])


def test_weights_are_there_before_the_first_validation(tmp_path):
    run = Run(tmp_path, kill_at=STEPS + 1)
    run.trainer.remove_event_handler(run.trainer._event_handlers[Events.EPOCH_COMPLETED][0][0], Events.EPOCH_COMPLETED)
    with pytest.raises(KilledError):
        run.run()
    assert same(load(tmp_path / "model.pt"), run.weights[0])


def test_weights_of_a_wrapped_network_have_its_own_names(tmp_path):
    network = nn.Linear(3, 1)
    wrapped = nn.Module()
    wrapped.module = network
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    checkpoint = TrainingCheckpoint(tmp_path, wrapped, optimizer, warmup_poly(optimizer, 1))
    assert checkpoint.network is network


def test_files_go_to_the_folder_that_was_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    prepare_folder("~/out", "output_dir")
    Run("~/out").run()
    assert names(tmp_path / "out") == ["checkpoint_latest.pt", "checkpoint_previous.pt", "model.pt", "training_log.csv"]


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_scaler_of_half_precision_is_saved_and_restored(tmp_path, monkeypatch):
    scales = []
    for init_scale, epochs in ((64.0, 1), (2.0, 2)):
        scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=STEPS)
        monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda scaler=scaler: scaler)
        run = Run(tmp_path, epochs=epochs)
        run.trainer.amp = True
        run.run()
        scales.append(scaler.get_scale())
    assert scales == [128.0, 256.0]  # doubled once an epoch


def test_interrupted_save_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    run = Run(tmp_path)
    real, calls = torch.save, []

    def save(content, file, *args, **kwargs):
        calls.append(content)
        if "optimizer" in content and content["epoch"] == 3:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        return real(content, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(InputError, match=r"checkpoint_latest\.pt: cannot be written \(No space left"):
        run.run()
    assert load(tmp_path / "checkpoint_latest.pt")["epoch"] == 2
    assert names(tmp_path) == ["checkpoint_latest.pt", "checkpoint_previous.pt", "model.pt", "training_log.csv"]


def test_training_that_diverges_stops_with_the_epochs_before(tmp_path):
    run = Run(tmp_path)

    def spoil(engine):
        if engine.state.epoch == 2:
            with torch.no_grad():
                run.network[0].weight.fill_(float("nan"))

    run.trainer.add_event_handler(Events.EPOCH_STARTED, spoil)
    with pytest.raises(InputError, match=r"learning_rate .* the loss is nan in epoch 2"):
        run.run()
    assert load(tmp_path / "checkpoint_latest.pt")["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in load(tmp_path / "model.pt").values())


def test_weights_that_the_last_step_of_an_epoch_made_infinite_are_not_saved(tmp_path):
    run = Run(tmp_path)

    def spoil(engine):
        if engine.state.iteration == 2 * STEPS:
            with torch.no_grad():
                run.network[0].weight.fill_(float("nan"))

    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, spoil)
    with pytest.raises(InputError, match=r"learning_rate .* the last step of epoch 2 made weights infinite"):
        run.run()
    assert load(tmp_path / "checkpoint_latest.pt")["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in load(tmp_path / "model.pt").values())


# --- what is refused, and what is kept -------------------------------------------------------------------------------


def test_checkpoint_of_another_network_is_refused_and_stays(tmp_path):
    Run(tmp_path, features=6).run()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix == ".pt"}
    run = Run(tmp_path, features=5)
    weights = copy.deepcopy(run.network.state_dict())
    with pytest.raises(InputError) as caught:
        run.run()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'checkpoint_latest.pt'}: a training of another network is there.")
    assert "--output_dir" in message
    assert "--resume False" in message
    assert same(run.network.state_dict(), weights)
    assert run.steps == []
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix == ".pt"} == before


@pytest.mark.parametrize("content", [{"weights": 1}, [1, 2], {"model": {}, "epoch": 1}])
def test_file_that_is_no_checkpoint_of_a_training_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint_latest.pt")
    with pytest.raises(InputError) as caught:
        Run(tmp_path).run()
    assert str(caught.value).startswith(f"{tmp_path / 'checkpoint_latest.pt'}: not a checkpoint of this training.")


def test_damaged_checkpoint_is_refused(tmp_path):
    Run(tmp_path).run()
    whole = (tmp_path / "checkpoint_latest.pt").read_bytes()
    (tmp_path / "checkpoint_latest.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"checkpoint_latest\.pt: not a PyTorch checkpoint, or a damaged one"):
        Run(tmp_path).run()


@pytest.mark.parametrize("older", [1, 3])
def test_without_resume_older_files_are_kept_under_previous_names(tmp_path, older):
    latest = []
    for _ in range(older):
        Run(tmp_path, resume=False).run()
        latest.append((tmp_path / "checkpoint_latest.pt").read_bytes())
    run = Run(tmp_path, resume=False).run()
    assert run.steps == list(range(1, EPOCHS * STEPS + 1))
    for number, content in enumerate(latest, 1):
        assert (tmp_path / f"checkpoint_latest.previous-{number}.pt").read_bytes() == content
        assert (tmp_path / f"model.previous-{number}.pt").is_file()
        assert (tmp_path / f"training_log.previous-{number}.csv").is_file()
    assert len(names(tmp_path)) == 4 + 3 * older


def test_weights_without_a_checkpoint_are_kept_too(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "model.pt")  # such as the ones that came with the bundle
    Run(tmp_path).run()
    assert same(load(tmp_path / "model.previous-1.pt"), {"w": torch.ones(1)})
