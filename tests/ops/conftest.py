import pytest
import torch
import trial_standin as standin
from triton_helpers import GPU, INTERPRETED

from mednextv2.ops import _trial_worker_pool as children
from mednextv2.ops import implementations, native, trial


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU with kernels of its own, and an empty cache folder."""
    standin.install(monkeypatch.setattr)
    monkeypatch.setattr(implementations, "_wanted", "auto")
    monkeypatch.setattr(children, "workers", lambda _: 2)
    monkeypatch.setenv("TRIAL_LOG", str(tmp_path / "log"))
    monkeypatch.setenv(native.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "_known", {})
    monkeypatch.setattr(trial, "_said", set())
    return tmp_path / "cache"


@pytest.fixture
def kernels_and_dirty_memory(request):
    """Skip where the Triton kernels cannot run; fill memory that nothing was written to with NaN."""
    if not (GPU or INTERPRETED) and not request.function.__name__.startswith("test_the_interpreter_agrees"):
        pytest.skip("runs inside test_the_interpreter_agrees")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=GPU)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def small_launches(monkeypatch):
    """Let a small problem need many tiles, and every program several of them."""
    from mednextv2.ops import _triton_configs  # Triton, which is not everywhere

    Config = _triton_configs.Config  # noqa: N806
    for name in ("norms", "output", "compression", "expansion", "expand", "expand_again", "expanded_gradient"):
        monkeypatch.setitem(_triton_configs.TRIAL, name, Config((16, 16), 4, 2, programs=8, depth=16))
    for name in ("compress", "input"):
        monkeypatch.setitem(_triton_configs.TRIAL, name, Config((16, 16), 4, 2, programs=0, depth=16))
    monkeypatch.setattr(_triton_configs, "MOMENTS", (4, 2))
    monkeypatch.setitem(_triton_configs.TRIAL, "depthwise_gather", Config((2, 32), 2, 1))
    monkeypatch.setitem(_triton_configs.TRIAL, "depthwise_weight", Config((2, 32), 2, 1, programs=16))


@pytest.fixture(params=["thin", "wide"])
def width(request, monkeypatch):
    """Which family of kernels a small problem takes."""
    from mednextv2.ops import _folded_mlp_launch

    monkeypatch.setattr(_folded_mlp_launch, "is_thin", lambda *_: request.param == "thin")
    return request.param
