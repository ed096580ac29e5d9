"""The weights that come with bundles: they load, and segment unseen cases as well as was written down."""

import csv
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_helpers import BUNDLES
from forked_processes import run_module

from mednextv2.bundle.task import read_task
from mednextv2.data import LabelScheme, read_dataset, split_dataset
from mednextv2.inference import find_weights
from mednextv2.nets import create_mednext
from mednextv2.weights import load_weights

ROOT = Path(__file__).parents[2]
DATA = os.environ.get("MEDNEXTV2_DATA")
SHIPPED = sorted(path.parents[1].name for path in BUNDLES.glob("*/models/model.pt"))


def test_weights_are_shipped_for_one_bundle():
    assert SHIPPED == ["mednextv2_hippocampus"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_fit_the_network_of_their_bundle(name):
    facts = read_task(BUNDLES / name / "task.yaml").workflow
    scheme = LabelScheme(facts["labels"], facts["regions"], facts["ignore_label"])
    network = create_mednext(facts["variant"], in_channels=len(facts["channels"]), out_channels=scheme.outputs,
                             deep_supervision=True)  # fmt: skip
    load_weights(network, BUNDLES / name / "models" / "model.pt")
    assert all(p.isfinite().all() for p in network.parameters())


@pytest.mark.skipif(not DATA, reason="MEDNEXTV2_DATA is not set")
def test_an_unseen_hippocampus_is_segmented_as_written_down(tmp_path):
    bundle, dataset = BUNDLES / "mednextv2_hippocampus", read_dataset(Path(DATA) / "Task04_Hippocampus")
    case = split_dataset(dataset, 0).validation[0]
    weights = BUNDLES / "mednextv2_hippocampus" / "models" / "model.pt"
    assert find_weights(bundle, fold="none") == [str(weights)]
    result = run_module("mednextv2", "run", bundle, "inference", "--input", case["image"],
                        "--weights", weights, "--output_dir", tmp_path)  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    mask, truth = (np.asarray(nib.load(f).dataobj) for f in (next(tmp_path.glob("*_seg.nii.gz")), case["label"]))
    with (ROOT / "docs" / "benchmarks" / "hippocampus-fold0" / "cases.csv").open(encoding="utf-8") as file:
        written = {row["label"]: float(row["dice"]) for row in csv.DictReader(file) if row["case"] == case["case"]}
    for value, name in ((1, "anterior"), (2, "posterior")):
        dice = 2 * ((mask == value) & (truth == value)).sum() / ((mask == value).sum() + (truth == value).sum())
        assert dice == pytest.approx(written[name], abs=0.01)  # bfloat16 and float32 differ a little
