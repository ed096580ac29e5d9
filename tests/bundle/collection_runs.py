"""Short workflows of the bundle for supervised pretraining, on a collection of three small data sets."""

import yaml
from bundle_helpers import BUNDLES
from configured_runs import make_workflow

from mednextv2.bundle.run import check_overrides, workflow_files
from mednextv2.data import make_task_phantom
from mednextv2.errors import find_input_error
from mednextv2.label_scheme import LabelScheme

NAME = "mednextv2_pretrain_ct"


COLLECTIONS = BUNDLES / NAME / "collections"


CT = [{"scheme": "ct", "lower": -1024.0, "upper": 276.0, "mean": -370.0, "std": 436.0}]


#: Data sets that annotate different structures, some of them the same: their labels, and those in the bundle.
PARTS = {
    "first": {"Spleen": "spleen", "Liver": "liver"},
    "second": {"l1": "liver", "l2": "heart", "l3": "aorta"},
    "third": {"brain": "brain"},
}


QUICK = {
    "variant": "v2_tiny", "patch_size": [16, 16, 16], "batch_size": 2, "epochs": 1, "iterations_per_epoch": 2,
    "val_iterations": 2, "num_workers": 0,
}  # fmt: skip


WINDOWS = {"variant": "v2_tiny", "patch_size": [16, 16, 16], "overlap": 0.0, "num_workers": 0}


def make_parts(folder, cases=5, shape=(20, 22, 18)):
    """Three data sets of phantoms, and a collection of them."""
    for number, (name, labels) in enumerate(PARTS.items()):
        scheme = LabelScheme(["background", *labels])
        make_task_phantom(folder / name, scheme, ["CT"], [1.5] * 3, CT, shape, cases, seed=number)
    entries = [{"root": name, "labels": dict(labels)} for name, labels in PARTS.items()]
    (folder / "collection.yaml").write_text(
        yaml.safe_dump({"datasets": entries, "overlaps": {"third": ["Other"]}}, sort_keys=False)
    )
    return folder / "collection.yaml"


def configured(workflow, bundle=BUNDLES / NAME, **settings):
    """A workflow of a bundle as MONAI makes it, with some settings."""
    files = workflow_files(bundle, workflow)
    settings = {**(QUICK if workflow not in ("evaluate", "inference") else WINDOWS), **settings}
    check_overrides(files, settings)
    return make_workflow(bundle, workflow, files, settings)


def run(workflow, **settings):
    made = configured(workflow, **settings)
    try:
        made.initialize()
        made.run()
    except Exception as e:  # MONAI wraps it, and the command line finds it again
        raise find_input_error(e) or e from e
    return made
