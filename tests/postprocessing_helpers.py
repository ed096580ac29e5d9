"""Label maps of one row of voxels, schemes, and the definition of a step, written plainly on scikit-image."""

import nibabel as nib
import numpy as np
from skimage import measure

from mednextv2.label_scheme import LabelScheme

AB = LabelScheme(["background", "a", "b"])
NESTED = LabelScheme(
    ["background", "edema", "core", "active"],
    [
        {"name": "whole", "values": [1, 2, 3], "paint": 1},
        {"name": "tumour", "values": [2, 3], "paint": 2},
        {"name": "enhancing", "values": [3], "paint": 3},
    ],
)
INSIDE_FIRST = LabelScheme(NESTED.labels, [r._asdict() for r in reversed(NESTED.regions)])


def strip(text):
    """A label map of one row of voxels: `"11.2"` to 1, 1, 0, 2."""
    return np.array([0 if c == "." else int(c) for c in text], dtype=np.uint8)[:, None, None]


def text(label_map):
    """Return what :func:`strip` was made of."""
    return "".join("." if v == 0 else str(v) for v in label_map.ravel())


def save(path, array):
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return str(path)


def largest_by_definition(mask):
    components = measure.label(mask, connectivity=mask.ndim)
    sizes = {r.label: int(r.area) for r in measure.regionprops(components)}
    return np.isin(components, [label for label, size in sizes.items() if size == max(sizes.values())])


def step_by_definition(label_map, values):
    mask = np.isin(label_map, values)
    return np.where(mask & ~largest_by_definition(mask), 0, label_map)
