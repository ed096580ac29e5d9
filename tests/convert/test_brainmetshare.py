"""BrainMetShare: PNG slices in the order of their numbers, without a geometry of their own."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from converter_runs import converted, description, excluded, move, names, passes_check, record, refused, run, truncate
from source_files import image, read, save_png

TRAIN = "mets_stanford_release_train"
CASE = f"{TRAIN}/Mets_005"


def stack(case, name):
    return image(case * 5 + len(name) + ord(name[0]), (8, 7, 12)) % 256


def test_slices_are_stacked_by_number_and_masks_become_binary(tmp_path):
    target = converted("brainmetshare", tmp_path)
    assert passes_check(target) == ["Mets_005", "Mets_010"]
    for channel in range(4):
        np.testing.assert_array_equal(read(target / f"imagesTr/Mets_005_{channel:04d}.nii.gz"), stack(5, str(channel)))
    np.testing.assert_array_equal(read(target / "labelsTr/Mets_005.nii.gz"), stack(5, "seg") > 200)
    assert names(target / "imagesTs") == [f"Mets_001_{channel:04d}.nii.gz" for channel in range(4)]
    assert not (target / "labelsTs").exists()
    assert description(target)["channel_names"]["0"].startswith("T1 GRE (BRAVO)")


@pytest.mark.parametrize(("words", "spacing"), [([], (0.94, 0.94, 1)), (["--spacing=0.9,0.8,1.5"], (0.9, 0.8, 1.5))])
def test_the_voxel_size_is_set_and_said(words, spacing, tmp_path):
    target = converted("brainmetshare", tmp_path, *words)
    affine = nib.load(target / "labelsTr/Mets_010.nii.gz").affine
    np.testing.assert_allclose(affine, np.diag([-spacing[0], -spacing[1], spacing[2], 1]), atol=1e-6)
    (note,) = record(target)["notes"]
    assert f"the voxel size was set to {'×'.join(f'{s:g}' for s in spacing)} mm" in note


@pytest.mark.parametrize("text", ["1", "1,1", "0,1,1", "a,b,c", "1,1,inf"])
def test_a_spacing_that_is_none_is_refused(text, tmp_path):
    status, said = run("brainmetshare", tmp_path, tmp_path / "target", f"--spacing={text}")
    assert status == 2
    assert "should be three sizes in millimetres" in said


def test_the_training_folder_alone_is_refused(tmp_path):
    converted("brainmetshare", tmp_path)
    status, said = run("brainmetshare", tmp_path / "source" / TRAIN, tmp_path / "b")
    assert status == 1
    assert f"holds Mets_005, Mets_010; give the folder that holds {TRAIN}" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: shutil.rmtree(c / "2"), "Mets_005/2: is missing; copy or unpack the rest of the case"),
        (lambda c: shutil.rmtree(c / "seg"), "Mets_005/seg: is missing"),
        (lambda c: (c / "1/7.png").unlink(), "Mets_005/1: has no slice 7; copy or unpack it again"),
        (
            lambda c: (c / "1/11.png").unlink(),
            "the numbers of slices differ (12 in 0, 11 in 1, 12 in 2, 12 in 3, 12 in seg)",
        ),
        (
            lambda c: move(c / "1/7.png", c / "1/a07.png") or save_png(c / "1/7.png", image(0, (7, 8), np.uint8)),
            "has the number of",
        ),
        (lambda c: truncate(c / "3/4.png"), "Mets_005/3/4.png: cannot be read; it is truncated, damaged or no PNG"),
        (
            lambda c: save_png(c / "3/4.png", image(0, (7, 9)).astype(np.uint8)),
            "3/4.png: has 7×9 pixels, where 0.png has",
        ),
        (lambda c: save_png(c / "seg/4.png", image(0, (7, 8)).astype(np.uint8)), "Mets_005/seg: has the values [0, "),
    ],
)
def test_defects_are_told_or_listed(change, words, tmp_path):
    assert words in refused("brainmetshare", tmp_path / "a", change=lambda s: change(s / CASE))
    target, reasons = excluded("brainmetshare", tmp_path / "b", change=lambda s: change(s / CASE))
    assert words in reasons["Mets_005"]
    assert passes_check(target) == ["Mets_010"]


def test_other_files_are_ignored_and_counted(tmp_path):
    def change(source):
        (source / CASE / "0/.DS_Store").write_bytes(b"")
        (source / CASE / "notes.txt").write_bytes(b"")

    target = converted("brainmetshare", tmp_path, change=change)
    assert record(target)["ignored"] == [f"{CASE}/0/.DS_Store", f"{CASE}/notes.txt"]
