"""Convert BraTS 2021 (Synapse syn25829067), which has gliomas in T1, T1 with contrast, T2 and FLAIR MR.

SOURCE is the unpacked folder of the training cases. It holds a folder for each case, such as BraTS2021_00000 with
BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz. The label values become those of nnU-Net: 1 edema, 2 necrotic or
non-enhancing core, 3 enhancing tumour.

Example:
    python scripts/convert/brats21.py BraTS2021_Training_Data Dataset137_BraTS21
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednextv2.data.conversion_cases import Converted, DatasetFacts, SourceCase
from mednextv2.data.conversion_command import main
from mednextv2.data.conversion_sources import Found, find_root, list_folders, missing_files, read_labels

FACTS = DatasetFacts(
    id="brats21",
    title="BraTS 2021 (RSNA-ASNR-MICCAI)",
    channels=("T1", "T1ce", "T2", "FLAIR"),
    labels={
        1: "edema (ED)",
        2: "necrotic/non-enhancing core (NCR/NET)",
        3: "enhancing tumour (ET)",
    },
    reference="https://www.synapse.org/#!Synapse:syn25829067/wiki/610863",
    licence="CC BY-NC; Synapse terms",
    regions={"whole_tumour": (1, 2, 3), "tumour_core": (2, 3), "enhancing_tumour": (3,)},
    regions_order=(1, 2, 3),
)
#: The new value for each value in the files, in which 1 is the core, 2 the edema and 4 the enhancing tumour.
REMAP = {1: 2, 2: 1, 4: 3}
PARTS = ("t1", "t1ce", "t2", "flair", "seg")
OTHER = "holds BraTS 2023 or later, whose channels and labels have other names and values"
LAYOUT = "the folder of the training cases, which holds BraTS2021_00000 and so on"


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Find the five files of each case."""
    root = find_root(source, ["BraTS2021_?????"], LAYOUT, {"BraTS-*": OTHER})
    found = Found()
    for name, folder in list_folders(root, r"BraTS2021_\d{5}", found).items():
        files = tuple(folder / f"{name}_{part}.nii.gz" for part in PARTS)
        missing = [file for file in files if not file.is_file()]
        if missing:
            found.incomplete[name] = missing_files(missing, "copy or unpack the case again")
        else:
            found.cases.append(SourceCase(name, files))
        found.ignored += [file for file in sorted(folder.iterdir()) if file not in files]
    return found


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Take over the images, and change the values of the label map."""
    return Converted(case.files[:4], read_labels(case.files[4], REMAP))


if __name__ == "__main__":
    main(FACTS, find, convert, __doc__)
