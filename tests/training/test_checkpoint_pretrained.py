"""What a training says and saves about the weights that it started from, and the formats in which it saves its own."""

import csv
import sys

import pytest
import torch
from checkpoint_helpers import STEPS, KilledError, Run, load, same
from pretrained_helpers import nnssl_checkpoint, our_unet, their_unet
from torch import nn

from mednextv2.errors import InputError
from mednextv2.training import check_start
from mednextv2.weights import load_file, read_about


def test_what_became_of_each_tensor_is_saved_beside_the_checkpoint_and_counted_in_the_record(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    Run(tmp_path / "old").run()
    start = {"pretrained": tmp_path / "old" / "model.pt", "about": {"dataset": "D"}}
    with pytest.raises(KilledError):
        Run(tmp_path / "new", kill_at=STEPS + 1, **start).run()
    report = tmp_path / "new" / "pretrained_report.csv"
    rows = list(csv.DictReader(report.open(encoding="utf-8")))
    state = load(tmp_path / "old" / "model.pt")
    assert [(row["tensor"], row["status"]) for row in rows] == [(name, "loaded") for name in state]
    assert rows[0]["shape"] == "×".join(map(str, next(iter(state.values())).shape))
    before = report.read_bytes()
    Run(tmp_path / "new", **start).run()  # which goes on, and loads nothing
    assert report.read_bytes() == before
    for name in ("model.pt", "checkpoint_latest.pt"):
        recorded = read_about(tmp_path / "new" / name)["pretrained"]["report"]
        assert recorded["tensors"] == {"loaded": len(state), "adapted": 0, "newly initialised": 0, "not used": 0}
    Run(tmp_path / "new", resume=False, **start).run()
    assert (tmp_path / "new" / "pretrained_report.previous-1.csv").read_bytes() == before


def test_the_best_weights_are_saved_as_safetensors_too_if_asked_for(tmp_path):
    Run(tmp_path, save_safetensors=True, about={"dataset": "D"}).run()
    found = load_file(tmp_path / "model.safetensors")
    assert same(found, load(tmp_path / "model.pt"))
    assert read_about(tmp_path / "model.safetensors") == read_about(tmp_path / "model.pt") != {}
    Run(tmp_path, resume=False, save_safetensors=True).run()
    assert same(load_file(tmp_path / "model.previous-1.safetensors"), found)


def test_without_the_package_safetensors_nothing_is_trained_for_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"save_safetensors: needs the package safetensors"):
        check_start(tmp_path, nn.Linear(1, 1), [], save_safetensors=True)
    check_start(tmp_path, nn.Linear(1, 1), [])


def test_what_differs_from_the_pretraining_is_told(tmp_path, caplog):
    torch.save(nnssl_checkpoint(their_unet()), tmp_path / "nnssl.pth")
    facts = {"patch_size": (160, 160, 160), "spacing": (1.0, 1.0, 1.0), "normalization": [{"scheme": "zscore"}]}
    settings = {"pretrained": tmp_path / "nnssl.pth", "in_channels": 1, "out_channels": 3}
    check_start(tmp_path, our_unet(), [], **settings, facts=facts)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    facts |= {"spacing": (0.5, 0.5, 0.5), "normalization": [{"scheme": "ct"}]}
    check_start(tmp_path, our_unet(), [], **settings, facts=facts)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert all(line.startswith(f"{tmp_path / 'nnssl.pth'}: the pretraining had ") for line in warnings)
