"""Convert BTCV (Synapse syn3193805), the abdominal CT of "Beyond the Cranial Vault", which has 13 organs.

SOURCE is the unpacked RawData: it holds Training/img, Training/label and, for the test images, Test/img or Testing/img.

Example:
    python scripts/convert/btcv.py RawData Dataset017_BTCV
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednextv2.data.conversion_cases import Converted, DatasetFacts, SourceCase
from mednextv2.data.conversion_command import main
from mednextv2.data.conversion_sources import Found, find_root, identity, list_files, read_labels

FACTS = DatasetFacts(
    id="btcv",
    title="BTCV abdomen (Beyond the Cranial Vault)",
    channels=("CT",),
    labels={
        1: "spleen", 2: "right_kidney", 3: "left_kidney", 4: "gallbladder", 5: "esophagus", 6: "liver", 7: "stomach",
        8: "aorta", 9: "inferior_vena_cava", 10: "portal_vein_and_splenic_vein", 11: "pancreas",
        12: "right_adrenal_gland", 13: "left_adrenal_gland",
    },
    reference="https://www.synapse.org/#!Synapse:syn3193805",
    licence="not stated; Synapse data use terms",
)  # fmt: skip


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Pair imgNNNN with labelNNNN; the case is called btcv_NNNN."""
    root = find_root(source, ["Training/img"], "the unpacked RawData of BTCV, which holds Training/img")
    found = Found()
    images = list_files(root / "Training" / "img", r"img(\d{4})\.nii\.gz", found)
    labels = list_files(root / "Training" / "label", r"label(\d{4})\.nii\.gz", found)
    found.add_pairs(*({f"btcv_{number}": file for number, file in files.items()} for files in (images, labels)))
    for folder in ("Test", "Testing"):  # copies differ
        for number, file in list_files(root / folder / "img", r"img(\d{4})\.nii\.gz", found).items():
            found.cases.append(SourceCase(f"btcv_{number}", (file,), "Ts"))
    return found


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Take over the image, and check the label map."""
    return Converted(case.files[:1], read_labels(case.files[1], identity(FACTS.labels)) if case.part == "Tr" else None)


if __name__ == "__main__":
    main(FACTS, find, convert, __doc__)
