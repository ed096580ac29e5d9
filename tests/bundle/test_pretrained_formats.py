"""Trainings that start from weights of other projects, as docs/finetuning.md describes."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from configured_runs import PREDICT, TRAIN, copy_bundle, run_configured
from monai.networks.nets.mednext import create_mednext as create_monai
from pretrained_helpers import nnssl_checkpoint, nnunet_checkpoint, randomised, their_unet

from mednextv2.errors import InputError
from mednextv2.predict_files import predict_files
from mednextv2.weights import load_file, read_about
from mednextv2.weights.files import digest_file

SMALL = {**TRAIN, "learning_rate": 1e-9}  # with which the weights stay as they are
UNET = {"network": "resenc_l", "network_filters": 4, "patch_size": [32, 32, 32]}


@pytest.fixture
def data(small_phantom):
    return {"dataset_dir": str(small_phantom)}


@pytest.fixture
def bundle(tmp_path):
    return copy_bundle(tmp_path)


def told(caplog):
    (text,) = [record.getMessage() for record in caplog.records if "tensors loaded" in record.getMessage()]
    return text


def test_from_a_checkpoint_of_nnssl_to_masks(bundle, data, tmp_path, caplog):
    caplog.set_level("INFO")
    network = their_unet()
    torch.save(nnssl_checkpoint(network), tmp_path / "checkpoint_final.pth")
    more = {**SMALL, **UNET, "pretrained": str(tmp_path / "checkpoint_final.pth"), "save_safetensors": True}
    more["pretrained_sha256"] = digest_file(tmp_path / "checkpoint_final.pth")
    run_configured(bundle, "finetune", **data, **more)
    text = told(caplog)
    assert "checkpoint of nnssl: ResEncL, BaseMAETrainer_BS8" in text
    assert "pretrained with patches of 160×160×160 voxels, a spacing of 1×1×1 mm and the normalisation zscore" in text
    assert "the pretraining had patches of 160×160×160 voxels, those here have 32×32×32" in caplog.text
    folder = bundle / "models" / "resenc_l_finetune" / "fold_0"
    found = load_file(folder / "model.pt")
    for name, tensor in network.state_dict().items():
        if ".seg_layers." not in name:
            torch.testing.assert_close(found[f"network.{name}"], tensor, rtol=0, atol=1e-6)
    rows = list(csv.DictReader((folder / "pretrained_report.csv").open(encoding="utf-8")))
    assert {row["tensor"] for row in rows} == found.keys()
    new = {row["tensor"] for row in rows if row["status"] == "newly initialised"}
    assert new == {name for name in found if ".seg_layers." in name}
    before = read_about(folder / "model.pt")["pretrained"]
    assert before["file"] == "checkpoint_final.pth"
    assert before["report"]["format"] == "checkpoint of nnssl: ResEncL, BaseMAETrainer_BS8"

    image = f"{data['dataset_dir']}/imagesTr/phantom_000.nii.gz"
    quick = {key: PREDICT[key] for key in ("overlap", "test_mirror_axes")}
    (mask,) = predict_files(bundle, image, tmp_path / "masks", weights=str(folder / "model.safetensors"), **quick)
    assert Path(mask).is_file()


def test_from_a_checkpoint_of_nnunet_with_the_same_labels(bundle, data, tmp_path, caplog):
    caplog.set_level("INFO")
    network = their_unet(outputs=3)
    torch.save(nnunet_checkpoint(network), tmp_path / "checkpoint_final.pth")
    pretrained = str(tmp_path / "checkpoint_final.pth")
    done = run_configured(bundle, "train", **data, **{**SMALL, **UNET}, pretrained=pretrained)
    assert "newly initialised" not in told(caplog)
    trained = done["network_def"].eval()
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(trained(x), network(x), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_from_monais_mednext_to_v2(bundle, data, tmp_path, caplog):
    caplog.set_level("INFO")
    network = randomised(create_monai("S", out_channels=3))
    torch.save(network.state_dict(), tmp_path / "monai.pt")
    settings = {**SMALL, "variant": "v2_small", "amp": False, "pretrained": str(tmp_path / "monai.pt")}
    done = run_configured(bundle, "finetune", **data, **settings)
    assert "MONAI's MedNeXt" in told(caplog)
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(done["network_def"].eval()(x), network(x), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "holds no weights of this network. It was recognised as: checkpoint of nnssl: ResEncL"),
        ({"network": "plain_conv_unet"}, "To use it, give --network resenc_l"),
        ({**UNET, "pretrained_sha256": "0" * 64}, "Its SHA-256 is "),
        ({**UNET, "network_filters": 8}, "the weights are of another network"),
    ],
)
def test_what_does_not_fit_ends_the_training_before_the_data_are_read(settings, words, bundle, data, tmp_path):
    torch.save(nnssl_checkpoint(their_unet()), tmp_path / "checkpoint_final.pth")
    settings = {**TRAIN, **settings, "check_data": True, "pretrained": str(tmp_path / "checkpoint_final.pth")}
    damaged = shutil.copytree(data["dataset_dir"], tmp_path / "damaged")
    next((damaged / "labelsTr").glob("*.gz")).write_bytes(b"")  # which would be told first if it were read first
    with pytest.raises(InputError) as caught:
        run_configured(bundle, "finetune", dataset_dir=str(damaged), **settings)
    assert words in str(caught.value)
    assert not (bundle / "models").exists()
    assert not (bundle / "output").exists()
