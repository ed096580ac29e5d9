"""Convert TotalSegmentator v2 (Zenodo 10047292), which has 117 structures in CT.

SOURCE is the unpacked Totalsegmentator_dataset_v201.zip: it holds meta.csv and a folder for each case, such as s0000
with ct.nii.gz and segmentations/*.nii.gz. The masks of a case become one label map; where two masks overlap, the
structure with the higher number is kept, and the voxels are counted. The split in meta.csv is used: its training and
validation cases become fold 0, and its test cases become test cases with label maps.

Example:
    python scripts/convert/totalsegmentator.py Totalsegmentator_dataset_v201 Dataset300_TotalSegmentator
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mednextv2.data.collection_layouts import read_meta
from mednextv2.data.conversion_cases import Converted, DatasetFacts, SourceCase
from mednextv2.data.conversion_command import main
from mednextv2.data.conversion_sources import Found, find_root, list_folders, missing_files
from mednextv2.data.voxel_grids import compare_grids
from mednextv2.errors import InputError
from mednextv2.images.label_map_files import as_label_map
from mednextv2.images.volume import read_volume
from mednextv2.wording import count

_RIGHT_LEFT, _LEFT_RIGHT = ("right", "left"), ("left", "right")


def _sides(names: str, sides: tuple[str, str]) -> list[str]:
    return [f"{name}_{side}" for name in names.split() for side in sides]


_VERTEBRAE = ["S1", *(f"{k}{n}" for k, top in (("L", 5), ("T", 12), ("C", 7)) for n in range(top, 0, -1))]
_NAMES = [
    "spleen", *_sides("kidney", _RIGHT_LEFT), "gallbladder", "liver", "stomach", "pancreas",
    *_sides("adrenal_gland", _RIGHT_LEFT), "lung_upper_lobe_left", "lung_lower_lobe_left", "lung_upper_lobe_right",
    "lung_middle_lobe_right", "lung_lower_lobe_right", "esophagus", "trachea", "thyroid_gland", "small_bowel",
    "duodenum", "colon", "urinary_bladder", "prostate", *_sides("kidney_cyst", _LEFT_RIGHT), "sacrum",
    *(f"vertebrae_{name}" for name in _VERTEBRAE), "heart", "aorta", "pulmonary_vein", "brachiocephalic_trunk",
    *_sides("subclavian_artery common_carotid_artery", _RIGHT_LEFT), *_sides("brachiocephalic_vein", _LEFT_RIGHT),
    "atrial_appendage_left", "superior_vena_cava", "inferior_vena_cava", "portal_vein_and_splenic_vein",
    *_sides("iliac_artery iliac_vena humerus scapula clavicula femur hip", _LEFT_RIGHT), "spinal_cord",
    *_sides("gluteus_maximus gluteus_medius gluteus_minimus autochthon iliopsoas", _LEFT_RIGHT), "brain", "skull",
    *(f"rib_{side}_{number}" for side in _LEFT_RIGHT for number in range(1, 13)), "sternum", "costal_cartilages",
]  # fmt: skip
FACTS = DatasetFacts(
    id="totalsegmentator_v2",
    title="TotalSegmentator v2 (CT)",
    channels=("CT",),
    labels=dict(enumerate(_NAMES, start=1)),
    reference="https://doi.org/10.5281/zenodo.6802613",
    licence="CC BY 4.0",
)
#: Masks that only other versions of the data set have.
_OTHER_VERSIONS = {"heart_myocardium": 1, "vertebrae_L6": 3}
LAYOUT = "the folder of TotalSegmentator v2, which holds meta.csv and s0000, s0001, …"


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Find the image and the 117 masks of each case, and the split."""
    root = find_root(source, ["meta.csv", "s????/ct.nii.gz"], LAYOUT)
    found = Found()
    splits = read_meta(root / "meta.csv")
    folders = list_folders(root, r"s\d{4}", found)
    found.ignored.remove(root / "meta.csv")
    for name in sorted({*folders, *splits}):
        folder = root / name
        masks = folder / "segmentations"
        for mask, version in _OTHER_VERSIONS.items():
            if (masks / f"{mask}.nii.gz").exists():
                raise InputError(
                    f"{masks}: has {mask}.nii.gz, so this is version {version} of the data set, whose structures have "
                    "other numbers; download version 2.0.1 (Zenodo 10047292)"
                )
        files = (folder / "ct.nii.gz", *(masks / f"{label}.nii.gz" for label in _NAMES))
        missing = [file for file in files if not file.is_file()]
        if name not in splits:
            found.excluded[name] = "is not named in meta.csv"
        elif missing:
            found.incomplete[name] = missing_files(missing, "download or unpack the case again")
        else:
            found.cases.append(SourceCase(name, files, "Ts" if splits[name] == "test" else "Tr"))
            known = {*files, masks}
            found.ignored += [f for place in (folder, masks) for f in sorted(place.iterdir()) if f not in known]
    training, validation = (
        [case.name for case in found.cases if splits[case.name] == part] for part in ("train", "val")
    )
    found.split = [(training, validation)]
    return found


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Join the masks: where several overlap, the structure with the higher number is kept."""
    label: np.ndarray | None = None
    overlap = 0
    for value, file in enumerate(case.files[1:], start=1):
        array, affine = read_volume(file)
        mask = as_label_map(array, str(file), ("background", "structure"), 3) > 0
        if label is None:
            label, first = np.zeros(mask.shape, np.uint8), (file, mask.shape, affine)
        if problem := compare_grids(tuple(map(str, first[:1])) + first[1:], (str(file), mask.shape, affine)):
            raise InputError(problem)
        overlap += int(np.count_nonzero(label[mask]))
        label[mask] = value
    assert label is not None  # there are 117 masks
    notes = [f"{count(overlap, 'voxel')} of two masks; the structure with the higher number is kept"] if overlap else []
    return Converted(case.files[:1], (label, first[2]), notes, (case.files[0], case.files[1].parent))


if __name__ == "__main__":
    main(FACTS, find, convert, __doc__)
