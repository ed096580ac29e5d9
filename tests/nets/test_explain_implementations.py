"""What is told about the path of each block, and that it is the one that is taken."""

import pytest
import torch

from mednextv2.nets import create_mednext, explain
from mednextv2.nets.explain_implementations import Explanation, Layer
from mednextv2.ops import implementation_choice, implementations, trial, triton_available
from mednextv2.ops.implementations import Choice


def test_explain_tells_every_block_in_the_order_of_work():
    explanation = explain(create_mednext("v2_tiny"), (1, 1, 64, 32, 48))
    assert len(explanation) == 2 * (18 + 8)
    assert [layer.block for layer in explanation[:6:2]] == ["encoder.0.0", "encoder.0.1", "down.0"]
    assert explanation[0].size == "16 × 64×32×48"
    bottleneck = next(layer for layer in explanation if layer.block == "bottleneck.0")
    assert bottleneck.size == "256 × 4×2×3"
    assert next(layer for layer in explanation if layer.block == "up.0").size == "256 × 4×2×3"
    assert explanation[-1].block == "decoder.3.1"
    assert "26 blocks" in str(explanation)


@pytest.mark.parametrize(
    ("device", "dtype", "kernel", "path", "reason"),
    [
        ("cpu", torch.float64, 3, "torch", "not float64"),
        ("cpu", torch.float16, 3, "torch", "not float16"),
        ("cuda", torch.float64, 3, "torch", "not float64"),
        ("cuda", torch.float32, 9, "torch", "kernel sizes 3, 5 and 7, not 9"),
        ("cuda", torch.float16, 3, "torch", "the verdict of a test"),
        ("mps", torch.float32, 3, "torch", "no kernels for mps"),
    ],
)
def test_a_fallback_has_a_reason(device, dtype, kernel, path, reason, monkeypatch):
    monkeypatch.setattr(trial, "_known", {})
    monkeypatch.setattr(triton_available, "unfit", lambda _: "the verdict of a test")
    network = create_mednext("v2_tiny", kernel_size=kernel)
    layer = explain(network, (1, 1, 16, 16, 16), device, dtype)[0]
    assert layer.path == path
    assert reason in layer.reason


def test_explain_agrees_with_what_runs(monkeypatch):
    """The path that the operators take is the one that is told."""
    ran = []
    choose = implementations.choose
    monkeypatch.setattr(implementations, "choose", lambda *a: ran.append(choose(*a).name) or choose(*a))
    network = create_mednext("v2_tiny")
    told = {layer.path for layer in explain(network, (1, 1, 16, 16, 16))}
    ran.clear()
    with torch.no_grad():
        network(torch.randn(1, 1, 16, 16, 16))
    assert set(ran) == told
    assert len(ran) == 3 * 26  # the joined block, and each of its halves


def test_explain_tells_the_inside_of_a_block_whose_convolution_has_no_kernels(monkeypatch):
    asked = []
    monkeypatch.setattr(
        implementation_choice, "choose_for", lambda problem, _: asked.append(problem) or Choice("torch", "a test")
    )
    explain(create_mednext("v2_tiny", kernel_size=9), (1, 1, 16, 16, 16))
    assert [(p.kernel_size, p.expanded > 0) for p in asked[:3]] == [(9, True), (9, False), (0, True)]


def test_explain_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="not a Conv3d"):
        explain(torch.nn.Conv3d(1, 1, 1), (1, 1, 16, 16, 16))
    with pytest.raises(ValueError, match="multiple of 16"):
        explain(create_mednext("v2_tiny"), (1, 1, 16, 16, 20))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 2, 16, 16, 16), None, "takes 1 channel, axis 1 of input_shape says 2"),
        ((0, 1, 16, 16, 16), None, "sequence of positive ints"),
        (16, None, "sequence of positive ints"),
        ("abc", None, "sequence of positive ints"),
        ((1, 1, 16, 16), None, "shape"),
        ((1, 1, 16, 16, 16), torch.int32, "floating-point torch.dtype"),
        ((1, 1, 16, 16, 16), "bfloat16", "floating-point torch.dtype"),
    ],
)
def test_explain_refuses_what_the_network_could_not_compute(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        explain(create_mednext("v2_tiny"), shape, dtype=dtype)


def test_explain_refuses_a_device_that_does_not_exist():
    with pytest.raises(ValueError, match="device is cpu, cuda or another device of PyTorch: got 'gpu'"):
        explain(create_mednext("v2_tiny"), (1, 1, 16, 16, 16), "gpu")


def test_layers_that_are_alike_share_a_line(monkeypatch):
    def choose_for(problem, device):
        return Choice("triton", "fits") if problem.channels <= 64 else Choice("torch", "too wide")

    monkeypatch.setattr(implementation_choice, "choose_for", choose_for)
    explanation = explain(create_mednext("v2_tiny"), (2, 1, 32, 32, 32))
    # up to 64 channels: three levels of encoder and decoder with two blocks each, three blocks down from them, two up
    assert [layer.block for layer in explanation if layer.path == "triton" and layer.operator == "depthwise"] == [
        "encoder.0.0", "encoder.0.1", "down.0", "encoder.1.0", "encoder.1.1", "down.1", "encoder.2.0", "encoder.2.1",
        "down.2", "decoder.1.0", "decoder.1.1", "up.2", "decoder.2.0", "decoder.2.1", "up.3", "decoder.3.0",
        "decoder.3.1",
    ]  # fmt: skip
    assert str(explanation).splitlines() == [
        "depthwise   triton     17 blocks (encoder.0.0 … decoder.3.1): fits",
        "folded_mlp  triton     17 blocks (encoder.0.0 … decoder.3.1): fits",
        "depthwise   torch       9 blocks (encoder.3.0 … up.1): too wide",
        "folded_mlp  torch       9 blocks (encoder.3.0 … up.1): too wide",
    ]


def test_one_block_is_named_alone():
    layers = [Layer("up.0", "depthwise", "8 × 4×4", "torch", "a test")]
    assert str(Explanation(layers)) == "depthwise   torch       1 blocks (up.0): a test"


def test_the_dtype_is_that_of_the_parameters_or_of_what_the_network_computes_in(monkeypatch):
    asked = set()
    monkeypatch.setattr(
        implementation_choice, "choose_for", lambda problem, _: asked.add(problem.dtype) or Choice("triton", "a test")
    )
    network, shape = create_mednext("v2_tiny", 2), (1, 1, 16, 16)
    for change, dtype, expected in [
        (lambda: None, None, torch.float32),
        (lambda: None, torch.float16, torch.float16),
        (lambda: setattr(network, "cpu_bfloat16", True), None, torch.bfloat16),
        (lambda: network.double(), torch.float32, torch.float32),
    ]:
        change()
        explain(network, shape, dtype=dtype)
        assert asked == {expected}
        asked.clear()


def test_on_a_gpu_all_kernels_are_tried_in_one_go(monkeypatch):
    tried = []
    monkeypatch.setattr(implementations, "_wanted", "auto")
    monkeypatch.setattr(trial, "ensure", lambda problems, device: tried.append((problems, device)))
    monkeypatch.setattr(trial, "choice", lambda problem, device: Choice("triton", "a test"))
    network = create_mednext("v2_tiny")
    explain(network, (1, 1, 16, 16, 16), "cuda", torch.bfloat16)
    assert tried == [(network.problems(torch.bfloat16), torch.device("cuda"))]
    explain(network, (1, 1, 16, 16, 16), "cpu", torch.bfloat16)
    assert len(tried) == 1
