import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mednextv2 import ops
from mednextv2.nets import create_mednext
from mednextv2.ops import implementations, native
from mednextv2.ops.implementations import Choice


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
    command = [sys.executable, "-m", "mednextv2", "doctor"]
    environment = {**os.environ, implementations.SETTING: "quick"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "error: MEDNEXTV2_OPS is auto, torch, reference or triton, not 'quick'"
    assert "Traceback" not in result.stderr


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


@pytest.mark.parametrize("train", [False, True])
def test_no_samples_give_no_samples(train):
    network = create_mednext("v2_tiny", deep_supervision=False).train(train)
    y = network(torch.zeros(0, 1, 16, 32, 16))
    assert y.shape == (0, 2, 16, 32, 16)
    y.sum().backward()
