import copy
import csv
import logging

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.utils import set_determinism
from torch import nn

from mednextv2.errors import InputError
from mednextv2.paths import prepare_folder
from mednextv2.training import (
    GradientClipping,
    Progress,
    TrainingCheckpoint,
    TrainingLog,
    check_start,
    create_optimizer,
    warmup_poly,
)

EPOCHS, STEPS = 4, 3
GENERATOR = torch.Generator().manual_seed(7)
BATCHES = [
    {"image": torch.randn(4, 3, generator=GENERATOR), "label": torch.randn(4, 1, generator=GENERATOR)}
    for _ in range(EPOCHS * STEPS)
]


@pytest.fixture(autouse=True)
def _undo_determinism():
    flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    yield
    set_determinism(None)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = flags


class Scripted(Metric):
    """A metric whose value of each epoch was written before."""

    def __init__(self, values):
        self.values = values
        super().__init__()

    def attach(self, engine, name):
        self.engine = engine
        super().attach(engine, name)

    def reset(self):
        pass

    def update(self, output):
        pass

    def compute(self):
        return self.values[self.engine.state.epoch]


class KilledError(Exception):
    pass


class Run:
    """A training as the bundle configures it, of a network of a few weights, on batches that the step chooses."""

    def __init__(
        self, folder, scores=(0.1, 0.3, 0.2, 0.25), features=5, kill_at=None, epochs=EPOCHS, interval=1, **settings
    ):
        torch.manual_seed(3)
        hidden, norm = nn.Linear(3, features), nn.BatchNorm1d(features)
        self.network = nn.Sequential(hidden, norm, nn.ReLU(), nn.Linear(features, 1))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.05)
        self.schedule = warmup_poly(self.optimizer, epochs, 1)
        self.evaluator = None
        if scores is not None:
            self.evaluator = SupervisedEvaluator(
                device=torch.device("cpu"),
                val_data_loader=BATCHES[:1],
                network=self.network,
                key_val_metric={"score": Scripted(dict(enumerate(scores, 1)))},
            )
        self.steps, self.best = [], {}
        self.checkpoint = TrainingCheckpoint(
            folder, self.network, self.optimizer, self.schedule, self.evaluator, **settings
        )
        handlers = [
            GradientClipping(self.network, self.optimizer, 1.0),
            Progress("training"),
            *([ValidationHandler(interval, self.evaluator)] if self.evaluator else []),
            TrainingLog(folder, self.optimizer, self.evaluator),
            LrScheduleHandler(self.schedule, print_lr=False),
            self.checkpoint,
        ]

        def choose(batch, device, non_blocking, **kwargs):
            step = self.trainer.state.iteration
            if step == kill_at:
                raise KilledError
            self.steps.append(step)
            chosen = BATCHES[step - 1]
            return chosen["image"], chosen["label"]

        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=[{"image": torch.zeros(4, 3)}] * STEPS,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.MSELoss(),
            prepare_batch=choose,
            train_handlers=handlers,
        )
        self.weights = []  # after each epoch
        self.trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda _: self.weights.append(copy.deepcopy(self.network.state_dict()))
        )

    def run(self):
        self.trainer.run()
        return self


