"""Slices of a case on three planes, through the most relevant place, in the orientation that radiologists use."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mednextv2.data.sizes import size_kind
from mednextv2.images.planes import is_plane
from mednextv2.report.outlines import outline
from mednextv2.report.volumes import load_case
from mednextv2.scores.results_json import CaseFiles, Results

#: The name of a plane, the axis (right, anterior, superior) that it cuts, and the patient's sides at the left, right,
#: top and bottom of the picture.
PLANES = (("axial", 2, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 0, "PASI"))
_MARGIN = (0.25, 10.0)  # margin around the labels: fraction of their extent, and smallest margin in mm
_SAMPLES = 2_000_000  # number of voxels from which the window is computed
_WINDOW = (0.5, 99.5)  # percentiles that become black and white


@dataclass(frozen=True)
class View:
    """One slice.

    Attributes:
        plane: The name of the plane.
        sides: The patient's sides at left, right, top and bottom.
        position: The voxel index of the slice along its axis.
        grey: Grey values, `(rows, columns)`, uint8.
        pixel: The width and height of a pixel in mm.
        prediction: The outline of each structure that occurs, by its index: an SVG path in pixels.
        reference: The same for the reference; empty without a label map.
    """

    plane: str
    sides: str
    position: int
    grey: np.ndarray
    pixel: tuple[float, float]
    prediction: dict[int, str]
    reference: dict[int, str]


@dataclass(frozen=True)
class CaseViews:
    """The slices of one case.

    Attributes:
        case: The name of the case.
        views: The slices on each plane; a 2D image has only one.
        error_size: The volume of the largest connected error in ml, or in a 2D image its area in mm². The slices go
            through it. None if there is no error.
    """

    case: str
    views: tuple[View, ...]
    error_size: float | None = None


def draw_case(case: CaseFiles, results: Results) -> CaseViews:
    """Cut a case through its largest connected error or, without an error, the middle of its labels.

    Args:
        case: The files of the case.
        results: The results, which give the meaning of the label values.

    Raises:
        InputError: If a file cannot be read, or the grids differ.
    """
    image, prediction, label, spacing = load_case(case)
    ignore = None if label is None or results.ignore_label is None else label == results.ignore_label
    codes = _codes(results.values)
    labelled = codes[prediction] > 0
    place, error_size = None, None
    if label is not None:
        error = codes[prediction] != codes[label]
        if ignore is not None:
            error &= ~ignore
        labelled |= codes[label] > 0
        if error.any():
            place, voxels = largest_component(error, spacing)
            error_size = voxels * size_kind(2 if is_plane(error.shape) else 3).of_voxel(np.diag([*spacing, 1.0]))
    place = middle(labelled) if place is None else place
    window = np.percentile(_sample(image), _WINDOW)
    box = _crop(labelled, spacing, place)
    views = [
        _view(plane, image, prediction, label, spacing, place, box, window, results.values)
        for plane in PLANES
        if min(n for i, n in enumerate(image.shape) if i != plane[1]) > 1 or image.shape[plane[1]] == 1
    ]
    return CaseViews(case.case, tuple(views), error_size)


def largest_component(error: np.ndarray, spacing: Sequence[float]) -> tuple[tuple[int, ...], int]:
    """Find the largest connected part of an error.

    Args:
        error: A boolean mask, `(X, Y, Z)`, not all false. Voxels are connected through their faces.
        spacing: The size of a voxel in mm.

    Returns:
        The voxel that is deepest inside the part, and the number of voxels of the part.
    """
    box = bounding_box(error)
    parts, _ = ndimage.label(error[box])
    sizes = np.bincount(parts.reshape(-1, order="A"))
    sizes[0] = 0
    part = parts == sizes.argmax()
    inner = bounding_box(part)
    depth = ndimage.distance_transform_edt(np.pad(part[inner], 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    deepest = np.unravel_index(depth.argmax(), depth.shape)
    place = tuple(int(i + a.start + b.start) for i, a, b in zip(deepest, inner, box, strict=True))
    return place, int(sizes.max())


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box that holds a mask, which is not empty."""
    box = []
    for axis in range(mask.ndim):
        there = np.flatnonzero(mask.any(axis=tuple(i for i in range(mask.ndim) if i != axis)))
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(box)


