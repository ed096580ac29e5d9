import copy

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from mednextv2.errors import InputError
from mednextv2.training import PseudoDice, TrainingCheckpoint, warmup_poly
from mednextv2.training.checkpoint_content import LATEST_NAME, PREVIOUS_NAME, check_state, read_checkpoint

CASES = [{"case": "a"}, {"case": "b"}]


class Average:
    """A metric that remembers one number."""

    value = 0.5

    def state_dict(self):
        return {"average": [self.value, 0.25]}

    def load_state_dict(self, state):
        self.value = state["average"][0]


def start(folder, epochs, **settings):
    """Train a network of a few weights, or go on."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    schedule = warmup_poly(optimizer, 9, 1)

    def step(engine, batch):
        optimizer.zero_grad()
        network(batch).square().sum().backward()
        optimizer.step()

    engine = Engine(step)
    TrainingCheckpoint(folder, network, optimizer, schedule, cases=CASES, metric=Average(), **settings).attach(engine)
    engine.run([torch.ones(2, 3)], max_epochs=epochs)
    return network


@pytest.fixture
def trained(tmp_path):
    start(tmp_path, 2)
    return tmp_path


def refused(folder, content) -> str:
    """Return the message about a checkpoint with some content, which is one line and offers the one before."""
    file = folder / LATEST_NAME
    torch.save(content, file)
    with pytest.raises(InputError) as caught:
        start(folder, 3)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    assert len(message) < 1000
    return message


def changed(content, path, value):
    content = copy.deepcopy(content)
    *above, last = path
    part = content
    for key in above:
        part = part[key]
    part[last] = value
    return content


WRONG = [
    (("epoch",), "x"), (("epoch",), 1.5), (("epoch",), True), (("epoch",), -1), (("epoch",), 10**9),
    (("epoch",), None), (("epoch",), [2]), (("epoch",), torch.ones(1)), (("cases",), "ab"), (("cases",), [1, 2]),
    (("best_metric",), "x"), (("best_metric",), float("nan")), (("best_metric",), 0.5), (("metric",), [1]),
    (("metric",), {"average": "x"}), (("metric",), {"average": [0.5]}), (("metric",), {"average": [0.5, None]}),
    (("scaler",), "x"), (("lr_scheduler",), 3), (("lr_scheduler", "last_epoch"), "x"),
    (("lr_scheduler", "last_epoch"), float("inf")), (("lr_scheduler", "_last_lr"), None),
    (("lr_scheduler", "base_lrs"), ["x"]), (("optimizer",), []), (("optimizer", "state"), None),
    (("optimizer", "param_groups"), {}), (("optimizer", "param_groups", 0), None),
    (("optimizer", "param_groups", 0, "betas"), "x"), (("optimizer", "param_groups", 0, "betas"), (0.9, "x")),
    (("optimizer", "param_groups", 0, "weight_decay"), None), (("optimizer", "param_groups", 0, "eps"), True),
    (("optimizer", "param_groups", 0, "eps"), float("nan")), (("optimizer", "param_groups", 0, "amsgrad"), "no"),
    (("optimizer", "state", 0), "x"), (("optimizer", "state", 0, "step"), "x"), (("optimizer", "state", "x"), {}),
    (("optimizer", "state", 7), {}), (("optimizer", "state", 0, "exp_avg"), torch.zeros(5)),
    (("optimizer", "state", 0, "exp_avg"), torch.full((2, 3), torch.nan)),
    (("optimizer", "state", 0, "exp_avg"), torch.zeros(2, 3, dtype=torch.int64)), (("model",), [1]),
    (("model", "0.weight"), torch.zeros(2, 3, dtype=torch.float64)),
    (("model", "0.weight"), torch.zeros(2, 3, dtype=torch.complex64)),
    (("model", "0.weight"), torch.zeros(2, 3).to_sparse()), (("model", "0.weight"), torch.zeros(2, 3, device="meta")),
    (("model", "0.weight"), torch.zeros(1).expand(2, 3)), (("model", "0.weight"), torch.full((2, 3), torch.nan)),
    (("model", "1.bias"), torch.tensor([-torch.inf])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value"), WRONG, ids=lambda part: ".".join(map(str, part)) if type(part) is tuple else ""
)
def test_what_is_of_a_wrong_kind_is_refused_and_the_epoch_before_is_offered(trained, path, value):
    content = torch.load(trained / LATEST_NAME, weights_only=True)
    message = refused(trained, changed(content, path, value))
    assert f"{trained / PREVIOUS_NAME} is of the epoch before: rename it to {LATEST_NAME}" in message


def test_the_checkpoint_of_the_epoch_before_goes_on(trained):
    whole = start(trained, 4).state_dict()
    assert torch.load(trained / PREVIOUS_NAME, weights_only=True)["epoch"] == 3
    (trained / LATEST_NAME).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"is of the epoch before: rename it"):
        start(trained, 4)
    (trained / PREVIOUS_NAME).rename(trained / LATEST_NAME)
    for key, value in start(trained, 4).state_dict().items():
        assert torch.equal(value, whole[key])


def test_a_damaged_first_checkpoint_offers_what_there_is(tmp_path):
    start(tmp_path, 1)
    assert not (tmp_path / PREVIOUS_NAME).exists()
    (tmp_path / LATEST_NAME).write_bytes(b"damaged")
    with pytest.raises(InputError, match="start anew with --resume False") as caught:
        start(tmp_path, 2)
    assert "epoch before" not in str(caught.value)
    start(tmp_path, 2, resume=False)
    assert torch.load(tmp_path / LATEST_NAME, weights_only=True)["epoch"] == 2


def test_a_new_training_does_not_offer_the_checkpoint_of_another(trained):
    start(trained, 1, resume=False)
    assert not (trained / PREVIOUS_NAME).exists()


def test_disks_without_second_names_do_without(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    start(tmp_path, 3)
    assert sorted(f.name for f in tmp_path.iterdir()) == [LATEST_NAME, "model.pt"]


def test_checkpoints_with_less_or_more_are_still_read(trained):
    """Those of before had no metric; other versions of PyTorch have other settings of an optimizer and a schedule."""
    content = torch.load(trained / LATEST_NAME, weights_only=True)
    for key in ("metric", "scaler", "cases", "best_metric", "best_metric_epoch"):
        del content[key]
    content["optimizer"]["param_groups"][0]["new_setting"] = "x"
    del content["optimizer"]["param_groups"][0]["differentiable"]
    content["lr_scheduler"]["verbose"] = False
    torch.save(content, trained / LATEST_NAME)
    start(trained, 3)
    assert torch.load(trained / LATEST_NAME, weights_only=True)["epoch"] == 3


@pytest.mark.parametrize(("value", "fits"), [(0.0, True), (0.75, True), (None, True), ("x", False), (torch.nan, False)])
def test_what_is_not_known_before_the_first_validation_is_taken(tmp_path, value, fits):
    metric = PseudoDice.__new__(PseudoDice)
    metric._average = None
    assert metric.state_dict() == {"average": None}
    if fits:
        check_state(tmp_path / LATEST_NAME, "metric", metric.state_dict(), {"average": value})
    else:
        with pytest.raises(InputError, match=r"is damaged, or of another version .*: metric\.average is"):
            check_state(tmp_path / LATEST_NAME, "metric", metric.state_dict(), {"average": value})


def test_content_is_checked_without_an_optimizer(trained):
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    assert read_checkpoint(trained / LATEST_NAME, network, ["a", "b"])["epoch"] == 2
    with pytest.raises(InputError, match="other cases"):
        read_checkpoint(trained / LATEST_NAME, network, ["a", "c"])
    with pytest.raises(InputError, match="of another network"):
        read_checkpoint(trained / LATEST_NAME, nn.Linear(3, 2), ["a", "b"])


def test_a_part_that_is_nothing_counts_as_missing(trained):
    content = torch.load(trained / LATEST_NAME, weights_only=True)
    torch.save({**content, "lr_scheduler": None}, trained / LATEST_NAME)
    with pytest.raises(InputError, match="was trained with another optimizer or schedule"):
        start(trained, 3)
