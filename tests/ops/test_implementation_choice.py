"""Which implementation a class of blocks takes: on CUDA by the verdict on its kernels, elsewhere by the device."""

import pytest
import torch
import trial_standin as standin
from trial_standin import DEVICE, RIGHT, WRONG, problem

from mednextv2 import ops
from mednextv2.ops import implementation_choice, native, trial


def test_a_path_that_is_asked_for_needs_no_verdict(gpu):
    for name in ("triton", "torch", "reference"):
        with ops.use(name):
            assert implementation_choice.choose_for(problem(RIGHT), DEVICE).name == name
    assert standin.trials() == []
    assert implementation_choice.choose_for(problem(RIGHT, torch.float64), DEVICE).name == "torch"
    assert implementation_choice.choose_for(problem(RIGHT)._replace(kernel_size=9), DEVICE).name == "torch"
    assert standin.trials() == []
    assert implementation_choice.choose_for(problem(RIGHT), torch.device("cuda")).name == "triton"  # the current one
    assert implementation_choice.choose_for(problem(RIGHT), DEVICE).name == "triton"
    assert standin.trials() == [RIGHT]


@pytest.mark.usefixtures("gpu")
def test_on_cuda_the_verdict_decides_and_is_asked_for_once():
    for _ in range(2):
        assert implementation_choice.choose_for(problem(RIGHT), DEVICE).name == "triton"
        failed = implementation_choice.choose_for(problem(WRONG), DEVICE)
        assert (failed.name, failed.reason) == (
            "torch",
            "the Triton kernels gave other numbers than PyTorch: gradient of w1 differs by 3e-01",
        )
    assert sorted(standin.trials()) == [RIGHT, WRONG]


@pytest.mark.usefixtures("gpu")
def test_products_in_float32_are_left_to_cublas_and_their_convolution_is_not():
    whole = problem(RIGHT, torch.float32)
    assert implementation_choice.choose_for(whole, DEVICE).name == "torch"
    assert "cuBLAS" in implementation_choice.choose_for(whole, DEVICE).reason
    assert implementation_choice.choose_for(whole._replace(expanded=0, grn=False), DEVICE).name == "triton"


def test_a_cpu_needs_no_trial(monkeypatch):
    monkeypatch.setattr(trial, "choice", None)  # would fail if it were called
    cpu = torch.device("cpu")
    for dtype in (torch.float32, torch.bfloat16):
        found = implementation_choice.choose_for(problem(8, dtype), cpu)
        assert found.name == ("native" if native.load().loaded else "torch")
    assert implementation_choice.choose_for(problem(8, torch.float64), cpu).name == "torch"
    assert implementation_choice.choose_for(problem(8)._replace(kernel_size=9), cpu).name == "torch"
    # the inside of a block has no depthwise kernel, whose size could be refused
    inside = implementation_choice.choose_for(problem(8, torch.float32)._replace(kernel_size=0), cpu)
    assert inside == implementation_choice.choose_for(problem(8, torch.float32), cpu)


def test_other_devices_have_no_kernels():
    found = implementation_choice.choose_for(problem(8), torch.device("mps"))
    assert (found.name, found.reason) == ("torch", "there are no kernels for mps devices")


def test_what_is_asked_for_holds_on_every_device():
    for name in ("torch", "reference"):
        with ops.use(name):
            for device in ("cpu", "cuda", "mps"):
                assert implementation_choice.choose_for(problem(8), torch.device(device)).name == name
