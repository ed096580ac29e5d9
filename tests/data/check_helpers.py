"""Small images, label maps and cases, sound and otherwise."""

import itk
import nibabel as nib
import numpy as np

from mednextv2.data import Case, check_case

LABELS = ["background", "anterior", "posterior"]
SHAPE = (9, 8, 7)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([0.8, 1.1, 2.5]), [-20.0, 13.0, 40.0]
)


def noise(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mask(shape=SHAPE):
    return np.random.default_rng(1).integers(0, 3, shape).astype(np.uint8)


def save(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)


def save_itk(path, array, affine):
    """Write the volume with ITK, whose axes are left, posterior, superior; ours are right, anterior, superior."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / spacing)))
    itk.imwrite(image, str(path))
    return str(path)


def sound_case(tmp_path, name="case_7", affine=None, label=None, channels=1):
    images = tuple(save(tmp_path / f"{name}_{c}.nii.gz", noise(seed=c), affine) for c in range(channels))
    return Case(name, images, save(tmp_path / f"{name}.nii.gz", mask() if label is None else label, affine))


def times(*shape):
    return "\N{MULTIPLICATION SIGN}".join(map(str, shape))


def only(found, path, *words):
    """Assert that there is one defect, of this file, with these words."""
    assert len(found) == 1, found
    assert found[0].startswith(f"{path}: "), found
    for word in words:
        assert word in found[0]


def defects(tmp_path, image=None, label=None, affine=None, label_affine=None, channels=("T1",)):
    """Check one case that is good, but for what is given."""
    return check_case(
        Case(
            "case",
            (save(tmp_path / "image.nii.gz", noise() if image is None else image, affine),),
            save(tmp_path / "label.nii.gz", mask() if label is None else label, label_affine),
        ),
        LABELS,
        channels,
    )
