"""Federated learning with MONAI's own client, called as docs/federated.md says."""

import zipfile

import pytest
import torch
from bundle_helpers import HIPPOCAMPUS
from configured_runs import PREDICT, TRAIN, copy_bundle
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, ModelType
from monai.fl.utils.exchange_object import ExchangeObject

from mednextv2.data import split_dataset
from mednextv2.data.dataset import read_dataset
from mednextv2.delivery import pack_bundle

FILES = {"config_train_filename": "configs/train.yaml", "config_evaluate_filename": "configs/evaluate.yaml"}


def make_client(root, data, files=FILES, **more):
    own = {"bundle_root": str(root), "dataset_dir": str(data)}
    return MonaiAlgo(
        bundle_root=str(root),
        **files,
        train_kwargs={**TRAIN, "epochs": 4, **own, **more},
        eval_kwargs={**PREDICT, **own, "output_dir": str(root / "scores")},
        best_model_filepath="models/fold_0/model.pt",
        final_model_filepath="models/fold_0/checkpoint_latest.pt",
    )


def constants(network, value):
    return {name: torch.full_like(tensor, value) for name, tensor in network.state_dict().items()}


def distance(network, weights):
    return max(float((tensor - weights[name]).abs().max()) for name, tensor in network.state_dict().items())


@pytest.fixture
def bundle(tmp_path):
    return copy_bundle(tmp_path)


def test_a_client_trains_from_the_servers_weights_in_every_round(bundle, small_phantom):
    client = make_client(bundle, small_phantom, learning_rate=1e-6)
    client.initialize({ExtraItems.CLIENT_NAME: "hospital"})
    for round_number, value in ((1, 0.01), (2, 0.02)):  # the second would be lost if the first were resumed
        sent = constants(client.trainer.network, value)
        client.train(ExchangeObject(weights=sent))
        assert client.trainer.state.epoch == round_number
        assert 0 < distance(client.trainer.network, sent) < 1e-3
        difference = client.get_weights().weights
        assert set(difference) == set(sent)
        assert max(float(abs(torch.as_tensor(value)).max()) for value in difference.values()) < 1e-3
    client.finalize()
    again = make_client(bundle, small_phantom, learning_rate=1e-6)  # a client that was started anew, with a checkpoint
    again.initialize()
    sent = constants(again.trainer.network, 0.03)
    again.train(ExchangeObject(weights=sent))
    assert distance(again.trainer.network, sent) < 1e-3
    assert (bundle / "models" / "fold_0" / "checkpoint_latest.previous-1.pt").is_file()
    names = set(again.trainer.network.state_dict())
    for kind in (ModelType.BEST_MODEL, ModelType.FINAL_MODEL):
        assert set(again.get_weights({ExtraItems.MODEL_TYPE: kind}).weights) == names
    again.finalize()


def test_a_client_evaluates_the_servers_weights(bundle, small_phantom):
    client = make_client(bundle, small_phantom)
    client.config_train_filename = None  # an evaluation alone
    client.initialize()
    sent = constants(client.evaluator.network, 0.01)
    result = client.evaluate(ExchangeObject(weights=sent))
    assert distance(client.evaluator.network, sent) == 0
    assert 0 <= result.metrics["val_mean_dice"] <= 1
    scored = {row.split(",")[0] for row in (bundle / "scores" / "cases.csv").read_text().splitlines()[1:]}
    assert scored == {item["case"] for item in split_dataset(read_dataset(small_phantom), 0).validation}


def test_a_packed_bundle_has_the_files_that_a_client_looks_for(small_phantom, tmp_path):
    archive, *_ = pack_bundle(HIPPOCAMPUS, tmp_path / "out")
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    client = make_client(
        tmp_path / HIPPOCAMPUS.name, small_phantom, files={}
    )  # train.json; train.json and evaluate.json
    client.initialize()
    sent = constants(client.trainer.network, 0.01)
    client.train(ExchangeObject(weights=sent))
    assert set(client.get_weights().weights) == set(sent)
    assert 0 <= client.evaluate(ExchangeObject(weights=sent)).metrics["val_mean_dice"] <= 1
    client.finalize()
