"""The formats of exported networks."""

import sys

import pytest
import torch

from mednextv2.bundle.export_formats import FORMATS, Sizes, needs
from mednextv2.errors import InputError


def test_examples_are_the_window_and_a_small_one_with_unequal_axes():
    axes = [{"multiple": 16, "least": 32}, {"multiple": 16, "least": 32}, {"size": 16}]
    assert Sizes(1, [64, 96, 16], axes).examples() == [(64, 96, 16), (32, 48, 16)]


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_network_of_one_size_takes_any_number_of_windows(format, tmp_path):
    network = torch.nn.Conv3d(1, 2, 3, padding=1).eval()
    sizes = Sizes(1, [4, 5, 6], [{"size": 4}, {"size": 5}, {"size": 6}])
    file = tmp_path / f"model.{format}"
    assert FORMATS[format].write(network, file, sizes) == sizes
    if format == "pt2":
        with torch.no_grad():
            assert torch.export.load(file).module()(torch.zeros(7, 1, 4, 5, 6)).shape == (7, 2, 4, 5, 6)
        return
    import onnx

    shape = onnx.load(file).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in shape] == [0, 1, 4, 5, 6]  # 0: any


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages_of_onnx_are_one_message(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs the package {package}, .*mednextv2\[onnx\]"):
        needs("onnx")
    for other in ("ts", "pt2", "trt"):
        needs(other)
