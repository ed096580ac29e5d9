"""The verb `check`."""

import shutil

import nibabel as nib
import numpy as np
from verb_helpers import call


def test_check_says_what_is_there(phantom, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "check", phantom)
    assert code == 0
    assert "6 cases, no defects" in out
    assert "background, anterior, posterior" in out


def test_check_of_a_missing_folder_ends_with_one_message(tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "check", tmp_path / "no")
    assert code == 1
    assert err.strip().startswith(f"error: dataset_dir {tmp_path / 'no'}")


def test_check_finds_what_plan_would_refuse_or_warn_of(tmp_path, monkeypatch, capsys):
    def two_folders(name, *values):
        for folder in ("images", "labels"):
            (tmp_path / name / folder).mkdir(parents=True)
        for case, value in enumerate(values):
            image = np.random.default_rng(case).normal(size=(8, 8, 8)).astype(np.float32)
            label = np.zeros((8, 8, 8), np.uint8)
            label[:4] = value
            nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / name / "images" / f"{case}.nii.gz")
            nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / name / "labels" / f"{case}.nii.gz")
        return tmp_path / name

    code, _, err = call(monkeypatch, capsys, "check", two_folders("gaps", 1, 5))
    assert code == 1
    assert "have the values 0, 1, 5, with gaps (2, 3, 4)" in err
    code, _, err = call(monkeypatch, capsys, "check", two_folders("empty", 0, 0))
    assert code == 1
    assert "none of the 2 cases has a voxel above 0" in err
    code, out, _ = call(monkeypatch, capsys, "check", two_folders("single", 1))
    assert code == 0
    assert "warning: 1 case cannot be split into folds" in out


def test_files_of_no_case_are_named(phantom, tmp_path, monkeypatch, capsys):
    shutil.copytree(phantom, tmp_path / "data")
    image = next((tmp_path / "data" / "imagesTr").glob("*.nii.gz"))
    shutil.copy(image, image.with_name("other.nii.gz"))
    code, out, _ = call(monkeypatch, capsys, "check", tmp_path / "data")
    assert code == 0
    assert "warning: no case uses 1 image file: other.nii.gz" in out
