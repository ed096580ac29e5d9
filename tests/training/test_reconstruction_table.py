"""The table of an evaluation of an autoencoder, and the weights that it takes."""

import csv
import json

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets import MaskedAutoencoder
from mednextv2.training import (
    BlockMasks,
    PackedAutoencoder,
    ReconstructionTable,
    ValidationMasks,
    find_autoencoder,
    load_autoencoder,
)
from mednextv2.training.autoencoding import errors, hidden_sums
from mednextv2.weights.files import save_file

PATCH = (8, 8, 8)


def test_each_image_has_a_row_and_the_first_ones_a_picture(tmp_path):
    torch.manual_seed(0)
    prepare = ValidationMasks(BlockMasks(PATCH, 4, 0.5))
    batches = [
        {"image": torch.randn(2, 1, *PATCH), "number": torch.arange(2 * i, 2 * i + 2), "case": cases}
        for i, cases in enumerate((["c", "a"], ["b", "c"]))
    ]
    made = [batch["image"] + torch.randn(2, 1, *PATCH) for batch in batches]
    sums = {}

    def step(engine, index):
        engine.state.batch = batches[index]
        target = prepare(batches[index])[1]
        for case, row in zip(batches[index]["case"], hidden_sums(made[index], *target), strict=True):
            sums[case] = sums.get(case, 0) + row
        return {"pred": made[index], "label": target}

    engine = Engine(step)
    ReconstructionTable(tmp_path, pictures=2, title="an evaluation").attach(engine)
    engine.run([0, 1])
    with (tmp_path / "cases.csv").open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [(row["case"], row["patches"]) for row in rows] == [("a", "1"), ("b", "1"), ("c", "2")]
    for row in rows:
        wanted = errors(sums[row["case"]])
        assert (float(row["mean_squared_error"]), float(row["explained"])) == pytest.approx(wanted, rel=1e-5)
    content = json.loads((tmp_path / "pictures" / "pictures.json").read_text())
    assert [entry["case"] for entry in content["pictures"]] == ["c", "a"]
    assert content["title"] == "an evaluation"
    assert (tmp_path / "pictures" / "a.png").is_file()


def make_network(form="dense"):
    part = nn.Conv3d(1, 1, 3, padding=1)
    autoencoder = MaskedAutoencoder(part)
    if form != "dense":
        autoencoder.token = nn.Parameter(torch.randn(1))
    return PackedAutoencoder(autoencoder, (4, 4, 4)), part


@pytest.mark.parametrize("form", ["dense", "s3d"])
def test_weights_and_checkpoints_are_loaded(tmp_path, form):
    torch.manual_seed(0)
    trained, part = make_network(form)
    save_file({"model": trained.state_dict(), "epoch": 3, "optimizer": {}}, tmp_path / "checkpoint_latest.pt")
    save_file(part.state_dict(), tmp_path / "model.pt")
    for name in ["checkpoint_latest.pt", *["model.pt"] * (form == "dense")]:
        network, other = make_network(form)
        load_autoencoder(network, other, tmp_path / name, form)
        for key, value in trained.state_dict().items():
            assert torch.equal(network.state_dict()[key], value)
    if form != "dense":
        with pytest.raises(InputError, match=r"model\.pt: holds only the ordinary network.*--form dense"):
            load_autoencoder(*make_network(form), tmp_path / "model.pt", form)


def test_weights_that_are_missing_or_of_another_network_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"model\.pt: there is no such file; train the bundle first"):
        load_autoencoder(*make_network(), tmp_path / "model.pt")
    save_file({"other.weight": torch.zeros(1)}, tmp_path / "model.pt", {"labels": ["background", "liver"]})
    with pytest.raises(InputError, match=r"are of a segmentation \(background, liver\), not of a masked autoencoder"):
        load_autoencoder(*make_network(), tmp_path / "model.pt")
    save_file({"other.weight": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="another network"):
        load_autoencoder(*make_network(), tmp_path / "model.pt")


def test_an_evaluation_takes_the_checkpoint_where_the_weights_are_not_everything(tmp_path):
    folder = tmp_path / "models" / "large"
    folder.mkdir(parents=True)
    assert find_autoencoder(tmp_path) == str(tmp_path / "models" / "model.pt")
    for form, wanted in (("dense", "model.pt"), ("s3d", "checkpoint_latest.pt")):
        for name in ("model.pt", "checkpoint_latest.pt"):
            save_file({"w": torch.zeros(1)}, folder / name, {"settings": {"form": form}})
        assert find_autoencoder(tmp_path, "large") == str(folder / wanted)
