"""The bundle against MONAI's specification: properties, metadata, network check, exports."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from benchmark_helpers import PRETRAIN_MAE, make_data
from bundle_helpers import BUNDLES, HIPPOCAMPUS
from forked_processes import run_module
from monai.bundle import ConfigWorkflow
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties

from mednextv2.inference.exported_network import ExportedNetwork
from mednextv2.nets import create_mednext

NAMES = sorted(p.name for p in BUNDLES.iterdir() if p.is_dir())
CONFIGS = HIPPOCAMPUS / "configs"
META = ("--meta_file", CONFIGS / "metadata.json", "--config_file", CONFIGS / "inference.yaml")


@pytest.mark.parametrize(
    ("workflow", "kind", "properties"),
    [
        ("train", "train", TrainProperties),
        ("inference", "infer", InferProperties),
        ("evaluate", "infer", InferProperties),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_every_property_resolves(name, workflow, kind, properties, small_phantom, tmp_path):
    bundle = BUNDLES / name
    if name == PRETRAIN_MAE and workflow == "inference":
        assert not (bundle / "configs" / "inference.yaml").exists()  # it segments nothing
        return
    own = (HIPPOCAMPUS, BUNDLES / PRETRAIN_MAE)  # the phantom is like the data of these two
    data = small_phantom if bundle in own else make_data(name, tmp_path / "data")
    source = {"input": str(data / "imagesTr")} if workflow == "inference" else {}
    prepared = {"prepared_dir": str(tmp_path)} if workflow == "train" else {}
    run = ConfigWorkflow(
        workflow_type=kind,
        config_file=str(bundle / "configs" / f"{workflow}.yaml"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(bundle), dataset_dir=str(data), output_dir=str(tmp_path), **source, **prepared,
    )  # fmt: skip
    run.initialize()
    assert run.check_properties() == []
    for prop in {**properties, **MetaProperties}:
        value = getattr(run, prop)
        # inference has no reference to score against; training scores its validation alone, without postprocessing
        if (workflow, prop) not in {
            ("inference", "key_metric"), ("train", "train_key_metric"), ("train", "train_postprocessing"),
            ("train", "val_postprocessing"),
        }:  # fmt: skip
            assert value is not None, prop


def test_verify_metadata_passes_with_a_local_schema(tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text((Path(__file__).parent / "metadata_schema.json").read_text())
    arguments = ("monai.bundle", "verify_metadata", "--filepath", schema, "--meta_file")
    assert run_module(*arguments, CONFIGS / "metadata.json").returncode == 0
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    del metadata["network_data_format"]["outputs"]["pred"]["num_channels"]
    (tmp_path / "broken.json").write_text(json.dumps(metadata))
    assert run_module(*arguments, tmp_path / "broken.json").returncode != 0


def test_verify_net_in_out_passes():
    result = run_module("monai.bundle", "verify_net_in_out", "network_def", *META, "--bundle_root", HIPPOCAMPUS)
    assert result.returncode == 0, result.stderr[-3000:]


def test_ckpt_export_scripts_the_network(trained, tmp_path):
    result = run_module(
        "monai.bundle", "ckpt_export", "network_def", "--filepath", tmp_path / "model.ts",
        "--ckpt_file", trained / "model.pt", *META, "--bundle_root", HIPPOCAMPUS,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    scripted = torch.jit.load(tmp_path / "model.ts").eval()
    x = torch.randn(1, 1, 32, 16, 32)
    with torch.no_grad():
        torch.testing.assert_close(scripted(x), _network(trained)(x))


def documented(verb, trained, tmp_path):
    """Run one of MONAI's export commands as the README gives it, in a copy of the bundle with other weights."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    shutil.copytree(trained, tmp_path / "models", ignore=shutil.ignore_patterns("*checkpoint*"))
    text = (HIPPOCAMPUS / "docs" / "README.md").read_text().replace("\\\n", "")
    (line,) = (line for line in text.splitlines() if line.startswith(f"python -m monai.bundle {verb} "))
    return run_module(*shlex.split(line)[2:], cwd=tmp_path, timeout=3600)


@pytest.mark.slow
def test_the_documented_ckpt_export_traces_in_float32(trained, tmp_path):
    result = documented("ckpt_export", trained, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Mismatched" not in result.stderr
    _agrees(ExportedNetwork(tmp_path / "models" / "model.ts"), trained, 1e-4)


@pytest.mark.slow
def test_the_documented_onnx_export_takes_windows_of_any_size(trained, tmp_path):
    result = documented("onnx_export", trained, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    _agrees(ExportedNetwork(tmp_path / "models" / "model.onnx"), trained, 1e-3)


def test_the_documented_trt_export_asks_for_a_gpu(trained, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = documented("trt_export", trained, tmp_path)
    assert result.returncode == 1
    assert "Cannot find any GPU devices" in result.stderr  # all that comes before has worked


def _agrees(exported, trained, tolerance):
    for shape in ((1, 1, 48, 64, 48), (3, 1, 32, 64, 80)):
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(exported(x), _network(trained)(x), rtol=tolerance, atol=tolerance)


def _network(trained):
    network = create_mednext("v2_tiny", out_channels=3, deep_supervision=True)
    network.load_state_dict(torch.load(trained / "model.pt", weights_only=True))
    return network.eval()
