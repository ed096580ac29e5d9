"""Files of the data sets that converters read: small images, label maps and pictures."""

from pathlib import Path

import itk
import nibabel as nib
import numpy as np

SHAPE = (8, 7, 6)


AFFINE = np.array([[-0.8, 0, 0, 20.0], [0, -0.9, 0, 30.0], [0, 0, 2.5, -40.0], [0, 0, 0, 1.0]])


def image(seed=0, shape=SHAPE, dtype=np.int16):
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(dtype)


def labels(values, shape=SHAPE):
    """Return a label map in which each of the values occurs, and 0."""
    return np.array([0, *values])[np.arange(np.prod(shape)) % (len(values) + 1)].reshape(shape).astype(np.int16)


def save(path, array, affine=AFFINE):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def save_mha(path, array, affine=AFFINE):
    """Write a MetaImage with ITK, whose axes are left, posterior, superior."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    made = itk.image_from_array(np.ascontiguousarray(array.T))
    made.SetSpacing(spacing.tolist())
    made.SetOrigin(lps[:3, 3].tolist())
    made.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / spacing)))
    itk.imwrite(made, str(path))
    return path


def read(path):
    return np.asarray(nib.load(path).dataobj)


def save_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    itk.imwrite(itk.image_from_array(np.ascontiguousarray(pixels)), str(path))
