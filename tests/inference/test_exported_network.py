"""Exported networks in the place of the network: the same logits, and one message for what does not fit."""

import struct
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from export_helpers import FORMATS, PATCH, ROOT, export_small, small_network
from monai.data import MetaTensor
from onnx import helper

from mednextv2.errors import InputError
from mednextv2.inference import FoldEnsemble
from mednextv2.inference.exported_network import ExportedNetwork
from mednextv2.weights.exported_files import add_record


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One convolution in all formats that need no GPU."""
    folder = tmp_path_factory.mktemp("exported")
    for format in FORMATS:
        export_small(folder, format)
    return folder


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1, *PATCH), (3, 1, 64, 32, 16)])
def test_logits_are_those_of_the_network(format, shape, folder):
    x = torch.randn(shape)
    actual = ExportedNetwork(folder / f"one_convolution.{format}")(MetaTensor(x))
    assert type(actual) is torch.Tensor
    with torch.no_grad():
        torch.testing.assert_close(actual, small_network()(x))


@pytest.mark.parametrize("format", FORMATS)
def test_it_computes_in_float32_under_autocast_and_can_be_trained_or_evaluated(format, folder):
    x = torch.randn(1, 1, *PATCH)
    network = ExportedNetwork(folder / f"one_convolution.{format}").train().eval()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        actual = network(x)
    with torch.no_grad():
        torch.testing.assert_close(actual, small_network()(x))
        torch.testing.assert_close(network(x.half()), small_network()(x.half().float()))


@pytest.mark.parametrize("format", FORMATS)
def test_windows_that_do_not_fit_are_one_message(format, folder):
    network = ExportedNetwork(folder / f"one_convolution.{format}")
    with pytest.raises(InputError, match=r"is for 1 channel \(T1w\), but the images of this bundle have 2"):
        network(torch.zeros(1, 2, *PATCH))
    for shape in ((24, 48, 16), (16, 48, 16), (32, 48, 32)):
        with pytest.raises(InputError, match=r"windows of \(a multiple of 16, at least 32\) × .* × 16 voxels"):
            network(torch.zeros(1, 1, *shape))


@pytest.mark.parametrize("format", FORMATS)
def test_a_network_for_volumes_is_told_from_one_for_2d_images(format, folder):
    with pytest.raises(InputError, match="is a network for volumes, but this bundle is for 2D images; give an export"):
        ExportedNetwork(folder / f"one_convolution.{format}")(torch.zeros(1, 3, 32, 48))


@pytest.mark.parametrize("format", FORMATS)
def test_other_numbers_of_outputs_are_one_message(format, folder):
    network = ExportedNetwork(folder / f"one_convolution.{format}", outputs=[5, 4])
    with pytest.raises(InputError, match=r"it returns .*, where 5 or 4 outputs of the same size are expected"):
        network(torch.zeros(1, 1, *PATCH))


@pytest.mark.parametrize("format", FORMATS)
def test_other_labels_are_one_message(format, folder):
    file = folder / f"one_convolution.{format}"
    with pytest.raises(InputError, match=r"the weights are for the labels \[background, anterior, posterior\]"):
        FoldEnsemble(small_network(), file, labels=["background", "liver", "tumour"]).load()


def test_files_of_other_programs_run_without_a_record(tmp_path):
    image, logits = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("in", "out"))
    graph = helper.make_graph([helper.make_node("Relu", ["in"], ["out"])], "g", [image], [logits])
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "a.onnx")
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), tmp_path / "a.ts")
    x = torch.randn(1, 2, 5, 5, 5)
    for file in tmp_path.iterdir():
        torch.testing.assert_close(ExportedNetwork(file)(x), x.relu())


def test_networks_that_fail_or_return_something_else_are_one_message(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, x):
            return [x]

    torch.jit.save(torch.jit.script(Odd()), tmp_path / "list.ts")
    torch.jit.save(torch.jit.trace(torch.nn.Conv3d(4, 2, 1), torch.zeros(1, 4, 2, 2, 2)), tmp_path / "channels.ts")
    for name, text in (("list", "it returns list"), ("channels", "the exported network failed on a window")):
        with pytest.raises(InputError, match=text):
            ExportedNetwork(tmp_path / f"{name}.ts")(torch.zeros(1, 1, 2, 2, 2))


def test_a_file_that_its_reader_refuses_is_one_message(tmp_path):
    model = helper.make_model(helper.make_graph([helper.make_node("NoSuchOperator", ["a"], ["b"])], "g", [], []))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(InputError, match="not a file of ONNX that can be used here"):
        ExportedNetwork(tmp_path / "a.onnx")


@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxruntime"), ("ts", "torch_tensorrt")])
def test_a_missing_package_is_one_message(format, package, folder, tmp_path, monkeypatch):
    file = folder / f"one_convolution.{format}"
    monkeypatch.setitem(sys.modules, package, None)
    if format == "ts":  # as if it held engines of TensorRT
        file = tmp_path / "model_trt.ts"
        torch.jit.save(torch.jit.load(folder / "one_convolution.ts"), file)
        add_record(file, {"export": {"format": "trt"}})
    with pytest.raises(InputError, match=f"needs the package {package}"):
        ExportedNetwork(file)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_names_no_folder_of_the_machine_that_made_it(format, folder):
    file = folder / f"one_convolution.{format}"
    parts = {"": file.read_bytes()}
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            parts |= {name: archive.read(name) for name in archive.namelist()}
            assert archive.testzip() is None
        assert {name.split("/")[0] for name in parts if name} == {"archive"}
    words = [b".part-", *(str(path).encode() for path in (ROOT, Path(torch.__file__).parent, folder))]
    assert [(name, word) for name, part in parts.items() for word in words if word in part] == []


def test_parts_of_torchscript_begin_where_pytorch_lets_them_begin(folder):
    content = (folder / "one_convolution.ts").read_bytes()
    with zipfile.ZipFile(folder / "one_convolution.ts") as archive:
        starts = [part.header_offset for part in archive.infolist() if "/extra/" not in part.filename]
    names = [sum(struct.unpack("<HH", content[start + 26 : start + 30])) for start in starts]
    assert [(start + 30 + name) % 64 for start, name in zip(starts, names, strict=True)] == [0] * len(starts)
