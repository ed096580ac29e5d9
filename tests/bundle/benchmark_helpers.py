"""The bundles of published data sets: what is known about the data, data generated for them, and short workflows."""

import json
import shutil
from functools import cache
from pathlib import Path

import yaml
from bundle_helpers import BUNDLES, ROOT
from configured_runs import make_workflow
from monai.bundle import ConfigWorkflow

from mednextv2.bundle.run import check_overrides, workflow_files
from mednextv2.bundle.task import Task, read_task
from mednextv2.data import make_task_phantom

#: The entry of the facts about the data set of each bundle.
FACTS_OF = {
    "mednextv2_amos22": "amos22",
    "mednextv2_brainmetshare": "brainmetshare",
    "mednextv2_brats21": "brats21",
    "mednextv2_btcv": "btcv",
    "mednextv2_ctspine1k": "ctspine1k",
    "mednextv2_kits19": "kits19",
    "mednextv2_oaizib_cm": "oaizib_cm",
    "mednextv2_panther": "panther_task1",
    "mednextv2_pediatric_ct_seg": "pediatric_ct_seg",
    "mednextv2_toothfairy2": "toothfairy2",
    "mednextv2_totalsegmentator": "totalsegmentator_v2",
}
NAMES = sorted(FACTS_OF)
#: The bundle that trains without labels, which has no inference.
PRETRAIN_MAE = "mednextv2_pretrain_mae"
#: All bundles: also the one that comes with weights, and those for pretraining.
ALL = sorted([*NAMES, "mednextv2_hippocampus", "mednextv2_pretrain_ct", PRETRAIN_MAE])
#: Small enough for a second on one CPU core.
QUICK = {
    "train": {
        "variant": "v2_tiny", "patch_size": [16, 16, 16], "batch_size": 2, "epochs": 1, "iterations_per_epoch": 1,
        "val_iterations": 1, "num_workers": 0,
    },
    "evaluate": {
        "variant": "v2_tiny", "patch_size": [16, 16, 16], "num_workers": 0, "overlap": 0.0, "test_mirror_axes": [],
    },
}  # fmt: skip
QUICK["inference"] = QUICK["evaluate"]


@cache
def facts_about(name: str) -> dict:
    """Return what was found out about the data set of a bundle."""
    content = yaml.safe_load((ROOT / "tests" / "facts" / "datasets.yaml").read_text(encoding="utf-8"))
    (entry,) = [entry for entry in content["datasets"] if entry["id"] == FACTS_OF[name]]
    return entry


@cache
def task_of(name: str) -> Task:
    """Return the task of a bundle."""
    return read_task(BUNDLES / name / "task.yaml")


def make_data(name: str, folder: Path, shape=None, cases=5, spacing=None) -> Path:
    """Generate a data set with the labels, channels, regions and spacing of a bundle."""
    task = task_of(name)
    facts = task.workflow
    side = 6 * max(3, round(len(facts["labels"]) ** (1 / 3)) + 1)
    return make_task_phantom(
        folder, task.scheme(), facts["channels"], spacing or facts["spacing"], facts["normalization"],
        shape or (side, side + 3, side + 1), cases, seed=3,
    )  # fmt: skip


def files_of_case(dataset: Path, case: str, folder: Path) -> Path:
    """Copy the channels of a case to a folder of its own."""
    folder.mkdir()
    for file in (dataset / "imagesTr").glob(f"{case}_*"):
        shutil.copy(file, folder)
    return folder


def run_workflow(name: str, workflow: str, **settings) -> ConfigWorkflow:
    """Run a workflow of a bundle in this process, small, and return what MONAI made of it."""
    files = workflow_files(BUNDLES / name, workflow)
    settings = {**QUICK.get(workflow, QUICK["train"]), **settings}
    check_overrides(files, settings)
    run = make_workflow(BUNDLES / name, workflow, files, settings)
    run.initialize()
    run.run()
    return run


def metadata_of(name: str) -> dict:
    """Return the metadata of a bundle."""
    return json.loads((BUNDLES / name / "configs" / "metadata.json").read_text(encoding="utf-8"))
