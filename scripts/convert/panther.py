"""Convert PANTHER (Zenodo 15192302), which has the pancreas and pancreatic tumours in MR.

The images of task 1 are T1-weighted; those of task 2 are from an MR-Linac.

SOURCE is the unpacked PANTHER_Task1.zip or PANTHER_Task2.zip, or a folder that holds both. Images without a label map
(ImagesTr_unlabeled) are left out.

Example:
    python scripts/convert/panther.py PANTHER_Task1 Dataset090_PANTHER1 --task 1
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednextv2.data.conversion_cases import Converted, DatasetFacts, SourceCase
from mednextv2.data.conversion_command import main
from mednextv2.data.conversion_sources import Found, find_root, identity, list_files, read_labels
from mednextv2.errors import InputError
from mednextv2.images.volume import read_volume

LABELS = {1: "tumour", 2: "pancreas"}
_MODALITY = {1: "T1w contrast-enhanced MR", 2: "T2w MR-Linac"}
UNLABELLED = "ImagesTr_unlabeled"


def facts(options: Mapping[str, Any]) -> DatasetFacts:
    """Return the facts of a task."""
    task = options["task"]
    return DatasetFacts(
        id=f"panther_task{task}",
        title=f"PANTHER Task {task}, {_MODALITY[task]} (MICCAI 2025)",
        channels=("MRI",),
        labels=LABELS,
        reference="https://doi.org/10.5281/zenodo.15192302",
        licence="CC BY-NC 4.0 or CC BY-NC-SA 4.0 (sources differ; read the record)",
    )


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Pair images and label maps; `10000_0001` is the name of a case, `_0000` after it the channel."""
    task = options["task"]
    layout = f"the folder PANTHER_Task{task}, which holds ImagesTr and LabelsTr"
    own = source / f"PANTHER_Task{task}"
    root = find_root(own if own.is_dir() else source, ["ImagesTr"], layout)
    is_other = root.name == f"PANTHER_Task{3 - task}" or (task == 2 and (root / UNLABELLED).is_dir())
    if is_other:
        raise InputError(f"{root}: is task {3 - task}; give --task {3 - task}, or {layout}")
    found = Found()
    images = list_files(root / "ImagesTr", r"(.+)_0000\.mha", found)
    found.add_pairs(images, list_files(root / "LabelsTr", r"(.+)\.mha", found))
    found.ignored += sorted((root / UNLABELLED).glob("*"))
    return found


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Read the image, and check the label map."""
    return Converted([read_volume(case.files[0])], read_labels(case.files[1], identity(LABELS)))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this converter."""
    parser.add_argument(
        "--task", type=int, choices=(1, 2), default=1, help="1: T1-weighted MR; 2: MR-Linac (default: 1)"
    )


if __name__ == "__main__":
    main(facts, find, convert, __doc__, add_options)
