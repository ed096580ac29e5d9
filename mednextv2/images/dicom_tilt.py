"""Series of a tilted gantry: resampled to right angles for the network, and masks brought back to the slices."""

import math

import numpy as np
from scipy import ndimage

_RIGHT_ANGLE = 0.01  # degrees
_SMALLEST_STEP = 1e-4  # of a column from slice to slice: a hundredth in a hundred slices


def tilt_degrees(affine: np.ndarray) -> float:
    """Return the angle between the direction in which slices follow each other and their normal."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    drift = affine[:3, 2]
    return math.degrees(math.atan2(np.linalg.norm(drift - normal * (drift @ normal)), abs(drift @ normal)))


def is_tilted(affine: np.ndarray) -> bool:
    """Return whether slices are sheared; :func:`mednextv2.images.dicom.series_affine` puts what is less right."""
    return tilt_degrees(affine) > _RIGHT_ANGLE


def without_shear(affine: np.ndarray) -> np.ndarray:
    """Return an affine whose slices follow each other along their normal, at the same distance."""
    found = affine.copy()
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    found[:3, 2] = normal * (affine[:3, 2] @ normal)
    return found


def straighten(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample sheared slices to a grid of right angles, which holds all of them; linear within each slice.

    Args:
        voxels: `(columns, rows, slices)`, one above the other along `affine`'s third column.
        affine: `(4, 4)`; its first two columns are at right angles.

    Returns:
        Voxels, as many slices of more columns and rows, where nothing was measured with the smallest value; and their
        affine. What has right angles is returned as it is.
    """
    moves, low, more = _moves(affine, voxels.shape[2])
    if not moves.any():
        return voxels, affine
    columns, rows, count = voxels.shape
    outside = float(voxels.min())
    straight = np.empty((columns + more[0], rows + more[1], count), np.float32)
    for k in range(count):
        straight[..., k] = ndimage.affine_transform(
            voxels[..., k], np.ones(2), low - moves[k], straight.shape[:2], np.float32, order=1, mode="grid-constant",
            cval=outside,
        )  # fmt: skip
    found = without_shear(affine)
    found[:3, 3] += affine[:3, :2] @ low
    return straight, found


def to_slices(labels: np.ndarray, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bring labels of the grid that :func:`straighten` made back to the slices, to the nearest voxel.

    Args:
        labels: `(columns, rows, slices)` of the grid of right angles.
        affine: Of the slices.
        shape: Of the slices, `(columns, rows, slices)`.
    """
    moves, low, _ = _moves(affine, shape[2])
    back = np.empty(shape, labels.dtype)
    for k, (column, row) in enumerate(np.rint(moves - low).astype(int)):
        back[..., k] = labels[column : column + shape[0], row : row + shape[1], k]
    return back


def _moves(affine: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Return by how many columns and rows each slice is moved, the least of them, and how many more are needed."""
    in_plane = affine[:3, :2]
    step = (affine[:3, 2] @ in_plane) / (in_plane**2).sum(axis=0)
    step[np.abs(step) < _SMALLEST_STEP] = 0  # the numbers' last digits
    moves = np.arange(count)[:, None] * step
    low, high = np.floor(moves.min(axis=0)), np.ceil(moves.max(axis=0))
    return moves, low, (int(high[0] - low[0]), int(high[1] - low[1]))
