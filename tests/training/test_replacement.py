import pytest
import torch
from ignite.engine import Engine
from torch import nn

from mednextv2.errors import InputError
from mednextv2.locks import hold_folder
from mednextv2.training import Replacement, check_served
from mednextv2.weights import read_about
from mednextv2.weights.files import save_file

LABELS = ["background", "liver"]


def network(value=0.0):
    net = nn.Conv3d(1, 2, 1, device="meta").to_empty(device="cpu")  # without random numbers
    for weight in net.parameters():
        nn.init.constant_(weight, value)
    return net


class Evaluator:
    """Stands for an evaluator: the score of a network is the value of its weights, and a random number is kept."""

    def __init__(self, net, score=None):
        self.net, self.drawn, self.score = net, [], score
        self.state = type("State", (), {"metrics": {}})

    def run(self):
        self.drawn.append(int(torch.randint(1000, ())))
        self.state.metrics["val_mean_dice"] = self.score or float(self.net.bias[0])


@pytest.fixture
def trained(tmp_path):
    """A function that trains: it starts from weights with one value, and its best ones have another."""

    def train(served, best, start=None, there=True, score=None):
        models, output = tmp_path / "bundle" / "models", tmp_path / "output"
        models.mkdir(parents=True, exist_ok=True)
        output.mkdir(exist_ok=True)
        if there:
            save_file(network(served).state_dict(), models / "model.pt", {"dataset": "before"})
        net = network(served if start is None else start)
        evaluator = Evaluator(net, score)

        def step(engine, batch):
            save_file(network(best).state_dict(), output / "model.pt", {"epochs": 1})
            (output / "checkpoint_latest.pt").touch()
            (output / "checkpoint_previous.pt").touch()

        engine = Engine(step)
        hold_folder(output, "output_dir")
        Replacement(models / "model.pt", output, net, evaluator, tmp_path / "bundle", seed=3).attach(engine)
        engine.run([0], max_epochs=1)
        return models, output, evaluator

    return train


def bias(file):
    return float(torch.load(file, weights_only=True)["bias"][0])


def test_better_weights_replace_those_before_which_are_kept(trained):
    models, output, evaluator = trained(0.5, 0.75)
    assert bias(models / "model.pt") == 0.75
    (kept,) = models.glob("replaced_*/model.pt")
    assert bias(kept) == 0.5
    assert [file.name for file in output.iterdir()] == []  # nor a lock: another process may train next
    assert read_about(models / "model.pt") == {"epochs": 1, "pretrained": {"file": "model.pt", "dataset": "before"}}
    assert evaluator.drawn[0] == evaluator.drawn[1]


@pytest.mark.parametrize(("best", "score"), [(0.5, None), (0.25, None), (0.75, float("nan"))])
def test_other_weights_stay_where_the_training_wrote_them(trained, best, score, caplog):
    models, output, _ = trained(0.5, best, score=score)
    assert bias(models / "model.pt") == 0.5
    assert not [*models.glob("replaced_*")]
    assert [file.name for file in output.iterdir()] == ["model.pt"]
    assert "The weights stay as they are" in caplog.text


def test_a_bundle_without_weights_gets_them(trained):
    models, _, _ = trained(0.5, 0.0, there=False)
    assert bias(models / "model.pt") == 0.0
    assert read_about(models / "model.pt") == {"epochs": 1}
    assert not [*models.glob("replaced_*")]


def test_a_start_from_other_weights_is_not_recorded(trained, tmp_path):
    models, _, _ = trained(0.5, 0.75, start=0.1)
    assert "pretrained" not in read_about(models / "model.pt")
    (models / "damaged.pt").write_bytes(b"none")
    trained(0.75, 0.8, there=False)
    assert read_about(models / "model.pt")["pretrained"]["file"] == "model.pt"


def test_the_comparison_leaves_the_random_numbers_of_the_training(trained):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    trained(0.5, 0.75)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_on_a_folder_replaces_nothing(tmp_path):
    engine = Engine(lambda engine, batch: None)
    Replacement(None, tmp_path, network(), Evaluator(network()), tmp_path).attach(engine)
    engine.run([0], max_epochs=1)
    assert [*tmp_path.iterdir()] == []


def test_served_weights_are_checked_and_the_network_stays(tmp_path):
    file, net = tmp_path / "model.pt", network(0.5)
    assert check_served(None, net) is None
    assert check_served(file, net) is None
    save_file(network(1.0).state_dict(), file, {"labels": LABELS})
    assert check_served(file, net, LABELS) == file
    assert float(net.bias[0]) == 0.5
    with pytest.raises(InputError, match="labels"):
        check_served(file, net, ["background", "spleen"])
    with pytest.raises(InputError, match="the weights are of another network"):
        check_served(file, nn.Conv3d(1, 3, 1))
    torch.save(net, file)
    with pytest.raises(InputError, match="refused, since reading it would run code"):
        check_served(file, net)


def test_a_training_that_fails_releases_its_folder(tmp_path):
    def step(engine, batch):
        raise ValueError("of the training")

    hold_folder(tmp_path, "output_dir")
    trainer = Engine(step)
    net = network()
    Replacement(tmp_path / "model.pt", tmp_path, net, Evaluator(net)).attach(trainer)
    with pytest.raises(ValueError, match="of the training"):
        trainer.run([0], max_epochs=1)
    assert not (tmp_path / ".in-use").exists()
