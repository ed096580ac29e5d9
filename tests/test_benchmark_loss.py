"""The script that measures the loss for partly annotated labels."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "benchmark_loss.py"


@pytest.fixture
def call(monkeypatch):
    """A call of the script in this process, which has loaded its libraries already."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        monkeypatch.syspath_prepend(SCRIPT.parent)
        monkeypatch.setattr("mednextv2.allocator.keep_freed_memory", lambda: None)  # a setting of the whole process
        threads = torch.get_num_threads()
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        finally:
            torch.set_num_threads(threads)

    return call


def test_it_writes_a_table_and_its_numbers(tmp_path, call):
    small = ("--size", 16, "--classes", "3", "--batch", 3, "--rounds", 2, "--threads", 1, "--device", "cpu")
    call(*small, "--output", tmp_path)
    found = json.loads((tmp_path / "partial_loss.json").read_text())
    assert [(row["outputs"], row["kind"]) for row in found["rows"]] == [(3, "classes")] * 5 + [(2, "regions")] * 5
    assert all(r[key] > 0 for row in found["rows"] for r in row["rounds"] for key in r)
    page = (tmp_path / "partial_loss.md").read_text()
    assert page.count("| 3 classes |") == page.count("| 2 regions |") == 5


@pytest.mark.parametrize(("given", "message"), [(("--size", 40), "--size 40"), (("--classes", "2"), "--classes")])
def test_what_cannot_be_measured_is_refused(given, message, call, capsys):
    with pytest.raises(SystemExit) as e:
        call(*given)
    assert e.value.code == 2
    assert message in capsys.readouterr().err


def test_the_committed_table_stays_below_the_limit():
    """A step with partly annotated labels may take 1.1 times as long."""
    committed = ROOT / "docs" / "benchmarks" / "partial_loss" / "partial_loss.json"
    rows = json.loads(committed.read_text())["rows"]
    assert {row["outputs"] for row in rows} == {41, 40, 4, 3}
    for row in rows:
        ratios = sorted(r["partly_seconds"] / r["ordinary_seconds"] for r in row["rounds"])
        assert ratios[len(ratios) // 2] <= 1.1, (row["outputs"], row["annotated"])
