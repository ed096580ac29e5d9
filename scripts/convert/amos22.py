"""Convert AMOS22 (Zenodo 7262581), which has abdominal CT and MR with 15 organs.

SOURCE is the unpacked amos22.zip: it holds imagesTr, labelsTr, imagesVa, labelsVa and imagesTs. The challenge's
training and validation cases become the training cases, for cross-validation as in nnU-Net. With --split challenge,
there is one fold, which keeps the challenge's validation cases. The number of a case tells whether it is CT or MR.

Example:
    python scripts/convert/amos22.py amos22 Dataset218_AMOS --modality ct
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednextv2.data.conversion_cases import Converted, DatasetFacts, SourceCase
from mednextv2.data.conversion_command import main
from mednextv2.data.conversion_sources import Found, find_root, identity, list_files, read_labels

LABELS = {
    1: "spleen", 2: "right_kidney", 3: "left_kidney", 4: "gall_bladder", 5: "esophagus", 6: "liver", 7: "stomach",
    8: "aorta", 9: "postcava", 10: "pancreas", 11: "right_adrenal_gland", 12: "left_adrenal_gland", 13: "duodenum",
    14: "bladder", 15: "prostate/uterus",
}  # fmt: skip
#: The highest number of a CT in each part; higher ones are MR (nnU-Net's Dataset218_Amos2022_task1.py).
LAST_CT = {"Tr": 410, "Va": 409, "Ts": 500}


def facts(options: Mapping[str, Any]) -> DatasetFacts:
    """Return the facts for CT, or for CT and MR: their channel is not called CT, so no window of CT is applied."""
    return DatasetFacts(
        id=f"amos22_{options['modality']}",
        title="AMOS22, CT" if options["modality"] == "ct" else "AMOS22, CT and MR",
        channels=("CT",) if options["modality"] == "ct" else ("CT_or_MR",),
        labels=LABELS,
        reference="https://zenodo.org/record/7262581",
        licence="CC BY 4.0",
    )


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Pair images and label maps of training and validation; test images have none."""
    root = find_root(source, ["imagesVa"], "the unpacked amos22, which holds imagesTr, labelsTr, imagesVa and labelsVa")
    found = Found()
    validation: list[str] = []
    for part in ("Tr", "Va", "Ts"):
        images, labels = (
            list_files(root / f"{kind}{part}", r"(amos_\d{4})\.nii\.gz", found) for kind in ("images", "labels")
        )
        if options["modality"] == "ct":
            numbers = {name: int(name[-4:]) for name in {*images, *labels}}
            other = {name for name, number in numbers.items() if number > LAST_CT[part]}
            found.excluded |= dict.fromkeys(other, "is MR, not CT (by its number); convert it with --modality all")
            images, labels = ({n: f for n, f in files.items() if n not in other} for files in (images, labels))
        if part == "Ts":
            found.cases += [SourceCase(name, (file,), "Ts") for name, file in images.items()]
        else:
            found.add_pairs(images, labels)
        validation += images if part == "Va" else []
    if options["split"] == "challenge":
        training = [case.name for case in found.cases if case.part == "Tr" and case.name not in validation]
        found.split = [(training, validation)]
    return found


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Take over the image, and check the label map."""
    return Converted(case.files[:1], read_labels(case.files[1], identity(LABELS)) if case.part == "Tr" else None)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this converter."""
    parser.add_argument(
        "--modality", choices=("ct", "all"), default="ct", help="ct: CT alone; all: CT and MR (default: ct)"
    )
    parser.add_argument(
        "--split", choices=("folds", "challenge"), default="folds",
        help="folds: training and validation cases are put together for five folds; challenge: there is one fold, with "
        "the validation cases of the challenge (default: folds)",
    )  # fmt: skip


if __name__ == "__main__":
    main(facts, find, convert, __doc__, add_options)
