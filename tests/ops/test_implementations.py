import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mednextv2 import ops
from mednextv2.nets import create_mednext, explain
from mednextv2.ops import implementation_choice, implementations, native, trial, triton_available
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


def test_use_asks_for_a_path_and_gives_it_back():
    before = implementations.choose("cpu", torch.float32)
    with ops.use("reference"):
        assert implementations.choose("cpu", torch.float32).name == "reference"
        with ops.use("torch"):
            assert implementations.choose("cpu", torch.float32).name == "torch"
        assert ops.plain()
    assert implementations.choose("cpu", torch.float32) == before
    with pytest.raises(ValueError, match="auto, torch, reference or triton"), ops.use("fast"):
        pass


def test_a_wrong_setting_is_refused_by_name():
    code = "import os; os.environ['MEDNEXTV2_OPS'] = 'quick'; import mednextv2.ops"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MEDNEXTV2_OPS is auto, torch, reference or triton, not 'quick'" in result.stderr


def test_half_precision_is_wanted_where_the_instructions_are():
    """By Linux' list of what the processor has, not by what the library says."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    limited = os.environ.get(native.INSTRUCTIONS) in ("avx2", "avx512")
    assert ops.half_is_fast("cpu") == (native.load().loaded and "avx512_bf16" in flags and not limited)
    assert ops.half_is_fast("cuda")
    assert not ops.half_is_fast("mps")


def test_the_words_of_a_reason_decide_nothing(monkeypatch):
    loaded, fast = native.load().loaded, ops.half_is_fast("cpu")
    monkeypatch.setattr(native, "load", lambda: native.Outcome(native.State.ABSENT, "words about bfloat16"))
    assert not ops.half_is_fast("cpu")
    assert implementations.choose("cpu", torch.float32) == Choice("torch", "words about bfloat16")
    if loaded:
        for words in ("words about bfloat16", "no words"):
            library = native.Outcome(native.State.LOADED, words)
            monkeypatch.setattr(native, "load", lambda library=library: library)
            assert ops.half_is_fast("cpu") == fast


def test_a_network_can_be_followed_before_the_library_was_asked_for_anything():
    """The library is asked for its instructions inside a graph that is traced, with tensors that hold no numbers."""
    code = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from mednextv2.nets import MedNeXt
with FakeTensorMode(), torch.no_grad():
    print(tuple(MedNeXt(init_filters=4)(torch.empty(1, 1, 16, 16, 16)).shape))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "(1, 2, 16, 16, 16)", result.stderr


def test_a_network_that_computes_in_bfloat16_returns_float32_near_the_exact_result():
    network = create_mednext("v2_tiny", out_channels=3, deep_supervision=True)
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        exact = network(x)
        network.cpu_bfloat16 = True
        rounded = network(x)
    for a, b in zip(rounded, exact, strict=True):
        assert a.dtype == torch.float32
        assert 0 < (a - b).norm() < 0.05 * b.norm()


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


@pytest.mark.parametrize("train", [False, True])
def test_no_samples_give_no_samples(train):
    network = create_mednext("v2_tiny", deep_supervision=False).train(train)
    y = network(torch.zeros(0, 1, 16, 32, 16))
    assert y.shape == (0, 2, 16, 32, 16)
    y.sum().backward()


def test_explain_refuses_a_device_that_does_not_exist():
    with pytest.raises(ValueError, match="device is cpu, cuda or another device of PyTorch: got 'gpu'"):
        explain(create_mednext("v2_tiny"), (1, 1, 16, 16, 16), "gpu")