def middle(mask: np.ndarray) -> tuple[int, ...]:
    """Return the median of a mask's voxels along each axis, or the middle of the grid for an empty mask."""
    place = []
    for axis, size in enumerate(mask.shape):
        count = np.count_nonzero(mask, axis=tuple(i for i in range(mask.ndim) if i != axis)).cumsum()
        place.append(int(np.searchsorted(count, count[-1] / 2)) if count[-1] else size // 2)
    return tuple(place)


def cut(array: np.ndarray, axis: int, position: int) -> np.ndarray:
    """Cut a plane out of a volume.

    Args:
        array: Voxels along right, anterior, superior, `(X, Y, Z)`.
        axis: The axis across the plane.
        position: The index along that axis.

    Returns:
        The slice, `(rows, columns)`, in viewing orientation: anterior or superior at the top; the patient's left on the
        right-hand side if the plane contains it, and otherwise anterior.
    """
    plane = np.take(array, position, axis=axis).T[::-1]
    return plane if axis == 0 else plane[:, ::-1]


def _codes(values: Sequence[Sequence[int]]) -> np.ndarray:
    """Give label values with the same structures the same number, and values without a structure 0."""
    belongs: dict[int, tuple[int, ...]] = {}
    for structure, group in enumerate(values):
        for value in group:
            belongs[value] = (*belongs.get(value, ()), structure)
    numbers = {group: n for n, group in enumerate(dict.fromkeys(belongs.values()), 1)}
    codes = np.zeros(2**16, np.uint16)
    for value, group in belongs.items():
        codes[value] = numbers[group]
    return codes


def _sample(image: np.ndarray) -> np.ndarray:
    """Return finite voxels of an image, evenly spread if there are many."""
    step = max(1, int(np.ceil((image.size / _SAMPLES) ** (1 / 3))))
    values = image[::step, ::step, ::step]
    values = values[np.isfinite(values)]
    return values if values.size else np.zeros(1)


def _crop(labelled: np.ndarray, spacing: Sequence[float], place: Sequence[int]) -> tuple[slice, ...]:
    """Return the box around the labels, with a margin; the whole image if nothing is labelled."""
    if not labelled.any():
        return tuple(slice(0, n) for n in labelled.shape)
    box = []
    for side, size, mm, here in zip(bounding_box(labelled), labelled.shape, spacing, place, strict=True):
        low, high = min(side.start, here), max(side.stop, here + 1)
        margin = int(np.ceil(max(_MARGIN[0] * (high - low), _MARGIN[1] / mm)))
        box.append(slice(max(0, low - margin), min(size, high + margin)))
    return tuple(box)


def _view(
    plane: tuple[str, int, str],
    image: np.ndarray,
    prediction: np.ndarray,
    label: np.ndarray | None,
    spacing: Sequence[float],
    place: Sequence[int],
    box: tuple[slice, ...],
    window: np.ndarray,
    values: Sequence[Sequence[int]],
) -> View:
    name, axis, sides = plane
    position = place[axis]
    here = position - box[axis].start
    width, height = (spacing[i] for i in range(3) if i != axis)
    slices = np.nan_to_num(cut(image[box], axis, here).astype(np.float64))
    low, high = window
    grey = np.rint(255 * np.clip((slices - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)
    outlines = [{} if a is None else _outlines(cut(a[box], axis, here), values) for a in (prediction, label)]
    return View(name, sides, position, grey, (width, height), outlines[0], outlines[1])


def _outlines(plane: np.ndarray, values: Sequence[Sequence[int]]) -> dict[int, str]:
    there = set(np.unique(plane).tolist())
    return {
        structure: outline(np.isin(plane, group))
        for structure, group in enumerate(values)
        if not there.isdisjoint(group)
    }
