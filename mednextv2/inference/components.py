"""Connected components of label maps: the largest is kept, and the others become background."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

Box = tuple[slice, ...]


def keep_largest(mask: np.ndarray) -> np.ndarray:
    """Keep the largest connected component of a mask; voxels that touch at a corner are connected.

    Components that share the largest size are all kept; MONAI's `KeepLargestConnectedComponent` keeps only one of them.

    Args:
        mask: A boolean mask, `(X, Y)` or `(X, Y, Z)`.

    Returns:
        A new mask.
    """
    kept = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is None:
        return kept
    inside = mask[box]
    components, _ = ndimage.label(inside, np.ones((3,) * mask.ndim))
    numbers = components[inside]
    sizes = np.bincount(numbers)
    kept[box][inside] = (sizes == sizes.max())[numbers]
    return kept


def apply_steps(label_map: np.ndarray, steps: Sequence[Sequence[int]]) -> np.ndarray:
    """Remove small components from a label map, one step after the other.

    Args:
        label_map: A label map with whole numbers of any type, `(X, Y)` or `(X, Y, Z)`.
        steps: Lists of label values. Each step keeps only the largest component of the union of its values (see
            :func:`keep_largest`); removed voxels become 0, the background.

    Returns:
        A new label map of the same type.
    """
    label_map = np.array(label_map)
    boxes = bounding_boxes(label_map) if steps else []
    for values in steps:
        if (found := removed_by(label_map, values, boxes)) is not None:
            box, removed = found
            label_map[box][removed] = 0
    return label_map


def removed_by(
    label_map: np.ndarray, values: Sequence[int], boxes: Sequence[Box | None]
) -> tuple[Box, np.ndarray] | None:
    """Return a box of the label map and a mask in it of the smaller components of a union of values, or None."""
    found = [boxes[v - 1] for v in values if v <= len(boxes) and boxes[v - 1] is not None]
    if not found:
        return None
    box = tuple(slice(min(s.start for s in along), max(s.stop for s in along)) for along in zip(*found, strict=True))
    part = label_map[box]
    low, high = min(values), max(values)
    inside = (part >= low) & (part <= high)  # one comparison for a whole range, such as the union of a hundred classes
    for value in set(range(low, high + 1)).difference(values):
        inside &= part != value
    return box, inside & ~keep_largest(inside)


def bounding_boxes(label_map: np.ndarray) -> list[Box | None]:
    """Return the bounding box of each value from 1 on."""
    return ndimage.find_objects(label_map if label_map.dtype.kind in "iu" else label_map.astype(np.int32))


def bounding_box(mask: np.ndarray) -> Box | None:
    """Return the bounding box of a mask, or None if the mask is empty."""
    return ndimage.find_objects(mask.view(np.uint8), max_label=1)[0]
