"""From the bundle's own evaluation to the page, with the commands that users give."""

import csv

import torch
from forked_processes import run_module
from report_helpers import LOG, read_page

from mednextv2.nets import create_mednext


def test_evaluation_of_the_bundle_is_reported(phantom, tmp_path):
    weights = tmp_path / "fold_0" / "model.pt"
    weights.parent.mkdir()
    torch.save(create_mednext("v2_tiny", out_channels=3, deep_supervision=True).state_dict(), weights)
    (weights.parent / "training_log.csv").write_text(LOG)
    settings = {
        "dataset_dir": phantom, "weights": weights, "output_dir": "out", "patch_size": "[32,32,32]", "overlap": 0.0,
        "test_mirror_axes": "[]", "check_data": "False",
    }  # fmt: skip
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    result = run_module("mednextv2", "run", "mednextv2_hippocampus", "evaluate", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    (tmp_path / "out").rename(tmp_path / "moved")
    result = run_module("mednextv2", "report", tmp_path / "moved", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    page = read_page(tmp_path / "moved" / "report.html")
    assert page.of("title")[0] == "mednextv2_hippocampus, fold 0"
    assert [row[0] for row in page.tables[0][2:]] == ["anterior", "posterior", "Mean of the classes"]
    with (tmp_path / "moved" / "cases.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [row[0] for row in page.tables[-1][2:]] == list(dict.fromkeys(row["case"] for row in rows))
    assert page.tables[-1][2][4] == f"{float(rows[0]['dice']):.3f}"
    assert len(page.all("polyline")) == 3
    assert len(page.all("svg", **{"class": "slice"})) == 2 * 3
