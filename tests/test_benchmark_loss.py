"""The script that measures the loss for partly annotated labels."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "benchmark_loss.py"


def call(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_it_writes_a_table_and_its_numbers(tmp_path):
    small = ("--size", 16, "--classes", "3", "--batch", 3, "--rounds", 2, "--threads", 1, "--device", "cpu")
    result = call(*small, "--output", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads((tmp_path / "partial_loss.json").read_text())
    assert [(row["outputs"], row["kind"]) for row in found["rows"]] == [(3, "classes")] * 5 + [(2, "regions")] * 5
    assert all(r[key] > 0 for row in found["rows"] for r in row["rounds"] for key in r)
    page = (tmp_path / "partial_loss.md").read_text()
    assert page.count("| 3 classes |") == page.count("| 2 regions |") == 5


@pytest.mark.parametrize(("given", "message"), [(("--size", 40), "--size 40"), (("--classes", "2"), "--classes")])
def test_what_cannot_be_measured_is_refused(given, message):
    result = call(*given)
    assert result.returncode == 2
    assert message in result.stderr


def test_the_committed_table_stays_below_the_limit():
    """A step with partly annotated labels may take 1.1 times as long."""
    committed = ROOT / "docs" / "benchmarks" / "partial_loss" / "partial_loss.json"
    rows = json.loads(committed.read_text())["rows"]
    assert {row["outputs"] for row in rows} == {41, 40, 4, 3}
    for row in rows:
        ratios = sorted(r["partly_seconds"] / r["ordinary_seconds"] for r in row["rounds"])
        assert ratios[len(ratios) // 2] <= 1.1, (row["outputs"], row["annotated"])