def same(a, b):
    """Compare nested dicts and lists with tensors, to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def load(path):
    return torch.load(path, weights_only=True)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# --- what is saved ---------------------------------------------------------------------------------------------------


def test_files_of_a_training_are_whole_and_hold_what_is_promised(tmp_path):
    run = Run(tmp_path).run()
    assert names(tmp_path) == ["checkpoint_latest.pt", "model.pt", "training_log.csv"]
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
    assert names(tmp_path / "out") == ["checkpoint_latest.pt", "model.pt", "training_log.csv"]


# --- resuming --------------------------------------------------------------------------------------------------------


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
    assert names(tmp_path) == ["checkpoint_latest.pt", "model.pt", "training_log.csv"]


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
    assert f"already trained for {EPOCHS} epochs of {EPOCHS}" in caplog.text


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
    assert len(names(tmp_path)) == 3 + 3 * older


def test_weights_without_a_checkpoint_are_kept_too(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "model.pt")  # such as the ones that came with the bundle
    Run(tmp_path).run()
    assert same(load(tmp_path / "model.previous-1.pt"), {"w": torch.ones(1)})


# --- pretrained weights ----------------------------------------------------------------------------------------------


def first_weights(run):
    """The weights that the training starts from."""
    seen = []
    run.trainer.add_event_handler(Events.EPOCH_STARTED, lambda _: seen.append(copy.deepcopy(run.network.state_dict())))
    run.run()
    return seen[0]


@pytest.mark.parametrize("name", ["model.pt", "checkpoint_latest.pt"])
def test_training_starts_from_pretrained_weights(tmp_path, name):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    Run(tmp_path / "old", (0.1, 0.2, 0.3, 0.4)).run()
    run = Run(tmp_path / "new", pretrained=tmp_path / "old" / name)
    assert not same(run.network.state_dict(), load(tmp_path / "old" / "model.pt"))
    assert same(first_weights(run), load(tmp_path / "old" / "model.pt"))
    assert run.steps[0] == 1
    assert names(tmp_path / "new") == ["checkpoint_latest.pt", "model.pt", "training_log.csv"]


def test_pretrained_weights_of_the_same_folder_are_kept(tmp_path):
    Run(tmp_path, (0.1, 0.2, 0.3, 0.4)).run()
    (tmp_path / "checkpoint_latest.pt").unlink()
    before = load(tmp_path / "model.pt")
    assert same(first_weights(Run(tmp_path, pretrained=tmp_path / "model.pt")), before)
    assert same(load(tmp_path / "model.previous-1.pt"), before)


def test_resumed_training_does_not_start_from_pretrained_weights_again(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    Run(tmp_path / "old").run()
    settings = {"pretrained": tmp_path / "old" / "model.pt"}
    with pytest.raises(KilledError):
        Run(tmp_path / "new", kill_at=2 * STEPS + 1, **settings).run()
    expected = load(tmp_path / "new" / "checkpoint_latest.pt")["model"]
    assert same(first_weights(Run(tmp_path / "new", **settings)), expected)


def test_pretrained_weights_of_another_network_are_refused(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    Run(tmp_path / "old", features=6).run()
    with pytest.raises(InputError) as caught:
        Run(tmp_path / "new", pretrained=tmp_path / "old" / "model.pt").run()
    assert str(caught.value).startswith(f"{tmp_path / 'old' / 'model.pt'}: the weights are of another network.")
    assert names(tmp_path / "new") == []


def test_missing_pretrained_weights_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.pt: there is no such checkpoint file"):
        Run(tmp_path, pretrained=tmp_path / "no.pt").run()


# --- before cases are prepared ---------------------------------------------------------------------------------------


def test_what_a_training_cannot_start_from_is_refused_early(tmp_path):
    cases = [{"case": "a"}]
    (tmp_path / "old").mkdir()
    run = Run(tmp_path / "old", cases=cases)
    run.run()
    check_start(tmp_path / "old", run.network, cases)
    check_start(tmp_path / "new", run.network, cases, pretrained=tmp_path / "old" / "model.pt")
    other = Run(tmp_path / "other", features=6).network
    with pytest.raises(InputError, match="a training of another network is there"):
        check_start(tmp_path / "old", other, cases)
    check_start(tmp_path / "old", other, cases, resume=False)
    with pytest.raises(InputError, match="a training on other cases is there"):
        check_start(tmp_path / "old", run.network, [{"case": "b"}])
    with pytest.raises(InputError, match="the weights are of another network"):
        check_start(tmp_path / "new", other, cases, pretrained=tmp_path / "old" / "model.pt")
    # what is resumed does not start from pretrained weights
    check_start(tmp_path / "old", run.network, cases, pretrained=tmp_path / "none.pt")


@pytest.mark.parametrize(("before", "now"), [("adamw", "sgd"), ("sgd", "adamw")])
def test_a_training_is_not_resumed_with_another_optimizer(tmp_path, before, now):
    network = nn.Linear(3, 1)

    def checkpoint(name):
        optimizer = create_optimizer(name, network.parameters(), 0.1)
        return TrainingCheckpoint(tmp_path, network, optimizer, warmup_poly(optimizer, 2), cases=[])

    engine = Engine(lambda *_: None)
    first = checkpoint(before)
    first.attach(engine)
    engine.run([0], max_epochs=1)
    words = f"a training with optimizer_name {before} is there, not {now}"
    with pytest.raises(InputError, match=words):
        check_start(tmp_path, network, [], optimizer_name=now)
    check_start(tmp_path, network, [], optimizer_name=before)
    second = Engine(lambda *_: None)
    checkpoint(now).attach(second)
    with pytest.raises(InputError, match=words):
        second.run([0], max_epochs=2)
