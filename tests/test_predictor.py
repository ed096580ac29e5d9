"""A bundle's inference as a Python call: images of every kind in, labels in their geometry out."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_helpers import write_series
from monai.data import MetaTensor
from monai.transforms import LoadImage
from predict_helpers import AFFINE, BUNDLE, QUICK, SHAPE, noise, save

import mednextv2
from mednextv2.data import choose_series
from mednextv2.errors import InputError
from mednextv2.transforms import LoadVolumed


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha"])
def test_every_file_format_gives_the_same_mask_in_its_geometry(tmp_path, predictor, voxels, image, ending):
    expected = predictor(image)
    assert expected.labels.shape == SHAPE
    assert expected.labels.any()
    assert expected.labels.dtype == np.uint8
    np.testing.assert_allclose(expected.affine, nib.load(image).affine, atol=1e-6)
    other = predictor(save(tmp_path / f"x{ending}", voxels))
    assert np.array_equal(other.labels, expected.labels)
    np.testing.assert_allclose(other.affine, expected.affine, atol=1e-4)


def test_images_in_memory_give_the_mask_of_their_file(predictor, voxels, image):
    expected = predictor(image).labels
    loaded = LoadImage(ensure_channel_first=True)(image)
    for given in (nib.load(image), (voxels, AFFINE), loaded, loaded[0], [str(image)]):
        found = predictor(given)
        assert np.array_equal(found.labels, expected)
        np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)
    assert torch.equal(loaded, LoadImage(ensure_channel_first=True)(image))  # untouched


def test_a_dicom_series_gives_the_mask_of_the_nifti(tmp_path, predictor, voxels, image):
    write_series(tmp_path / "dicom", voxels, AFFINE, slope=1.0, intercept=0.0)
    found, expected = predictor(tmp_path / "dicom"), predictor(image)
    to_file = np.linalg.inv(expected.affine) @ found.affine  # the order of slices may be the other way round
    where = np.indices(found.labels.shape).reshape(3, -1)
    place = np.rint(to_file[:3, :3] @ where + to_file[:3, 3:]).astype(int)
    assert np.array_equal(found.labels.reshape(-1), expected.labels[tuple(place)])


def test_it_is_what_the_inference_workflow_writes(tmp_path, predictor, image):
    from mednextv2.bundle import run_bundle

    run_bundle(BUNDLE, "inference", input=str(image), output_dir=str(tmp_path / "out"), **QUICK)
    written = nib.load(tmp_path / "out" / "case_seg.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), predictor(image).labels)


def test_one_call(image, predictor):
    found = mednextv2.predict(BUNDLE, image, **QUICK)
    assert np.array_equal(found.labels, predictor(image).labels)
    ml = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    counts = np.bincount(found.labels.ravel(), minlength=3)
    assert found.volumes == pytest.approx({"anterior": counts[1] * ml, "posterior": counts[2] * ml})
    assert np.array_equal(np.asarray(found.to_nibabel().dataobj), found.labels)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_masks_are_saved_in_every_format(tmp_path, predictor, image, ending):
    found = predictor(image)
    loaded = LoadImage(image_only=True)(found.save(tmp_path / f"mask{ending}"))
    assert np.array_equal(loaded.numpy(), found.labels)
    np.testing.assert_allclose(loaded.affine.numpy(), AFFINE, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((np.zeros((4, 4, 4)), np.eye(3)), "affine should be 4×4"),
        ((np.zeros((4, 4)), np.eye(4)), "has the shape (4, 4)"),
        ((np.full((4, 4, 4), "a"), np.eye(4)), "not one number each"),
        ((np.full((20, 20, 20), np.nan), np.eye(4)), "NaN"),
        ((np.zeros((20, 20, 20)), np.eye(4)), "constant"),
        ((np.zeros((0, 20, 20)), np.eye(4)), "has no voxels"),
        ((noise(20, 20, 20, 3), np.eye(4)), "expected 3D with 1 channel"),
        ((noise(20, 20, 20), np.diag([1, 1, 0, 1.0])), "no position in space"),
        (MetaTensor(torch.rand(2, 1, 20, 20, 20)), "expected (C, X, Y, Z)"),
        (np.zeros((4, 4, 4)), "is a ndarray; give a path"),
        ((np.zeros((4, 4, 4)), "abc"), "an array and a 4×4 affine"),
        ("nowhere.nii.gz", "nowhere.nii.gz: there is no such image"),
    ],
)
def test_what_is_no_image_is_refused(predictor, given, text):
    with pytest.raises(InputError) as caught:
        predictor(given)
    assert text in str(caught.value)


def test_several_images_are_refused_where_one_is_wanted(tmp_path, predictor, voxels):
    for name in "ab":
        save(tmp_path / f"{name}.nii.gz", voxels)
    with pytest.raises(InputError, match="holds 2 images"):
        predictor(tmp_path)


def test_settings_and_weights_are_checked(tmp_path):
    with pytest.raises(InputError, match="did you mean --overlap"):
        mednextv2.Predictor(BUNDLE, overlab=0.25)
    with pytest.raises(InputError, match="overlap 2"):
        mednextv2.Predictor(BUNDLE, overlap=2)
    with pytest.raises(InputError, match="device gpu: cannot be used here"):
        mednextv2.Predictor(BUNDLE, device="gpu")
    with pytest.raises(InputError, match="each once"):
        mednextv2.Predictor(BUNDLE, test_mirror_axes=[0, 0])
    with pytest.raises(InputError, match=r"none\.pt"):
        mednextv2.Predictor(BUNDLE, weights=tmp_path / "none.pt")
    with pytest.raises(AttributeError, match="no attribute 'predictt'"):
        mednextv2.predictt  # noqa: B018


def test_masks_have_an_ending_of_a_mask(tmp_path, predictor, image):
    (tmp_path / "x.png").write_bytes(b"mine")
    for name in ("x.png", "x.mhd", "x"):
        with pytest.raises(InputError, match="a mask's file ends in"):
            predictor(image).save(tmp_path / name)
    assert (tmp_path / "x.png").read_bytes() == b"mine"


def test_half_precision_in_memory(predictor, voxels):
    tensor = MetaTensor(torch.from_numpy(voxels)[None].bfloat16(), affine=torch.from_numpy(AFFINE))
    assert predictor(tensor).labels.shape == SHAPE


def test_a_mirrored_image_gives_the_same_mask(tmp_path, voxels, predictor, image):
    mirrored = nib.Nifti1Image(voxels, AFFINE).slicer[::-1]
    nib.save(mirrored, tmp_path / "mirrored.nii.gz")
    assert np.array_equal(predictor(tmp_path / "mirrored.nii.gz").labels[::-1], predictor(image).labels)


def test_an_image_smaller_than_a_patch(tmp_path, voxels, predictor):
    found = predictor(save(tmp_path / "small.nii.gz", voxels[8:20, 8:20, 8:18]))
    assert found.labels.shape == (12, 12, 10)


def test_a_killed_loader_of_the_bundle_is_named(tmp_path):
    broken = shutil.copytree(BUNDLE, tmp_path / "mednextv2_broken")
    (broken / "models" / "model.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"model\.pt"):
        mednextv2.Predictor(broken, **QUICK)


class Bright(torch.nn.Module):
    """A network that finds what is bright, whatever the window."""

    weights = ()

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), 20 * (x - 1), torch.full_like(x, -20)], dim=1)


@pytest.mark.parametrize("degrees", [14.0, -20.0, 0.3])
def test_a_tilted_series_is_masked_on_its_slices(tmp_path, predictor, monkeypatch, degrees):
    tilted = np.diag([1.0, 1.0, 2.0, 1.0])
    tilted[1, 2] = 2 * np.tan(np.radians(degrees))
    shape = (40, 50, 20)
    places = np.tensordot(tilted[:3, :3], np.indices(shape), axes=1)
    centre = places[:, 18, 24, 9].reshape(3, 1, 1, 1)
    ball = np.linalg.norm(places - centre, axis=0) < 11
    write_series(tmp_path / "in", (100 + 900 * ball).astype(np.int16), tilted, slope=1.0, intercept=0.0, Modality="MR")
    monkeypatch.setattr(predictor, "network", Bright())
    found = predictor(tmp_path / "in", probabilities=tmp_path / "p.npy")
    assert found.labels.shape == shape
    where = np.tensordot(found.affine[:3, :3], np.indices(shape), axes=1) + found.affine[:3, 3].reshape(3, 1, 1, 1)
    expected = np.linalg.norm(where - centre, axis=0) < 11  # by millimetres, however the series' axes run
    assert 2 * (found.labels.astype(bool) & expected).sum() / (found.labels.astype(bool).sum() + expected.sum()) > 0.95
    probabilities = np.load(tmp_path / "p.npy")
    assert probabilities.shape == (3, *shape)
    assert (probabilities.argmax(axis=0) == found.labels).mean() > 0.99


def test_each_channel_may_be_a_series(tmp_path, predictor):
    series = []
    for number in (1, 2):
        write_series(tmp_path / str(number), np.full((9, 7, 6), number, np.int16), slope=1.0, intercept=0.0)
        series.append(choose_series(tmp_path / str(number))[0])
    item = predictor._item(series, None)
    loaded = LoadVolumed("image")(item)["image"]
    assert loaded.shape == (2, 9, 7, 6)
    assert [channel.unique().tolist() for channel in loaded] == [[1.0], [2.0]]
    with pytest.raises(InputError, match="1 channel"):
        predictor(series)  # the bundle takes one
