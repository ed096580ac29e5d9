"""Grids of voxels in space: their spacing, what makes one impossible, and where two of them differ."""

from itertools import product

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from mednextv2.images.planes import plane_axes
from mednextv2.wording import times

_SHIFT = 0.1  # two grids may differ by this fraction of a voxel before it counts as a defect
_PLAUSIBLE_MM = (0.01, 100.0)  # range of a voxel's side; headers in metres or micrometres are outside it
_SHEAR = np.sin(np.radians(1.0))  # sine of the angle by which two axes may deviate from 90°; less is rounding


def oriented_spacing(affine: np.ndarray, spatial_dims: int = 3) -> tuple[float, ...]:
    """Return the size of a voxel in mm along right, anterior, superior; for a plane, along the two that it follows.

    Args:
        affine: The matrix `(4, 4)` from voxel indices to millimetres.
        spatial_dims: 2 or 3.
    """
    axes = plane_axes(affine)[:, 0] if spatial_dims == 2 else nib.orientations.io_orientation(affine)[:, 0]
    spacing = voxel_sizes(affine)
    return tuple(float(spacing[i]) for i in np.argsort(axes))


def check_affine(affine: np.ndarray, spatial_dims: int = 3) -> list[str]:
    """List the reasons why a grid is impossible.

    Args:
        affine: The matrix `(4, 4)` from voxel indices to millimetres.
        spatial_dims: 2 or 3.

    Returns:
        One clause for each problem, without the file's name.
    """
    axes = affine[:3, :spatial_dims]  # a plane may have any position in space
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(axes) < spatial_dims:
        return [
            "has an affine that is no position in space (two axes in one plane, one of length 0, or NaN); correct the "
            "orientation and the voxel spacing in its header"
        ]
    problems = []
    spacing = voxel_sizes(affine)[:spatial_dims]
    directions = axes / spacing
    sine = np.abs(directions.T @ directions - np.eye(spatial_dims)).max()
    if sine > _SHEAR:
        problems.append(
            f"has axes that are {np.degrees(np.arcsin(min(1, sine))):.1f}° off right angles (a sheared affine); "
            "resample it to a grid with right angles"
        )
    if spacing.min() < _PLAUSIBLE_MM[0] or spacing.max() > _PLAUSIBLE_MM[1]:
        sizes = " × ".join(f"{s:.3g}" for s in spacing)
        problems.append(f"has voxels of {sizes} mm, which cannot be; correct the spacing in the header")
    return problems


def compare_grids(first: tuple, second: tuple) -> str:
    """Say where two files of a case differ in shape or position.

    Args:
        first: File name, spatial shape and affine `(4, 4)` of the first file.
        second: The same for the second file.

    Returns:
        One sentence; empty if they agree to within a tenth of a voxel.
    """
    (file_a, shape_a, affine_a), (file_b, shape_b, affine_b) = first, second
    if shape_a != shape_b:
        return f"{file_b}: has shape {times(shape_b)}, but {file_a} has {times(shape_a)}; resample it to the image"
    corners = np.array([[*corner, *[0] * (3 - len(shape_a)), 1] for corner in product(*[(0, n - 1) for n in shape_a])])
    distance = np.linalg.norm((corners @ (affine_a - affine_b).T)[:, :3], axis=1).max()
    voxel = voxel_sizes(affine_a)[: len(shape_a)].min()
    if not distance <= _SHIFT * voxel:  # also true if one of them is NaN
        return (
            f"{file_b}: lies up to {distance:.3g} mm away from {file_a} (their affines differ); "
            "resample it to the image, or copy the image's affine if only the header is wrong"
        )
    return ""
