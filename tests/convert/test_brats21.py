"""BraTS 2021: four channels in a fixed order, and values that change places."""

import numpy as np
import pytest
from converter_runs import converted, description, excluded, move, names, passes_check, refused, truncate
from source_files import AFFINE, image, labels, read, save

CASE = "BraTS2021_00000"


def test_channels_are_in_order_and_values_change_places(tmp_path):
    target = converted("brats21", tmp_path)
    assert passes_check(target) == [CASE, "BraTS2021_01666"]
    for channel, name in enumerate(("t1", "t1ce", "t2", "flair")):
        own = tmp_path / f"source/BraTS2021_Training_Data/{CASE}/{CASE}_{name}.nii.gz"
        assert (target / f"imagesTr/{CASE}_{channel:04d}.nii.gz").read_bytes() == own.read_bytes()
    raw, new = labels((1, 2, 4)), read(target / f"labelsTr/{CASE}.nii.gz")
    for old, value in {0: 0, 1: 2, 2: 1, 4: 3}.items():  # the core becomes 2, the edema 1
        np.testing.assert_array_equal(new == value, raw == old)
    assert description(target)["labels"] == {
        "background": 0, "whole_tumour": [1, 2, 3], "tumour_core": [2, 3], "enhancing_tumour": 3
    }  # fmt: skip
    assert description(target)["regions_class_order"] == [1, 2, 3]
    assert list(description(target)["channel_names"].values()) == ["T1", "T1ce", "T2", "FLAIR"]


def test_later_years_are_refused(tmp_path):
    def change(source):
        for folder in list(source.iterdir()):
            move(folder, source / folder.name.replace("BraTS2021_", "BraTS-GLI-"))

    message = refused("brats21", tmp_path, change=change)
    assert "holds BraTS 2023 or later, whose channels and labels have other names and values" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: (s / CASE / f"{CASE}_t1ce.nii.gz").unlink(),
            f"{CASE}/{CASE}_t1ce.nii.gz: there is no such",
        ),
        (lambda s: (s / CASE / f"{CASE}_seg.nii.gz").unlink(), f"{CASE}/{CASE}_seg.nii.gz: there is no such file"),
        (lambda s: truncate(s / CASE / f"{CASE}_flair.nii.gz"), f"{CASE}_flair.nii.gz: cannot be read"),
        (lambda s: save(s / CASE / f"{CASE}_t2.nii.gz", image(), AFFINE * 2), "their affines differ"),
        (lambda s: save(s / CASE / f"{CASE}_t2.nii.gz", image(0, (8, 7, 5))), "has shape 8×7×5"),
        (
            lambda s: save(s / CASE / f"{CASE}_seg.nii.gz", labels((1, 2, 3))),
            "has the label values 3, which this data set does not have (it has 1, 2, 4)",
        ),
    ],
)
def test_defects_are_told_or_listed(change, words, tmp_path):
    assert words in refused("brats21", tmp_path / "a", change=change)
    target, reasons = excluded("brats21", tmp_path / "b", change=change)
    assert words in reasons[CASE]
    assert names(target / "labelsTr") == ["BraTS2021_01666.nii.gz"]


def test_further_files_of_a_case_are_ignored_and_counted(tmp_path):
    target = converted("brats21", tmp_path, change=lambda s: save(s / CASE / f"{CASE}_t1c.nii.gz", image()))
    assert passes_check(target) == [CASE, "BraTS2021_01666"]
    from converter_runs import record

    assert record(target)["ignored"] == [f"{CASE}/{CASE}_t1c.nii.gz"]
