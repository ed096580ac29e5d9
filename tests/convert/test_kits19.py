"""KiTS19: folders of cases on a grid of slice, row and column; regions in dataset.json."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from converter_runs import (
    converted,
    description,
    excluded,
    names,
    passes_check,
    record,
    refused,
    run,
    same_values,
    truncate,
)
from source_builders import KITS_AFFINE
from source_files import labels, save

from mednextv2.data.dataset import read_scheme


def test_cases_stay_on_their_grid_and_test_cases_have_no_labels(tmp_path):
    target = converted("kits19", tmp_path)
    assert passes_check(target) == ["case_00000", "case_00001", "case_00160"]
    for file in ("imagesTr/case_00160_0000.nii.gz", "labelsTr/case_00160.nii.gz"):
        assert nib.load(target / file).shape == (6, 8, 12)
        np.testing.assert_allclose(nib.load(target / file).affine, KITS_AFFINE, atol=1e-6)
    same_values(target / "labelsTr/case_00000.nii.gz", labels((1, 2), (6, 8, 7)))
    assert names(target / "imagesTs") == ["case_00210_0000.nii.gz"]
    assert record(target)["ignored"] == ["data/LICENSE", "data/kits.json"]


def test_labels_are_regions_of_the_challenge(tmp_path):
    target = converted("kits19", tmp_path)
    assert description(target)["labels"] == {"background": 0, "kidney_and_tumour": [1, 2], "tumour": 2}
    scheme = read_scheme(target)
    assert [(r.name, r.values, r.paint) for r in scheme.regions] == [
        ("kidney_and_tumour", (1, 2), 1),
        ("tumour", (2,), 2),
    ]
    assert record(target)["labels"] == {"1": "kidney", "2": "tumour"}


@pytest.mark.parametrize("inner", ["", "data"])
def test_the_clone_and_its_folder_of_data_are_the_same(inner, tmp_path):
    converted("kits19", tmp_path)
    status, said = run("kits19", tmp_path / "source/kits19" / inner, tmp_path / "other")
    assert status == 0, said
    assert passes_check(tmp_path / "other") == ["case_00000", "case_00001", "case_00160"]


def test_cases_that_the_user_names_are_left_out_and_listed(tmp_path):
    target = converted("kits19", tmp_path, "--exclude=case_00001, case_00210")
    assert passes_check(target) == ["case_00000", "case_00160"]
    assert record(target)["excluded"] == dict.fromkeys(("case_00001", "case_00210"), "excluded by --exclude")
    assert not (target / "imagesTs").exists()


def test_a_clone_without_images_lacks_them_all(tmp_path):
    def change(source):
        for file in source.rglob("imaging.nii.gz"):
            file.unlink()

    message = refused("kits19", tmp_path, change=change)
    assert f"4 cases of {tmp_path / 'source/kits19'} cannot be converted:" in message
    assert "- case_00000: data/case_00000/imaging.nii.gz: there is no such file; run starter_code.get_imag" in message
    assert "--defective" not in message  # no case would be left


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: (s / "data/case_00001/segmentation.nii.gz").unlink(),
            "data/case_00001/segmentation.nii.gz: there is no such file; restore",
        ),
        (lambda s: truncate(s / "data/case_00001/imaging.nii.gz"), "data/case_00001/imaging.nii.gz: cannot be read"),
        (
            lambda s: save(s / "data/case_00001/segmentation.nii.gz", labels((1, 2, 3), (6, 8, 7)), KITS_AFFINE),
            "data/case_00001/segmentation.nii.gz: has the label values 3, which",
        ),
    ],
)
def test_defects_are_told_or_listed(change, words, tmp_path):
    assert words in refused("kits19", tmp_path / "a", change=change)
    target, reasons = excluded("kits19", tmp_path / "b", change=change)
    assert words in reasons["case_00001"]
    assert passes_check(target) == ["case_00000", "case_00160"]


def test_defects_of_every_kind_are_listed_at_once(tmp_path):
    def change(source):
        for number in range(2, 6):
            shutil.copytree(source / "data/case_00000", source / f"data/case_{number:05d}")
        (source / "data/case_00000/segmentation.nii.gz").unlink()
        truncate(source / "data/case_00001/imaging.nii.gz")
        (source / "data/case_00002/segmentation.nii.gz").write_bytes(b"")
        save(source / "data/case_00003/segmentation.nii.gz", labels((1, 2), (6, 8, 6)), KITS_AFFINE)
        save(source / "data/case_00004/segmentation.nii.gz", labels((1, 2, 3), (6, 8, 7)), KITS_AFFINE)
        save(source / "data/case_00005/imaging.nii.gz", np.zeros((6, 8, 7), np.float32), KITS_AFFINE)

    message = refused("kits19", tmp_path, change=change)
    head, *lines, advice = message.strip().splitlines()
    assert head == f"error: 6 cases of {tmp_path / 'source/kits19'} cannot be converted:"
    assert [line.split(": ")[:2] for line in lines] == [
        [f"- case_{number:05d}", f"data/case_{number:05d}/{kind}.nii.gz"]
        for number, kind in enumerate(["segmentation", "imaging", *["segmentation"] * 3, "imaging"])
    ]
    for line, words in zip(lines, ("no such", "cannot be", "", "has shape", "values 3", "constant"), strict=True):
        assert words in line
        assert line.count(line.split(": ")[1]) == 1
    assert advice.startswith("2 other cases can be used. Mend these cases and give the same command again, or")
    assert "--defective exclude" in advice
    status, said = run("kits19", tmp_path / "source/kits19", tmp_path / "target", "--defective=exclude")
    assert status == 0, said
    assert len(record(tmp_path / "target")["excluded"]) == 6
    assert passes_check(tmp_path / "target") == ["case_00160"]


def test_a_folder_that_is_called_as_its_case_is_named_once(tmp_path):
    def change(source):
        (source / "data/case_00001/segmentation.nii.gz").unlink()

    message = refused("kits19", tmp_path, change=change, source=tmp_path / "source/kits19/data")
    assert "- case_00001: case_00001/segmentation.nii.gz: there is no such file" in message
