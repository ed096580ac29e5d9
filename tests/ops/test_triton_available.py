"""Whether the Triton kernels can be used, and the reason where they cannot."""

import importlib.util
import sys

import pytest
import torch
import trial_standin as standin
from trial_standin import DEVICE, NAME

from mednextv2.ops import triton_available


@pytest.fixture(autouse=True)
def _asked_anew():
    triton_available.available.cache_clear()
    yield
    triton_available.available.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """A GPU, and Triton."""
    standin.install(monkeypatch.setattr)
    monkeypatch.setattr(triton_available, "available", lambda: (True, "Triton kernels"))
    monkeypatch.setattr(torch.version, "hip", None)


@pytest.mark.parametrize(
    ("platform", "installed", "expected"),
    [
        ("linux", True, (True, "Triton kernels")),
        ("linux", False, (False, "Triton is not installed (it comes with PyTorch for CUDA on Linux)")),
        ("darwin", True, (False, "the Triton kernels are for Linux")),
        ("win32", False, (False, "the Triton kernels are for Linux")),
    ],
)
def test_triton_is_there_where_it_is_installed_on_linux(platform, installed, expected, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed and name == "triton" else None)
    assert triton_available.available() == expected


def test_the_answer_is_that_of_this_installation():
    try:
        import triton  # noqa: F401
    except ImportError:
        installed = False
    else:
        installed = sys.platform.startswith("linux")
    assert triton_available.available()[0] == installed


@pytest.mark.usefixtures("gpu")
def test_nothing_is_said_against_a_gpu_that_is_new_enough(monkeypatch):
    for capability in ((8, 0), (8, 6), (9, 0), (12, 0)):
        standin.install(monkeypatch.setattr, capability)
        assert triton_available.unfit(DEVICE) is None
    assert triton_available.unfit(torch.device("cuda")) is None  # the current one


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("capability", [(7, 5), (7, 0), (6, 1)])
def test_an_old_gpu_is_named_with_what_it_lacks(capability, monkeypatch):
    standin.install(monkeypatch.setattr, capability)
    assert triton_available.unfit(DEVICE) == (
        f"the Triton kernels need compute capability 8.0, {NAME} has {capability[0]}.{capability[1]}"
    )


@pytest.mark.usefixtures("gpu")
def test_the_first_reason_is_told(monkeypatch):
    assert triton_available.unfit(torch.device("cuda", 1)) == "there is no GPU 1 here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert triton_available.unfit(torch.device("cuda", 1)) == "there is no GPU here that PyTorch can use"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert triton_available.unfit(DEVICE) == "the Triton kernels are for NVIDIA GPUs"
    monkeypatch.setattr(triton_available, "available", lambda: (False, "Triton is not installed"))
    assert triton_available.unfit(DEVICE) == "Triton is not installed"
