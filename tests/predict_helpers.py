"""Images in every format for the bundle of the hippocampus."""

from pathlib import Path

import itk
import nibabel as nib
import numpy as np
from dicom_helpers import LPS

BUNDLE = Path(__file__).parents[1] / "bundles" / "mednextv2_hippocampus"
QUICK = {"device": "cpu", "test_mirror_axes": []}
OBLIQUE = nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([-1.0, 1.0, 1.1])
AFFINE = nib.affines.from_matvec(OBLIQUE, [20.0, -13.0, 40.0])
SHAPE = (34, 44, 30)


def save(path, array, affine=AFFINE):
    """Write an image in the format of its ending; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii.gz", ".nii")):
        nib.save(nib.Nifti1Image(array, affine), path)
    else:
        lps = LPS @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        picture = itk.image_from_array(np.ascontiguousarray(array.T))
        picture.SetSpacing(spacing)
        picture.SetOrigin(lps[:3, 3])
        picture.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / spacing)))
        itk.imwrite(picture, str(path))
    return path


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def with_nan():
    """Return an image of which one voxel is no number."""
    array = noise(20, 20, 20)
    array[3, 4, 5] = np.nan
    return array
