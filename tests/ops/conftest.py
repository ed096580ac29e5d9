import pytest
import trial_standin as standin

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
