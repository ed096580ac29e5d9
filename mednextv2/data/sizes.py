"""Sizes of structures: volumes in millilitres, or in images of one plane areas in square millimetres."""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SizeKind:
    """What the size of a structure is.

    Attributes:
        name: Its name, `Volume` or `Area`.
        unit: Its unit.
        columns: The columns of tables with the sizes in the prediction and in the reference.
        axes: The number of axes of the images.
    """

    name: str
    unit: str
    columns: tuple[str, str]
    axes: int

    def of_voxel(self, affine: np.ndarray) -> float:
        """Return the size of one voxel, or of one pixel of a plane.

        Args:
            affine: The matrix from indices to millimetres, `(4, 4)`, or `(3, 3)` for a plane.
        """
        if self.axes == 2:
            return _parallelogram(affine) if len(affine) == 4 else abs(float(np.linalg.det(affine[:2, :2])))
        return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def _parallelogram(affine: np.ndarray) -> float:
    return float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))


VOLUME = SizeKind("Volume", "ml", ("volume_ml", "reference_ml"), 3)
AREA = SizeKind("Area", "mm²", ("area_mm2", "reference_mm2"), 2)


def size_kind(spatial_dims: int) -> SizeKind:
    """Return the kind of size in images with two or three axes."""
    return AREA if spatial_dims == 2 else VOLUME


def size_kind_of(columns: Container[str]) -> SizeKind | None:
    """Return the kind of size of which a table has both columns, or None."""
    return next((kind for kind in (VOLUME, AREA) if all(name in columns for name in kind.columns)), None)
