"""Small data sets in the layouts of a collection, and collection files about them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from mednextv2.data.dataset import read_dataset
from mednextv2.label_scheme import LabelScheme

SCHEME = LabelScheme(["background", "spleen", "liver", "heart"])
AFFINE = np.diag([2.0, 1.5, 1.0, 1.0])


def save(path: Path, array, affine=AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array), affine), path)
    return path


def image(seed=0, shape=(6, 5, 4)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def blocks(*values, shape=(6, 5, 4)):
    """A label map with a slab of each value."""
    label = np.zeros(shape, np.uint8)
    for place, value in enumerate(values):
        label[place] = value
    return label


def two_folders(root: Path, cases, *values) -> Path:
    for number, name in enumerate(cases):
        save(root / "images" / f"{name}.nii.gz", image(number))
        save(root / "labels" / f"{name}.nii.gz", blocks(*values))
    return root


def cads(root: Path, cases, parts) -> Path:
    """A source of CADS; `parts` has the label map of each part."""
    for number, name in enumerate(cases):
        save(root / "images" / f"{name}_0000.nii.gz", image(number))
        for part, label in parts.items():
            save(root / "segmentations" / name / f"{name}_part_{part}.nii.gz", label)
    return root


def totalsegmentator(root: Path, cases, masks, splits=None) -> Path:
    for number, name in enumerate(cases):
        save(root / name / "ct.nii.gz", image(number))
        for mask, label in masks.items():
            save(root / name / "segmentations" / f"{mask}.nii.gz", label)
    if splits:
        lines = ["image_id;age;split", *(f"{name};50;{part}" for name, part in zip(cases, splits, strict=True))]
        (root / "meta.csv").write_text("\n".join(lines) + "\n")
    return root


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def collection(path: Path, *datasets, **more) -> Path:
    return write(path, {"datasets": [*datasets], **more})


def read(path, scheme=SCHEME):
    return read_dataset(path, scheme=scheme)
