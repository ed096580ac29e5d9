"""Images of one plane: the axis of length one that files may have, and the plane's position inside a 4×4 affine."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from mednextv2.images.volume import affine_4x4, dimensions
from mednextv2.wording import count


def is_plane(shape: Sequence[int]) -> bool:
    """Return whether an image has one plane: two axes, or a third of length one, after which may be channels."""
    return len(shape) == 2 or (len(shape) > 2 and shape[2] == 1)


def as_plane(array: np.ndarray) -> np.ndarray:
    """Drop the third axis of an image if it has length one.

    Args:
        array: The voxels as in the file: `(X, Y)`, `(X, Y, 1)` or, with channels as the last axis, `(X, Y, 1, C)`.

    Returns:
        `(X, Y)` or `(X, Y, C)`. An array without such an axis is returned as it is.
    """
    return array[:, :, 0] if array.ndim in (3, 4) and array.shape[2] == 1 else array


def plane_axes(affine: np.ndarray) -> np.ndarray:
    """Return which patient's axis each axis of a plane follows most, and in which direction.

    Args:
        affine: The matrix `(4, 4)` from voxel indices to millimetres (right, anterior, superior).

    Returns:
        For both axes of the plane, a row with the number of the patient's axis, and 1 or -1; as returned by nibabel's
        `io_orientation`. The third column of the affine is not used, since files of two axes may have anything in it.
    """
    return nib.orientations.io_orientation(affine[:, [0, 1, 3]])


def plane_affine(affine: np.ndarray) -> np.ndarray:
    """Return the affine of a plane by itself, which has the pixels' size and the order and direction of its axes.

    A plane may be sagittal, coronal or oblique. MONAI's transforms of 2D images use only the first two rows and columns
    of a 4×4 affine, in which such a plane has no extent. In the result, these rows are the two of the patient's axes
    that the plane follows most, in the order right, anterior, superior.

    Args:
        affine: The matrix `(4, 4)` from voxel indices to millimetres (right, anterior, superior).

    Returns:
        A matrix `(3, 3)` from pixel indices to millimetres within the plane, whose origin is the first pixel.
    """
    axes, directions = plane_axes(affine).T
    plane = np.diag([0.0, 0.0, 1.0])
    for column, (row, direction) in enumerate(zip(np.argsort(np.argsort(axes)), directions, strict=True)):
        plane[row, column] = direction * np.linalg.norm(affine[:3, column])
    return plane


def with_normal(affine: np.ndarray) -> np.ndarray:
    """Return the affine of a plane with a third column of 1 mm across it, in place of whatever its file has."""
    full = np.array(affine, dtype=np.float64)
    normal = np.cross(full[:3, 0], full[:3, 1])
    full[:3, 2] = normal / np.linalg.norm(normal)
    return full


def lies_flat(affine: np.ndarray) -> bool:
    """Return whether a file with two axes can hold a plane's position: no tilt, and at the height 0."""
    return not np.any(affine[2, [0, 1, 3]])


def to_plane(image: MetaTensor) -> MetaTensor:
    """Make a loaded image one of two axes.

    Args:
        image: The image, `(C, X, Y)` or `(C, X, Y, 1)`.

    Returns:
        The image `(C, X, Y)` with the affine of :func:`plane_affine`. Its metadata keep the file's affine, 4×4, as
        `original_affine`, and the file's shape as `spatial_shape`, from which :func:`restore_axes` makes the mask's.

    Raises:
        ValueError: If the image is a volume.
    """
    voxels = image.as_tensor()
    shape = tuple(voxels.shape[1:])
    if voxels.ndim not in (3, 4) or not is_plane(shape):
        raise ValueError(f"an image of one plane was expected, but its shape is {shape}")
    voxels = voxels[..., 0] if voxels.ndim == 4 else voxels
    position = affine_4x4(np.asarray(image.affine.cpu(), dtype=np.float64))
    meta = {key: value for key, value in image.meta.items() if key != "affine"}
    meta |= {"original_affine": torch.from_numpy(position), "spatial_shape": np.array(shape)}
    return MetaTensor(
        voxels.contiguous(), affine=torch.from_numpy(plane_affine(position)), meta=meta,
        applied_operations=image.applied_operations,
    )  # fmt: skip


def restore_axes(labels: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
    """Give a label map of two axes the third, of length one, if the image had it.

    Args:
        labels: The label map, `(X, Y)`, or one of another number of axes, which is returned as it is.
        meta: MONAI's metadata of the image, with its `spatial_shape`.
    """
    shape = tuple(int(n) for n in np.asarray(meta.get("spatial_shape", ())).reshape(-1))
    fits = labels.ndim == 2 and len(shape) == 3 and shape[2] == 1 and math.prod(shape) == labels.size
    return labels.reshape(shape) if fits else labels


def wrong_number_of_axes(shape: Sequence[int], channels: int, spatial_dims: int) -> str:
    """Say that an image has not as many axes as a network expects, and what can be done about it.

    Args:
        shape: The shape of the image, possibly with channels as the last axis.
        channels: The number of channels that the file should have.
        spatial_dims: The number of axes that the network expects, 2 or 3.
    """
    advice = ""
    if spatial_dims == 2 and len(shape) == 3 and shape[2] > 1:
        advice = (
            "; save the plane as a file of its own, such as with nibabel's image.slicer[:, :, 10:11] for the plane 10, "
            "or use a bundle for volumes"
        )
    elif channels > 1:
        advice = "; give a file for each channel: NAME_0000, NAME_0001, …"
    elif spatial_dims == 3 and len(shape) == 2:
        advice = "; give the whole volume, or use a bundle for 2D images"
    return f"is {dimensions(shape)}; expected {spatial_dims}D with {count(channels, 'channel')}{advice}"
