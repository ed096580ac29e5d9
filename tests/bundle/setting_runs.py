"""Workflows of a bundle, run with a few settings of their own."""

import json
import shutil
from pathlib import Path

import torch
import yaml
from bundle_helpers import HIPPOCAMPUS
from configured_runs import Run, make_workflow
from dicom_helpers import numbers, write_series
from recipe_settings import EVALUATE, INFERENCE, TRAIN

from mednextv2 import recipes
from mednextv2.bundle.run import check_overrides, workflow_files
from mednextv2.nets import create_mednext
from mednextv2.weights.files import digest_file

TABLES = {"train": TRAIN, "evaluate": EVALUATE, "inference": INFERENCE}
QUICK = {
    "train": {"batch_size": 2, "epochs": 1, "iterations_per_epoch": 1, "val_iterations": 1, "num_workers": 0},
    "evaluate": {"overlap": 0.0, "num_workers": 0, "test_mirror_axes": []},
    "inference": {"overlap": 0.0, "num_workers": 0, "test_mirror_axes": []},
}


class Workflow(Run):
    """A workflow of the hippocampus bundle."""

    def __init__(self, workflow, shared, settings, network=None):
        self.shared = shared
        files = workflow_files(HIPPOCAMPUS, workflow, network)
        check_overrides(files, settings)
        self.settings = {"patch_size": [16, 16, 16], **settings}
        super().__init__(make_workflow(HIPPOCAMPUS, workflow, files, self.settings))

    @property
    def masks(self):
        return sorted(p.name for p in self.output.rglob("*_seg.nii.gz"))


def make_shared(folder, small_phantom):
    """Fill a folder with what the runs have in common: data, weights, DICOM series, a choice of post-processing."""
    shutil.copytree(small_phantom, folder / "Task04_Hippocampus")
    (folder / "images").mkdir()
    for name in ("phantom_000.nii.gz", "phantom_001.nii.gz"):
        shutil.copy(small_phantom / "imagesTr" / name, folder / "images")
    shutil.copytree(small_phantom / "labelsTr", folder / "labels")
    for name, number in (("study/a", 3), ("study/b", 4), ("one series", 5)):
        write_series(folder / name, numbers((20, 18, 17), seed=number), SeriesNumber=number)
    (folder / "list.json").write_text(json.dumps({"testing": [{"image": "images/phantom_000.nii.gz"}]}))
    (folder / "postprocessing.json").write_text('{"steps": [[1]]}')
    Workflow("train", folder, settings_of("train", folder, folder / "trained")).run()
    shutil.copytree(HIPPOCAMPUS, folder / "two folds", ignore=shutil.ignore_patterns("output", "fold_*"))
    for name in ("fold_0", "fold_2", "wide/fold_0"):
        (folder / "two folds" / "models" / name).mkdir(parents=True)
        shutil.copy(folder / "trained" / "model.pt", folder / "two folds" / "models" / name)
    names = [f"phantom_{i:03d}" for i in range(6)]
    (folder / "splits.json").write_text(json.dumps([{"train": names[:5], "val": names[5:]}]))
    for size in (1, 3, 5):
        weights = create_mednext("v2_tiny", out_channels=3, deep_supervision=True, kernel_size=size).state_dict()
        torch.save(weights, folder / f"kernel {size}.pt")


def settings_of(workflow, shared, output, **settings):
    given = {**QUICK[workflow], "output_dir": "at:out", "dataset_dir": "at:Task04_Hippocampus", **settings}
    if workflow == "train":
        given = {"prepared_dir": "at:prepared", **given}
    else:
        given = {"weights": f"at:kernel {given.get('kernel_size', 3)}.pt", **given}
    if workflow == "inference":
        given = {"input": "at:images", **given}
        if given["input"] == "$None":
            del given["input"]
    if given.get("weights") == "the bundle's":
        del given["weights"]
    if given["output_dir"] == "at:out":
        given["output_dir"] = str(output)
    return {name: at(value, shared) for name, value in given.items()}


def at(value, shared):
    if isinstance(value, list):
        return [at(v, shared) for v in value]
    if value == "of the file":
        return digest_file(shared / "trained" / "model.pt")
    return str(shared / value[3:]) if isinstance(value, str) and value.startswith("at:") else value


def recipe(name):
    text = (Path(recipes.__path__[0]) / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
