"""SKM-TEA: HDF5 files whose grids are in the annotations, which also hold the split."""

import json
import sys

import h5py
import nibabel as nib
import numpy as np
import pytest
from converter_runs import converted, excluded, names, passes_check, record, refused, run, same_values, truncate
from source_builders import SKM_SHAPE, skm_tea
from source_files import image, labels, save

FILE = "image_files/MTR_005.h5"
MASK = "segmentation_masks/dicom-track/MTR_005.nii.gz"
LABEL = labels(range(1, 7), SKM_SHAPE)


def test_echoes_and_classes_are_read_with_the_split(tmp_path):
    target = converted("skm_tea", tmp_path)
    assert passes_check(target) == ["MTR_005", "MTR_006", "MTR_013"]
    for channel, seed in enumerate((5, 105)):
        same_values(target / f"imagesTr/MTR_005_{channel:04d}.nii.gz", image(seed, SKM_SHAPE))
    same_values(target / "labelsTr/MTR_005.nii.gz", LABEL)
    assert names(target / "labelsTs") == ["MTR_001.nii.gz"]
    assert json.loads((target / "splits_final.json").read_text()) == [
        {"train": ["MTR_005", "MTR_006"], "val": ["MTR_013"]}
    ]


def test_each_scan_has_its_own_orientation(tmp_path):
    target = converted("skm_tea", tmp_path)
    # from superior to inferior, anterior to posterior, and from left to right or from right to left
    for name, codes in {"MTR_005": ("I", "P", "R"), "MTR_006": ("I", "P", "L")}.items():
        affine = nib.load(target / f"labelsTr/{name}.nii.gz").affine
        assert nib.aff2axcodes(affine) == codes
        np.testing.assert_allclose(nib.affines.voxel_sizes(affine), (0.3125, 0.3125, 0.8), rtol=1e-6)


def test_nifti_masks_have_their_axes_exchanged(tmp_path):
    target = converted("skm_tea", tmp_path, "--masks=nifti")
    passes_check(target)
    same_values(target / "labelsTr/MTR_005.nii.gz", LABEL)
    assert record(target)["cases"]["MTR_005"]["notes"] == []


def change_h5(key, array=None):
    def change(source):
        with h5py.File(source / FILE, "a") as f:
            del f[key]
            if array is not None:
                f[key] = array

    return change


def test_masks_that_nothing_confirms_are_said(tmp_path):
    target = converted("skm_tea", tmp_path, "--masks=nifti", change=change_h5("seg"))
    (note,) = record(target)["cases"]["MTR_005"]["notes"]
    assert "nothing confirms" in note
    same_values(target / "labelsTr/MTR_005.nii.gz", LABEL)


def edit_split(change):
    def edit(source):
        file = source / "annotations/v1.0.0/train.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


ONE_HOT = (LABEL[..., None] == np.arange(1, 7)).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: (s / FILE).unlink(), "image_files/MTR_005.h5: there is no such file; download the rest"),
        (lambda s: truncate(s / FILE), "image_files/MTR_005.h5: is truncated, damaged or no HDF5 file"),
        (change_h5("echo2"), "MTR_005.h5: echo2: should be of 8×7×6 voxels (its annotation), but has no such data"),
        (change_h5("echo2", image(0, (8, 7, 5))), "but has 8×7×5"),
        (change_h5("seg"), "MTR_005.h5: has no seg; give --masks nifti"),
        (change_h5("seg", ONE_HOT[..., :4]), "seg has 8×7×6×4 values, not 8×7×6×6"),
        (change_h5("seg", ONE_HOT | ONE_HOT[..., ::-1]), "seg is not one-hot (288 voxels of several structures)"),
        (change_h5("seg", ONE_HOT * 2), "seg is not one-hot (values other than 0 and 1)"),
        (edit_split(lambda c: c["images"][0].pop("orientation")), "train.json: an entry of images lacks file_name"),
        (edit_split(lambda c: c["images"][0].update(orientation=["SI", "AP", "AP"])), "or a valid orientation"),
        (edit_split(lambda c: c.update(images=[])), "train.json: lists no images"),
        (
            lambda s: (s / "annotations/v1.0.0/val.json").unlink(),
            "val.json: there is no such file; copy it from the repo",
        ),
    ],
)
def test_defects_are_told(change, words, tmp_path):
    assert words in refused("skm_tea", tmp_path, change=change)


def test_masks_that_contradict_each_other_are_told(tmp_path):
    change = lambda s: save(s / MASK, np.roll(LABEL, 1, axis=2).transpose(1, 0, 2).astype(np.uint8))  # noqa: E731
    message = refused("skm_tea", tmp_path, "--masks=nifti", change=change)
    assert f"{MASK}: differs from seg in the HDF5 file" in message


def test_masks_of_another_shape_are_told(tmp_path):
    message = refused("skm_tea", tmp_path, "--masks=nifti", change=lambda s: save(s / MASK, LABEL.astype(np.uint8)))
    assert "has 7×8×6 voxels with its axes exchanged, the images 8×7×6" in message


def test_scans_that_are_not_listed_are_ignored(tmp_path):
    target = converted("skm_tea", tmp_path, change=lambda s: (s / "image_files/MTR_999.h5").write_bytes(b""))
    assert record(target)["ignored"] == ["image_files/MTR_999.h5"]


def test_without_h5py_there_is_one_message(tmp_path, monkeypatch):
    source = skm_tea(tmp_path / "source")
    monkeypatch.setitem(sys.modules, "h5py", None)
    status, message = run("skm_tea", source, tmp_path / "target")
    assert status == 1
    assert 'SKM-TEA needs h5py: pip install "mednextv2[convert]", or pip install h5py' in message
    assert not (tmp_path / "target/dataset.json").exists()


def test_a_truncated_scan_is_listed(tmp_path):
    target, reasons = excluded("skm_tea", tmp_path, change=lambda s: truncate(s / FILE))
    assert "HDF5" in reasons["MTR_005"]
    assert passes_check(target) == ["MTR_006", "MTR_013"]
