"""Runs of a bundle's workflows as `mednextv2 run` configures them, within the test's process."""

import shutil
from pathlib import Path

import torch
from bundle_helpers import HIPPOCAMPUS
from monai.bundle import ConfigWorkflow

from mednextv2.bundle.run import as_setting, configure
from mednextv2.errors import find_input_error

TRAIN = {
    "patch_size": [16, 16, 16], "batch_size": 2, "epochs": 1, "iterations_per_epoch": 1, "val_iterations": 1,
    "num_workers": 0, "check_data": False,
}  # fmt: skip
PREDICT = {"overlap": 0.0, "num_workers": 0, "test_mirror_axes": [], "check_data": False}


def copy_bundle(folder):
    """Copy the bundle without its weights to a folder, and return its new place."""
    bundle = folder / "mednextv2_copy"
    shutil.copytree(HIPPOCAMPUS, bundle, ignore=shutil.ignore_patterns("models", "output"))
    return bundle


def make_workflow(bundle, workflow, files, settings):
    """A workflow of a bundle, from its configuration files and the settings that replace theirs."""
    return ConfigWorkflow(
        config_file=files, meta_file=str(bundle / "configs" / "metadata.json"), logging_file=False,
        workflow_type="infer" if workflow in ("evaluate", "inference") else "train",
        **{"bundle_root": str(bundle), **{name: as_setting(name, value) for name, value in settings.items()}},
    )  # fmt: skip


class Run:
    """A workflow; `[...]` is what an entry of its configuration becomes."""

    def __init__(self, workflow):
        self.workflow, self.parser = workflow, workflow.parser

    def run(self):
        self.workflow.initialize()
        self.workflow.run()
        return self

    def __getitem__(self, name):
        return self.parser.get_parsed_content(name)

    @property
    def output(self):
        return Path(self["output_dir"])

    @property
    def log(self):
        return [line.split(",") for line in (self.output / "training_log.csv").read_text().splitlines()]

    def load(self, name):
        return torch.load(self.output / name, weights_only=True)


def run_configured(bundle, workflow, **settings):
    """Run a workflow; `network` may be among the settings."""
    work = Run(make_workflow(bundle, workflow, *configure(bundle, workflow, settings)))
    try:
        return work.run()
    except Exception as e:
        raise find_input_error(e) or e from None
