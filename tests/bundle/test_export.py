"""Export of a bundle's network: the file, what it records, and what is refused."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from export_helpers import BUNDLE, LABELS, PATCH, export_small, make_weights, small_network
from predict_helpers import noise, save

from mednextv2.bundle import export as exporting
from mednextv2.bundle.export import export_bundle
from mednextv2.bundle.export_formats import FORMATS
from mednextv2.errors import InputError, UsageError
from mednextv2.inference.exported_network import ExportedNetwork
from mednextv2.weights import read_about


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export_small(folder, "ts", "small_mednext")
    return folder


def test_a_mednext_gives_its_logits_at_any_legal_size(folder):
    exported, network = ExportedNetwork(folder / "small_mednext.ts"), small_network("small_mednext")
    for shape in ((1, 1, *PATCH), (2, 1, 64, 32, 16)):
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(exported(x), network(x), rtol=1e-4, atol=1e-4)


def test_the_file_records_what_it_is(folder):
    about, weights = read_about(folder / "small_mednext.ts"), folder / "small_mednext_0.pt"
    assert {key: value for key, value in about.items() if key != "export"} == read_about(weights)
    export = about["export"]
    assert (export["bundle"], export["version"], export["format"]) == ("mednextv2_hippocampus", "0.1.0", "ts")
    assert (about["labels"], export["channels"], export["patch"]) == (LABELS, ["T1w"], PATCH)
    assert export["weights"] == [{"file": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}]
    extra = {"metadata.json": "", "inference.json": ""}
    torch.jit.load(folder / "small_mednext.ts", _extra_files=extra)
    assert json.loads(extra["metadata.json"]) == json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    assert json.loads(extra["inference.json"])["patch_size"] == PATCH


def test_several_weights_become_their_mean(tmp_path):
    network, first = make_weights(tmp_path)
    _, second = make_weights(tmp_path, seed=1)
    file = export_bundle(
        BUNDLE, "ts", tmp_path / "both.ts", network=network, weights=[str(first), str(second)], patch_size=PATCH
    )
    x = torch.randn(1, 1, *PATCH)
    with torch.no_grad():
        mean = (small_network(seed=0)(x) + small_network(seed=1)(x)) / 2
        torch.testing.assert_close(ExportedNetwork(file)(x), mean)
    about = read_about(file)
    assert about["training"] == ["case_0", "case_1"]  # evaluation refuses the cases of both
    assert len(about["export"]["weights"]) == 2


def test_predictions_with_the_file_are_those_with_the_weights(folder, tmp_path):
    import mednextv2

    image = save(tmp_path / "case.nii.gz", noise(40, 50, 30))
    settings = {"network": str(folder / "small_mednext.yaml"), "patch_size": PATCH, "amp": False, "device": "cpu"}
    settings["test_mirror_axes"] = []
    expected = mednextv2.predict(BUNDLE, image, weights=str(folder / "small_mednext_0.pt"), **settings)
    actual = mednextv2.predict(BUNDLE, image, weights=str(folder / "small_mednext.ts"), **settings)
    assert len(np.unique(expected.labels)) == 3
    assert (actual.labels == expected.labels).mean() >= 0.9999
    assert nib.load(image).shape == actual.labels.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "tf"}, "--format tf: should be one of ts, pt2, onnx, trt, safetensors"),
        ({"output": "a.pt"}, "--output a.pt: should be the name of a file that ends with .ts"),
        ({"output": "."}, "should be the name of a file that ends with .ts"),
        ({"amp": True}, "an exported network computes in float32"),
        ({"weight": "a.pt"}, "--weight: there is no such setting"),
    ],
)
def test_mistakes_on_the_command_line_are_one_message(arguments, message):
    with pytest.raises(UsageError) as e:
        export_bundle(BUNDLE, **arguments)
    assert message in str(e.value)


def test_weights_that_are_missing_or_exported_are_one_message(folder, tmp_path):
    with pytest.raises(InputError, match="there is no such checkpoint file"):
        export_bundle(BUNDLE, "ts", tmp_path / "a.ts", weights=str(tmp_path / "no.pt"))
    with pytest.raises(InputError, match="is exported already"):
        export_bundle(BUNDLE, "ts", tmp_path / "a.ts", weights=str(folder / "small_mednext.ts"),
                      network=str(folder / "small_mednext.yaml"))  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_changes_when_it_is_exported_is_not_written(tmp_path, monkeypatch):
    script = FORMATS["ts"]

    def write(network, file, *arguments):
        network.weight.data += 0.01
        sizes = script.write(network, file, *arguments)
        network.weight.data -= 0.01
        return sizes

    monkeypatch.setitem(exporting.FORMATS, "ts", script._replace(write=write))
    (tmp_path / "one_convolution.ts").write_text("before")
    with pytest.raises(InputError, match="not written, since the exported network differs from the network by"):
        export_small(tmp_path, "ts")
    assert (tmp_path / "one_convolution.ts").read_text() == "before"
    assert not list(tmp_path.glob(".part*"))


def test_tensorrt_without_a_gpu_ends_with_the_reason_of_monai(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    network, weights = make_weights(tmp_path, "small_mednext")
    with pytest.raises(InputError, match=r"cannot be exported to TensorRT .*Cannot find any GPU devices"):
        export_bundle(BUNDLE, "trt", tmp_path / "a.ts", network=network, weights=str(weights), patch_size=PATCH)
    assert not list(tmp_path.glob("*.ts"))


def test_tensorrt_takes_one_file_of_weights(tmp_path):
    network, first = make_weights(tmp_path)
    _, second = make_weights(tmp_path, seed=1)
    with pytest.raises(InputError, match="takes the weights of one training"):
        export_bundle(BUNDLE, "trt", tmp_path / "a.ts", network=network, weights=[str(first), str(second)])
