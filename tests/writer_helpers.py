"""Images in several orientations, and their masks."""

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

SHAPE = (11, 9, 7)
ROTATION = nib.eulerangles.euler2mat(0.3, -0.2, 0.5)
AFFINES = {
    "plain": np.eye(4),
    "flipped": nib.affines.from_matvec(np.diag([-1.0, -1.0, 2.0]), [90.0, 126.0, -72.0]),
    "anisotropic": nib.affines.from_matvec(np.diag([0.4, 0.4, 5.0]), [-10.5, 3.25, 100.0]),
    "permuted": nib.affines.from_matvec(np.array([[0, 0, 1.5], [-0.9, 0, 0], [0, 1.1, 0]]), [5.0, -6.0, 7.0]),
    "oblique": nib.affines.from_matvec(ROTATION @ np.diag([0.8, 1.1, 2.5]), [-20.0, 13.0, 40.0]),
    "oblique flipped": nib.affines.from_matvec(ROTATION @ np.diag([-0.8, 1.1, 2.5]), [-20.0, 13.0, 40.0]),
}
FIELDS = (
    "qform_code",
    "sform_code",
    "xyzt_units",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
)


def voxels(shape=SHAPE, dtype=np.int16):
    return np.random.default_rng(0).integers(-200, 200, shape).astype(dtype)


def labels(shape=SHAPE, count=3):
    """A label map without any symmetry, so that a wrong flip shows."""
    return np.random.default_rng(1).integers(0, count, shape)


def nifti(path, affine, array=None, qform=1, sform=2, units=("mm", "sec")):
    image = nib.Nifti1Image(voxels() if array is None else array, affine)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    image.header.set_xyzt_units(*units)
    nib.save(image, path)
    return path


def load(path):
    return Compose([LoadImaged(keys="image"), EnsureChannelFirstd(keys="image")])({"image": str(path)})


def with_mask(path, mask=None):
    """A prediction with the metadata of its image, as Invertd leaves it."""
    data = load(path)
    mask = labels() if mask is None else mask
    data["pred"] = MetaTensor(torch.as_tensor(mask[None].astype(np.float32)), meta=data["image"].meta)
    return data
