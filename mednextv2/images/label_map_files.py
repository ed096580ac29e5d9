"""Label maps in files, and the check that voxels are a label map."""

import os
from collections.abc import Sequence

import numpy as np

from mednextv2.errors import InputError
from mednextv2.images.volume import dimensions, is_numeric, read_volume
from mednextv2.label_scheme import MAX_LABELS, label_dtype
from mednextv2.wording import times

_SHOWN = 8  # largest number of wrong values in a message


def read_label_map(
    path: str | os.PathLike, labels: Sequence[str] | None = None, spatial_dims: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map.

    Args:
        path: The path of the file: see :func:`mednextv2.images.volume.read_volume`.
        labels: Names of the values 0, 1, … that it may have; None if nothing declares them.
        spatial_dims: 2 or 3; None for either.

    Returns:
        The labels, as returned by :func:`as_label_map`, and the affine, `(4, 4)`, from voxel indices to millimetres
        (right, anterior, superior).

    Raises:
        InputError: If the file cannot be read or is not a label map.
    """
    array, affine = read_volume(path)
    return as_label_map(array, str(path), labels, spatial_dims), affine


def as_label_map(
    array: np.ndarray, name: str, labels: Sequence[str] | None = None, spatial_dims: int | None = None
) -> np.ndarray:
    """Check that voxels are labels: one channel of whole numbers from 0 on, all of them declared.

    Args:
        array: The voxels as in the file, `(X, Y, Z)`, `(X, Y)`, or with a last axis of one channel.
        name: The name of the file, for messages.
        labels: Names of the values 0, 1, … that it may have; None if nothing declares them.
        spatial_dims: 2 or 3; None for either.

    Returns:
        The labels without a channel axis, in the type that :func:`mednextv2.label_scheme.label_dtype` gives for the
        number of labels that are declared or occur.

    Raises:
        InputError: If the voxels are not labels.
    """
    if array.ndim == (spatial_dims or 3) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if not is_numeric(array):
        raise InputError(f"{name}: has voxels of type {array.dtype}; a label map has one whole number each")
    if array.ndim not in ((spatial_dims,) if spatial_dims else (2, 3)):
        expected = f"{spatial_dims}D" if spatial_dims else "2D or 3D"
        raise InputError(
            f"{name}: is {dimensions(array.shape)}; a label map is {expected} with one voxel value a class"
        )
    if not array.size:
        raise InputError(f"{name}: has no voxels (shape {times(array.shape)})")
    allowed = MAX_LABELS if labels is None else len(labels)
    highest = array.max()
    if array.min() >= 0 and highest < allowed:  # both are false with NaN
        found = array.astype(label_dtype(int(highest) + 1 if labels is None else allowed), copy=False)
        if array.dtype.kind in "iub" or np.array_equal(found, array):
            return found
    raise InputError(f"{name}: {_wrong_values(array, labels, allowed)}")


def _wrong_values(array: np.ndarray, labels: Sequence[str] | None, allowed: int) -> str:
    wrong = [value for value in distinct_values(array) if value not in range(allowed)]
    shown = ", ".join(f"{value:g}" for value in wrong[:_SHOWN]) + (", …" if len(wrong) > _SHOWN else "")
    if labels is None:
        return f"has voxel values that are no labels, which are whole numbers from 0: {shown}"
    declared = ", ".join(f"{i} {label}" for i, label in enumerate(labels))
    return f"has voxel values outside the declared labels: {shown} (declared: {declared})"


def distinct_values(array: np.ndarray) -> list:
    """Return the sorted distinct values; small whole numbers are counted, which is many times faster than sorting."""
    if array.dtype.kind in "biu" and array.size and array.min() >= 0 and array.max() < MAX_LABELS:
        values = array.reshape(-1, order="A")
        if values.dtype.itemsize == 8:
            values = values.astype(np.int64, copy=False)  # NumPy 1.26 counts no unsigned numbers of 64 bits
        return np.flatnonzero(np.bincount(values)).tolist()
    return np.unique(array).tolist()
