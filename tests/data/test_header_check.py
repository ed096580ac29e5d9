import gzip

import nibabel as nib
import numpy as np
import pytest
from collection_files import SCHEME, blocks, collection, image, read, save, two_folders

from mednextv2.data.header_check import check_headers, read_grid
from mednextv2.errors import InputError
from mednextv2.images import volume
from mednextv2.images.volume import read_volume
from mednextv2.images.writer import _write_itk


@pytest.fixture
def data(tmp_path):
    two_folders(tmp_path / "a", ["x", "y"], 1)
    two_folders(tmp_path / "b", ["z"], 2)
    a, b = {"root": "a", "labels": {1: "spleen"}}, {"root": "b", "labels": {2: "liver"}}
    return collection(tmp_path / "c.yaml", a, b)


def test_no_voxel_is_read(data, monkeypatch):
    monkeypatch.setattr(volume, "_load_nifti", lambda path: pytest.fail("reads voxels"))
    check_headers(read(data).cases, ["CT"])


def test_all_defects_are_told_at_once(data, tmp_path):
    save(tmp_path / "a" / "labels" / "x.nii.gz", blocks(1, shape=(6, 5, 3)))
    save(tmp_path / "a" / "labels" / "y.nii.gz", blocks(1), np.diag([2.0, 1.5, 1.2, 1.0]))
    (tmp_path / "b" / "labels" / "z.nii.gz").unlink()
    with pytest.raises(InputError) as e:
        check_headers(read(data).cases, ["CT"])
    text = str(e.value)
    assert "The collection has 3 defects: mend or remove these cases" in text
    assert "a/labels/x.nii.gz: has shape 6×5×3, but" in text
    assert "a/labels/y.nii.gz: lies up to 0.6 mm away from" in text
    assert "b/labels/z.nii.gz: there is no such file (the label of case b.z)" in text


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: f.write_bytes(b"no image"), "x.nii.gz: cannot be read"),
        (lambda f: f.write_bytes(gzip.compress(b"0" * 400)), "x.nii.gz: is not what its ending says"),
        (lambda f: save(f, image(), np.diag([2000.0, 1, 1, 1])), "x.nii.gz: has voxels of 2e\\+03 × 1 × 1 mm"),
        (lambda f: save(f, np.zeros((6, 5, 4, 2), np.float32)), r"x\.nii\.gz: is 4D \(6×5×4×2\)"),
    ],
)
def test_an_image_whose_header_is_impossible_is_named(data, tmp_path, break_it, message):
    break_it(tmp_path / "a" / "images" / "x.nii.gz")
    with pytest.raises(InputError, match=message):
        check_headers(read(data).cases, ["CT"])


def test_a_number_of_channels_that_is_not_the_bundles_is_named(data):
    with pytest.raises(InputError, match=r"x\.nii\.gz: is 3D"):
        check_headers(read(data, SCHEME).cases, ["CT", "PET"])


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5)], ids=["3D", "2D"])
def test_a_grid_is_that_of_the_volume(tmp_path, ending, shape):
    affine = np.array([[0, 1.5, 0, 3], [-2, 0, 0, 4], [0, 0, 3, -7], [0, 0, 0, 1.0]])
    path = tmp_path / f"a{ending}"
    if ending.startswith(".nii"):
        nib.save(nib.Nifti1Image(image(shape=shape), affine), path)
    else:
        _write_itk(path, image(shape=shape), affine)
    found, where = read_grid(path)
    voxels, expected = read_volume(path)
    assert found == voxels.shape
    np.testing.assert_allclose(where, expected, atol=1e-6)
