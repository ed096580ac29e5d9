"""ToothFairy2: values with gaps become consecutive; placeholders and the values of ToothFairy3 are refused."""

import nibabel as nib
import numpy as np
import pytest
from converter_runs import converted, description, load, move, passes_check, refused, truncate
from source_builders import TEETH
from source_files import AFFINE, image, labels, read, save_mha

LABEL = "Dataset112_ToothFairy2/labelsTr/ToothFairy2F_001.mha"


def test_values_become_consecutive_on_the_same_grid(tmp_path):
    target = converted("toothfairy2", tmp_path)
    assert passes_check(target) == ["ToothFairy2F_001", "ToothFairy2P_417"]
    raw, new = labels(TEETH), read(target / "labelsTr/ToothFairy2F_001.nii.gz")
    # nnU-Net's Dataset119: 1-18 unchanged, 21-28 to 19-26, 31-38 to 27-34, 41-48 to 35-42
    expected = {0: 0} | {v: v for v in range(1, 19)} | {v: v - 2 for v in range(21, 29)}
    expected |= {v: v - 4 for v in range(31, 39)} | {v: v - 6 for v in range(41, 49)}
    assert len(expected) == 43
    for old, value in expected.items():
        np.testing.assert_array_equal(new == value, raw == old)
    own = nib.load(target / "imagesTr/ToothFairy2F_001_0000.nii.gz")
    np.testing.assert_array_equal(own.dataobj, image(len("ToothFairy2F_001")))
    np.testing.assert_allclose(own.affine, AFFINE, atol=1e-6)
    assert own.get_data_dtype() == np.int16


def test_names_are_of_the_patients_sides(tmp_path):
    names = description(converted("toothfairy2", tmp_path))["labels"]
    assert names["Upper Right Central Incisor"] == 11
    assert names["Upper Left Central Incisor"] == 19
    assert names["Lower Left Third Molar"] == 34
    assert names["Lower Right Third Molar"] == 42
    assert load("toothfairy2").RAW[48] == "Lower Right Third Molar"


@pytest.mark.parametrize("value", [19, 20, 29, 30, 39, 40, 49, 103, 111])
def test_other_values_are_refused(value, tmp_path):
    change = lambda s: save_mha(s / LABEL, labels((1, value)).astype(np.uint8))  # noqa: E731
    message = refused("toothfairy2", tmp_path, change=change)
    assert f"ToothFairy2F_001.mha: has the label values {value}, which this data set does not have" in message


def test_toothfairy3_is_refused(tmp_path):
    def change(source):
        images = source / "Dataset112_ToothFairy2/imagesTr"
        move(images / "ToothFairy2F_001_0000.mha", images / "ToothFairy3F_001_0000.mha")

    assert "is ToothFairy3, which has other structures" in refused("toothfairy2", tmp_path, change=change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: (s / LABEL).unlink(), "ToothFairy2F_001_0000.mha: has no label map"),
        (lambda s: truncate(s / LABEL), "ToothFairy2F_001.mha: "),
        (lambda s: save_mha(s / LABEL, labels((1,), (8, 7, 5)).astype(np.uint8)), "has shape 8×7×5"),
    ],
)
def test_defects_are_told(change, words, tmp_path):
    assert words in refused("toothfairy2", tmp_path, change=change)
