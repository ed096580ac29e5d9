"""The benchmark of masked autoencoding runs on small networks, and its ratios are those of its rounds."""

import importlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from mednextv2.nets.masked_autoencoder import FORMS

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmark_masking")


def run(folder, *settings):
    command = [sys.executable, str(SCRIPTS / "benchmark_masking.py"), "--output", str(folder), "--name=small"]
    command += ["--patch=32", "--threads=1", *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    report, table = ((folder / f"small.{suffix}").read_text(encoding="utf-8") for suffix in ("json", "md"))
    assert sorted(p.name for p in folder.iterdir()) == ["small.json", "small.md"]
    return json.loads(report), table


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "kernels"), [("v2_tiny", ("native", "torch")), ("resenc_l", ("PyTorch",))])
def test_every_form_is_compared_with_the_dense_one_of_its_round(variant, kernels, tmp_path):
    settings = [f"--variant={variant}", "--rounds=3", "--block=8", "--ratio=0.6", "--batch=2"]
    report, table = run(tmp_path, *settings)
    assert [(row["form"], row["dtype"]) for row in report["rows"]] == [
        (form, dtype) for dtype in ("float32", "bfloat16") for form in FORMS
    ]
    for i, row in enumerate(report["rows"]):
        dense = report["rows"][i - i % len(FORMS)]
        ratios = [a / b for a, b in zip(row["seconds"], dense["seconds"], strict=True)]
        assert len(ratios) == 3
        assert row["ratio"][1] == pytest.approx(statistics.median(ratios))
        assert row["kernels"].startswith(kernels)
        assert f"| {row['form']} | {row['dtype']} | {row['kernels']} |" in table
    assert "cells of 8 voxels, of which 38 of 64 are hidden" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patch", "40"], "--patch: '40': give three positive multiples of 16"),
        (["--block", "12"], "--block, --ratio: block_size 12: a patch of 64×64×64 voxels is not a multiple of it"),
        (["--ratio", "1"], "--block, --ratio: mask_ratio 1.0: a mask would hide everything"),
        (["--dtype", "float32,int8"], "--dtype: 'float32,int8': choose of float32, bfloat16"),
        (["--variant", "v3"], "--variant: invalid choice: 'v3'"),
        (["--kernel-size", "4"], "--kernel-size: 4: give an odd number"),
        (["--rounds", "0"], "--rounds: '0': give a whole number from 1"),
    ],
)
def test_a_bad_option_is_named_with_what_to_do(script, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        script.parse_options(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
