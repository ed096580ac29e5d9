import json
import re
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import gpu_predict_step
import gpu_tune

from mednextv2.nets import create_mednext
from mednextv2.nets.blocks import MedNeXtBlock
from mednextv2.ops import _triton_configs as configs
from mednextv2.ops._triton_configs import HALF, Config


@pytest.mark.parametrize("kernel", sorted({kernel for kernel, dtype in configs.UNTUNED if dtype == HALF}))
def test_neighbours_differ_in_one_thing(kernel):
    for config in configs.UNTUNED[kernel, HALF].values():
        found = set(gpu_tune.neighbours(kernel, config)) - {config}
        assert len(found) > 4
        for other in found:
            changed = [a != b for a, b in zip(astuple(config), astuple(other), strict=True)]
            assert sum(changed) == 1


class Hill:
    """A problem with one best configuration."""

    kernel = "expand"

    def seconds(self, config):
        wanted = (128, 64, 8, 4, 1056, 32)
        (rows, columns), *others = astuple(config)
        return 1 + sum(a != b for a, b in zip((rows, columns, *others), wanted, strict=True))


def test_the_best_configuration_is_found_step_by_step():
    best, before, after = gpu_tune.tune(Hill(), Config((64, 128), 4, 2, 528, 64), end=float("inf"))
    assert (best, before, after) == (Config((128, 64), 8, 4, 1056, 32), 7, 1)
    assert gpu_tune.tune(Hill(), Config((64, 128), 4, 2, 528, 64), end=0.0)[0] == Config((64, 128), 4, 2, 528, 64)


def test_a_dry_run_prints_lines_for_the_table(capsys):
    command = ["--dry", "--kernels", "norms", "--minutes", "0.01", "--variant", "v2_tiny", "--patch", "32"]
    assert gpu_tune.main(command) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "# predicted, for an H100, v2_tiny, bfloat16"
    assert len(lines) == 2
    for line in lines:
        entry, times = line.split(",  # ")
        (table,) = eval(f"{{{entry}}}", {"Config": Config, "HALF": HALF}).items()
        assert table[0][:3] == ((9, 0), "norms", HALF)
        assert table[0][3] in configs.UNTUNED["norms", HALF]
        before, after = map(float, re.findall(r"[\d.]+", times))
        assert 0 < after <= before


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_tune.main([]) == 2
    assert "There is no GPU to measure on" in capsys.readouterr().err


def test_a_prediction_of_a_step_says_that_it_is_one(tmp_path, capsys):
    gpu_predict_step.main(["--variant", "v2_tiny", "--patch", "32", "--output", str(tmp_path)])
    text = (tmp_path / "gpu-predicted-v2_tiny.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert text.startswith("# Predicted, not measured")
    found = json.loads((tmp_path / "gpu-predicted-v2_tiny.json").read_text())
    assert set(found) == {"train", "inference"}
    blocks = sum(isinstance(m, MedNeXtBlock) for m in create_mednext("v2_tiny").modules())
    assert found["inference"]["gather_kernel"]["launches"] == blocks
    assert found["train"]["gather_kernel"]["launches"] == 2 * blocks
    assert all(row["ms"] > 0 or row["unknown"] for rows in found.values() for row in rows.values())
