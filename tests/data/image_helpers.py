"""Small images without labels on disk."""

import nibabel as nib
import numpy as np


def save_image(file, shape=(20, 22, 18), seed=0, spacing=1.0, array=None):
    """Save smooth random intensities, or an array, as NIfTI; returns the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if array is None:
        random = np.random.default_rng(seed)
        waves = [np.sin(np.arange(n) * random.uniform(0.1, 0.6) + random.uniform(0, 6)) for n in shape[:3]]
        array = np.einsum("i,j,k->ijk", *waves) * 100 + 200 + random.normal(size=shape[:3])
        array = array[..., None] * np.arange(1, shape[3] + 1) if len(shape) > 3 else array
    nib.save(nib.Nifti1Image(np.asarray(array, np.float32), np.diag([spacing, spacing, spacing, 1])), file)
    return file


def save_images(folder, count, **kwargs):
    """Save images named a, b, ... in a folder; returns the folder."""
    for number in range(count):
        save_image(folder / f"{chr(ord('a') + number)}.nii.gz", seed=number, **kwargs)
    return folder
