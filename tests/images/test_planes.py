"""Planes and their place in space, compared with nibabel's reorientation of volumes of one plane."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from mednextv2.images.planes import (
    as_plane,
    is_plane,
    lies_flat,
    plane_affine,
    restore_axes,
    to_plane,
    with_normal,
    wrong_number_of_axes,
)

RNG = np.random.default_rng(0)
VOXELS = RNG.normal(size=(6, 5)).astype(np.float32)
TURN = nib.eulerangles.euler2mat(0.2, -0.3, 0.1)
AFFINES = {
    f"{axes}{signs}": nib.affines.from_matvec(
        TURN @ np.eye(3)[:, axes] @ np.diag([*np.multiply(signs, [0.5, 2.0]), 3.0]), [4, 5, 6]
    )
    for axes in ([0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 0, 1])
    for signs in ((1, 1), (-1, 1), (1, -1))
}


def plane(affine, shape=(1, 6, 5)):
    return to_plane(MetaTensor(torch.from_numpy(VOXELS).reshape(shape), affine=torch.from_numpy(affine)))


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_plane_is_turned_as_the_volume_that_it_is(affine):
    volume = nib.as_closest_canonical(nib.Nifti1Image(VOXELS[..., None], affine))
    turned = Orientation("RA")(plane(affine))
    expected = np.asarray(volume.dataobj).squeeze()
    np.testing.assert_array_equal(turned[0].numpy(), expected)
    spacing = [s for s, n in zip(volume.header.get_zooms(), volume.shape, strict=True) if n > 1]
    np.testing.assert_allclose(np.diag(turned.affine.numpy())[:2], spacing, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 6, 5), (1, 6, 5, 1)])
def test_the_place_and_shape_of_the_file_are_kept(shape):
    affine = AFFINES["[1, 2, 0](1, -1)"]
    found = plane(affine, shape)
    assert found.shape == (1, 6, 5)
    np.testing.assert_array_equal(found.meta["original_affine"].numpy(), affine)
    assert restore_axes(np.zeros((6, 5)), found.meta).shape == shape[1:]
    assert restore_axes(np.zeros((7, 5)), found.meta).shape == (7, 5)


@pytest.mark.parametrize("shape", [(1, 3, 5, 2), (6, 5), (1, 1, 6, 5, 1)])
def test_a_volume_is_no_plane(shape):
    with pytest.raises(ValueError, match="one plane was expected"):
        plane(np.eye(4), shape)


def test_the_unit_axis_is_the_third():
    for shape, dropped in {(6, 5): (6, 5), (6, 5, 1): (6, 5), (6, 5, 1, 2): (6, 5, 2)}.items():
        assert is_plane(shape)
        assert as_plane(np.zeros(shape)).shape == dropped
    for shape in ((1, 6, 5), (6, 5, 2), (6, 5, 4, 2)):
        assert not is_plane(shape)
        assert as_plane(np.zeros(shape)).shape == shape


def test_what_a_file_says_across_its_plane_plays_no_part():
    affine = AFFINES["[2, 0, 1](1, 1)"]
    for column in (np.zeros(3), affine[:3, 0], np.full(3, np.nan)):
        other = affine.copy()
        other[:3, 2] = column
        np.testing.assert_array_equal(plane_affine(other), plane_affine(affine))
        full = with_normal(other)
        np.testing.assert_allclose(np.linalg.norm(full[:3, 2]), 1)
        np.testing.assert_allclose(full[:3, 2] @ full[:3, :2], 0, atol=1e-12)


def test_a_plane_lies_flat_where_two_axes_hold_its_place():
    flat = np.diag([-1.0, 2, 5, 1])
    flat[:2, 3] = 3
    assert lies_flat(flat)
    flat[2, 3] = 1
    assert not lies_flat(flat)
    assert not lies_flat(AFFINES["[0, 1, 2](1, 1)"])


def test_advice_depends_on_what_is_wrong():
    assert "slicer[:, :, 10:11]" in wrong_number_of_axes((9, 8, 7), 1, 2)
    assert "slicer[:, :, 10:11]" in wrong_number_of_axes((9, 8, 7), 2, 2)
    assert "a file for each channel" in wrong_number_of_axes((9, 8), 2, 2)
    assert "the whole volume" in wrong_number_of_axes((9, 8), 1, 3)
    assert wrong_number_of_axes((9, 8, 7, 2), 1, 3) == "is 4D (9×8×7×2); expected 3D with 1 channel"
