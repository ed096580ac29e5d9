"""Masks of images that were reoriented and resampled, or that ITK reads, and how they come back."""

from itertools import product

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from monai.transforms import AsDiscreted, Compose, Invertd, LoadImaged, Orientationd, Spacingd
from writer_helpers import AFFINES, FIELDS, nifti

from mednextv2.inference import CheckImaged, SaveMaskd, find_images


class Threshold(torch.nn.Module):
    """A network that finds voxels above 50."""

    def forward(self, x):
        return torch.cat([50 - x, x - 50], dim=1)


def blob(shape=(24, 20, 16)):
    """An ellipsoid out of the middle, so that a flip shows, with a knob, so that a rotation shows."""
    x, y, z = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    body = ((x - 9) / 6) ** 2 + ((y - 8) / 5) ** 2 + ((z - 9) / 5) ** 2 < 1
    return body | ((abs(x - 15) < 3) & (abs(y - 12) < 3) & (abs(z - 7) < 3))


def segment(path, folder, spacing):
    """Run what configs/inference.yaml runs, with the threshold as network."""
    before = Compose(
        [
            CheckImaged(keys="image"),
            LoadImaged(keys="image", ensure_channel_first=True, dtype=np.float32),
            Orientationd(keys="image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd(keys="image", pixdim=spacing, mode="bilinear"),
        ]
    )
    after = Compose(
        [
            Invertd(keys="pred", transform=before, orig_keys="image", nearest_interp=False),
            AsDiscreted(keys="pred", argmax=True),
            SaveMaskd("pred", folder),
        ]
    )
    sizes = []
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Dataset(find_images(path, ["T1"]), before), batch_size=1),
        network=Threshold(),
        inferer=SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.5, mode="gaussian"),
        postprocessing=after,
    )
    evaluator.add_event_handler(Events.ITERATION_STARTED, lambda e: sizes.append(e.state.batch["image"].shape[2:]))
    evaluator.run()
    return sizes[0], nib.load(folder / f"{path.name.split('.')[0]}_seg.nii.gz")


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.0)])
@pytest.mark.parametrize("name", AFFINES)
def test_mask_of_a_resampled_image_is_in_the_grid_of_the_source(tmp_path, name, spacing):
    path = nifti(tmp_path / "case.nii.gz", AFFINES[name], (100 * blob()).astype(np.int16))
    size, written = segment(path, tmp_path, spacing)
    source = nib.load(path)
    if name != "plain" or spacing != (1, 1, 1):
        assert tuple(size) != source.shape  # or else nothing was resampled
    assert written.shape == source.shape
    assert np.array_equal(written.affine, source.affine)
    for field in FIELDS:
        assert np.array_equal(written.header[field], source.header[field]), field
    assert dice(np.asarray(written.dataobj) == 1, blob()) > (0.75 if name == "anisotropic" else 0.9)


@pytest.mark.parametrize(
    ("name", "spacing"), [("plain", (1, 1, 1)), ("flipped", (1, 1, 2)), ("permuted", (1.5, 0.9, 1.1))]
)
def test_mask_of_a_reoriented_image_is_exact(tmp_path, name, spacing):
    path = nifti(tmp_path / "case.nii.gz", AFFINES[name], (100 * blob()).astype(np.int16))
    _, written = segment(path, tmp_path, spacing)
    assert np.array_equal(np.asarray(written.dataobj), blob())


# --- sources that ITK reads ------------------------------------------------------------------------------------------


def save_itk(path, array, affine):
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / spacing)))
    itk.imwrite(image, str(path))
    return path


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
@pytest.mark.parametrize("name", ["plain", "flipped", "permuted", "oblique"])
def test_mask_of_an_itk_image_lies_where_itk_says(tmp_path, ending, name):
    path = save_itk(tmp_path / f"case{ending}", (100 * blob()).astype(np.int16), AFFINES[name])
    _, written = segment(path, tmp_path, (1.0, 1.0, 1.0))
    source, mask = itk.imread(str(path)), itk.imread(str(tmp_path / "case_seg.nii.gz"))
    assert itk.size(mask) == itk.size(source)
    for corner in product(*[(0, n - 1) for n in blob().shape]):
        expected = list(source.TransformIndexToPhysicalPoint(corner))  # mm to left, posterior, superior
        assert list(mask.TransformIndexToPhysicalPoint(corner)) == pytest.approx(expected, abs=1e-3)
        assert written.affine @ [*corner, 1] == pytest.approx([-expected[0], -expected[1], expected[2], 1], abs=1e-3)
    assert dice(np.asarray(written.dataobj) == 1, blob()) > 0.9
