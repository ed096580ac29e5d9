"""Convert OAIZIB-CM (Hugging Face YongchengYAO/OAIZIB-CM): bones and cartilage of the knee in sagittal DESS MR.

SOURCE is the download with its four archives unpacked: imagesTr, labelsTr, imagesTs, labelsTs.

Example:
    python scripts/convert/oaizib_cm.py OAIZIB-CM Dataset301_OAIZIB
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednextv2.data.conversion_cases import Converted, DatasetFacts, SourceCase
from mednextv2.data.conversion_command import main
from mednextv2.data.conversion_sources import Found, find_root, identity, list_files, read_labels

FACTS = DatasetFacts(
    id="oaizib_cm",
    title="OAIZIB-CM",
    channels=("MRI",),
    labels={
        1: "femur",
        2: "femoral_cartilage",
        3: "tibia",
        4: "medial_tibial_cartilage",
        5: "lateral_tibial_cartilage",
    },
    reference="https://huggingface.co/datasets/YongchengYAO/OAIZIB-CM",
    licence="CC BY-NC 4.0",
)
LAYOUT = "the folder of OAIZIB-CM, which holds imagesTr, labelsTr, imagesTs and labelsTs, unpacked"


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Pair images and label maps, of the test cases, too."""
    root = find_root(source, ["imagesTr/oaizib_*"], LAYOUT)
    found = Found()
    for part in ("Tr", "Ts"):
        images, labels = (
            list_files(root / f"{kind}{part}", r"(oaizib_\d{3})(?:_0000)?\.nii\.gz", found)
            for kind in ("images", "labels")
        )
        found.add_pairs(images, labels, part)
    return found


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Take over the image, and check the label map."""
    return Converted(case.files[:1], read_labels(case.files[1], identity(FACTS.labels)))


if __name__ == "__main__":
    main(FACTS, find, convert, __doc__)
