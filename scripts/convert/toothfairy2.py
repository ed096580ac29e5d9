"""Convert ToothFairy2, which has jaws, canals, sinuses, pharynx, dental work and 32 teeth in cone-beam CT.

SOURCE is the unpacked ToothFairy2_Dataset.zip, or its folder Dataset112_ToothFairy2. The label values, which follow the
FDI numbers of the teeth with gaps, become 1 to 42 as in nnU-Net's Dataset119_ToothFairy2_All.

Example:
    python scripts/convert/toothfairy2.py Dataset112_ToothFairy2 Dataset119_ToothFairy2_All
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednextv2.data.conversion_cases import Converted, DatasetFacts, SourceCase
from mednextv2.data.conversion_command import main
from mednextv2.data.conversion_sources import Found, find_root, list_files, read_labels
from mednextv2.images.volume import read_volume

_OTHER = (
    "Lower Jawbone", "Upper Jawbone", "Left Inferior Alveolar Canal", "Right Inferior Alveolar Canal",
    "Left Maxillary Sinus", "Right Maxillary Sinus", "Pharynx", "Bridge", "Crown", "Implant",
)  # fmt: skip
#: The quadrants of the FDI notation, 1 to 4, as the patient sees them.
_QUADRANTS = ("Upper Right", "Upper Left", "Lower Left", "Lower Right")
_TEETH = (
    "Central Incisor", "Lateral Incisor", "Canine", "First Premolar", "Second Premolar", "First Molar",
    "Second Molar", "Third Molar",
)  # fmt: skip
#: The names of the values in the files; 19, 20, 29, 30, 39 and 40 are placeholders that no voxel may have.
RAW = dict(enumerate(_OTHER, start=1)) | {
    10 * q + t: f"{quadrant} {tooth}"
    for q, quadrant in enumerate(_QUADRANTS, start=1)
    for t, tooth in enumerate(_TEETH, start=1)
}
REMAP = {raw: new for new, raw in enumerate(sorted(RAW), start=1)}
FACTS = DatasetFacts(
    id="toothfairy2",
    title="ToothFairy2",
    channels=("CBCT",),
    labels={new: RAW[raw] for raw, new in REMAP.items()},
    reference="https://ditto.ing.unimore.it/toothfairy2/",
    licence="CC BY-SA 4.0",
)
LAYOUT = "the folder Dataset112_ToothFairy2, which holds imagesTr and labelsTr"


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Pair images and label maps, both MetaImage files."""
    refused = {"imagesTr/ToothFairy3*": "is ToothFairy3, which has other structures and files"}
    root = find_root(source, ["imagesTr/ToothFairy2*"], LAYOUT, refused)
    found = Found()
    images = list_files(root / "imagesTr", r"(ToothFairy2[FP]_\d+)_0000\.mha", found)
    found.add_pairs(images, list_files(root / "labelsTr", r"(ToothFairy2[FP]_\d+)\.mha", found))
    return found


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Read the image, and make the values of the label map consecutive."""
    return Converted([read_volume(case.files[0])], read_labels(case.files[1], REMAP))


if __name__ == "__main__":
    main(FACTS, find, convert, __doc__)
