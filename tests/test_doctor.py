"""What the examination of a machine finds; GPUs are stand-ins."""

import types

import pytest
import torch
import trial_standin as standin
from doctor_helpers import install_gpu, rows

from mednextv2.doctor import examine
from mednextv2.errors import InputError
from mednextv2.nets import create_mednext
from mednextv2.ops import _trial_worker_pool as children
from mednextv2.ops import implementations, native
from mednextv2.ops._trial_store import Verdict


@pytest.fixture
def tried(monkeypatch, tmp_path):
    """A GPU whose kernels are right but for those of 32 channels; returns what was tried, and how often."""
    return install_gpu(monkeypatch, tmp_path)


def test_a_reason_is_given_for_a_gpu_that_is_not_there(monkeypatch):
    def too_old():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    assert "none that PyTorch can use: The NVIDIA driver on your system is too old (found" in examine().text
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is ''" in examine().text
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "it finds no device" in examine().text


def test_what_could_not_be_tried_is_no_verdict(tried, monkeypatch):
    monkeypatch.setattr(children, "try_all", lambda cases, *_: ((c, Verdict("memory", "no memory")) for c in cases))
    found = examine("v2_tiny")
    assert not found.well
    assert "not tried 16 channels, expansion to 32, kernel 3, bfloat16: no memory" in rows(found.text)


def test_equal_gpus_are_tried_once_and_old_ones_not(tried, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    old = types.SimpleNamespace(name="Old", major=7, minor=5, total_memory=2**34)
    properties, capability = torch.cuda.get_device_properties, torch.cuda.get_device_capability
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d: old if d.index == 2 else properties(d))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: (7, 5) if d.index == 2 else capability(d))
    shown = rows(examine("v2_tiny", dtype="float16").text)
    assert "kernels as of GPU 0" in shown
    assert f"kernels none: the Triton kernels need compute capability 8.0, {standin.NAME} has 7.5" in shown
    assert len(tried) == len(create_mednext("v2_tiny").problems(torch.float16))


def test_a_cpu_library_that_could_not_be_built_is_the_exit_code(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = "there is no C++ compiler (Debian: apt install g++)"
    monkeypatch.setattr(native, "load", lambda: native.Outcome(native.State.BROKEN, words))
    assert not examine().well
    monkeypatch.setattr(native, "load", lambda: native.Outcome(native.State.ABSENT, words))
    found = examine()
    assert found.well
    assert f"CPU kernels none: {words}" in rows(found.text)


def test_a_path_chosen_by_hand_is_shown(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(implementations, "_wanted", "torch")
    assert "MEDNEXTV2_OPS torch: PyTorch's operators are used, and none of the kernels below" in rows(examine().text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"network": "v3"}, "--network v3: there is no such size of MedNeXt; choose one of v1_s"),
        ({"kernel_size": 4}, "--kernel_size 4: should be an odd number from 1 to 31"),
        ({"kernel_size": True}, "--kernel_size True: should be an odd number from 1 to 31"),
        ({"kernel_size": 1_000_001}, "--kernel_size 1000001: should be an odd number from 1 to 31"),
        ({"dtype": "float64"}, "--dtype float64: should be one of bfloat16, float16, float32"),
        ({"repeat": "yes"}, "--repeat yes: is a switch"),
    ],
)
def test_arguments_that_do_not_exist_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        examine(**arguments)
