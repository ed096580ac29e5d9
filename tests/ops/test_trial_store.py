"""The file of verdicts on GPU kernels."""

import pytest
import torch
import trial_standin as standin
from trial_standin import DEVICE, problem

from mednextv2.ops import _trial_store, native
from mednextv2.ops._trial_store import Verdict


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A stand-in for a GPU, and an empty cache folder."""
    standin.install(monkeypatch.setattr)
    monkeypatch.setenv(native.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_disk_that_is_full_leaves_no_half_file(gpu, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_trial_store.os, "replace", full)
    _trial_store.Store(_trial_store.card(DEVICE)).write({})
    assert list(gpu.iterdir()) == []
    assert "No space left on device" in lines(caplog)[0]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"verdicts": [{}]}', '{"verdicts": [{"case": {"dtype": "rn"}, "kind": "passed", "reason": ""}]}'],
)
def test_a_damaged_file_is_made_anew(gpu, caplog, content):
    kept = _trial_store.Store(_trial_store.card(DEVICE))
    kept.write({})
    kept.path.write_text(content)
    assert kept.read() == {}
    assert len(lines(caplog)) == 1
    assert f"{kept.path} is damaged" in lines(caplog)[0]
    assert not kept.path.exists()


def test_verdicts_survive_writing_and_reading(gpu):
    kept = _trial_store.Store(_trial_store.card(DEVICE))
    verdicts = {
        problem(1): Verdict("passed"),
        problem(2, torch.float32): Verdict("hung", "did not end within 60 s"),
    }
    kept.write({**verdicts, problem(3): Verdict("memory", "could not be tried")})
    assert kept.read() == verdicts
    kept.path.write_text(kept.path.read_text().replace('"hung"', '"bored"'))
    assert kept.read() == {}


def test_verdicts_are_for_one_combination(gpu, monkeypatch):
    first = _trial_store.Store(_trial_store.card(DEVICE)).path
    monkeypatch.setattr(_trial_store, "_driver", lambda: "590.2")
    assert _trial_store.Store(_trial_store.card(DEVICE)).path != first


def test_a_file_that_cannot_be_read_costs_one_line(gpu, caplog):
    kept = _trial_store.Store(_trial_store.card(DEVICE))
    kept.path.mkdir(parents=True)
    assert kept.read() == {}
    kept.write({})
    assert len(lines(caplog)) == 1
    assert "are not kept" in lines(caplog)[0]
    assert list(gpu.iterdir()) == [kept.path]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 12",
            "580.95.05",
        ),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57  Mon\n", "470.57"),
        ("something else", "for CUDA 13000"),
        (None, "for CUDA 13000"),
    ],
)
def test_the_drivers_version_is_part_of_the_combination(monkeypatch, tmp_path, text, version):
    file = tmp_path / "version"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(_trial_store, "DRIVER_FILE", file)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 13000, raising=False)
    assert _trial_store._driver() == version
