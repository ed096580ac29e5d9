"""Sizes of structures: volumes, and areas of planes that lie anywhere."""

import nibabel as nib
import numpy as np
import pytest

from mednextv2.data.sizes import AREA, VOLUME, size_kind, size_kind_of

TURN = nib.eulerangles.euler2mat(0.3, -0.2, 0.5)


def test_a_voxel_is_measured_in_ml_and_a_pixel_in_square_millimetres():
    affine = nib.affines.from_matvec(TURN @ np.diag([0.5, -2.0, 3.0]), [1, 2, 3])
    assert VOLUME.of_voxel(affine) == pytest.approx(0.003)  # 3 mm³
    assert AREA.of_voxel(affine) == pytest.approx(1.0)
    assert AREA.of_voxel(np.diag([0.5, -2.0, 1.0])) == pytest.approx(1.0)


def test_a_pixel_of_a_sheared_plane_is_a_parallelogram():
    affine = np.eye(4)
    affine[0, 1] = 0.5  # base 1, height 1
    assert AREA.of_voxel(affine) == pytest.approx(1.0)


def test_kinds_are_told_by_axes_and_by_columns():
    assert (size_kind(2), size_kind(3)) == (AREA, VOLUME)
    assert size_kind_of({"case", *AREA.columns}) is AREA
    assert size_kind_of({"case", *VOLUME.columns}) is VOLUME
    assert size_kind_of({"case", "volume_ml"}) is None
