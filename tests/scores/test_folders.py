"""Scores of label maps in two folders."""

import csv
import json
import math
import shutil

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mednextv2.errors import InputError
from mednextv2.label_scheme import LabelScheme
from mednextv2.scores.evaluation import METRICS
from mednextv2.scores.folders import find_scheme, pair_files, score_folders
from mednextv2.scores.results_json import read_results

SPACING = (0.5, 1.0, 2.0)


def save(path, array, spacing=SPACING, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(dtype), np.diag([*spacing, 1.0])), path)


def blobs(seed, shape=(20, 22, 12)):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return (noise > 0.02).astype(np.uint8) + (noise > 0.08)


def surface(mask):
    return mask & ~ndimage.binary_erosion(mask)


def by_definition(predicted, reference):
    """Dice, surface Dice at 1 mm and HD95 from SciPy's distance transform."""
    edges = [surface(predicted), surface(reference)]
    to = [ndimage.distance_transform_edt(~edge, sampling=SPACING) for edge in edges]
    there, back = to[1][edges[0]], to[0][edges[1]]
    within = (there <= 1).sum() + (back <= 1).sum()
    return (
        2 * (predicted & reference).sum() / (predicted.sum() + reference.sum()),
        within / (len(there) + len(back)),
        max(np.percentile(there, 95), np.percentile(back, 95)),
    )


@pytest.fixture
def folders(tmp_path):
    for case in range(3):
        save(tmp_path / "labels" / f"case_{case}.nii.gz", blobs(case))
        save(tmp_path / "masks" / f"case_{case}_seg.nii.gz", np.roll(blobs(case), 1, case))
        save(tmp_path / "images" / f"case_{case}_0000.nii.gz", blobs(case) + 0.5, dtype=np.float32)
    return tmp_path


def rows_of(file):
    with file.open(encoding="utf-8") as f:
        return list(csv.DictReader(f))


def test_scores_are_those_of_an_independent_computation(folders):
    summary = score_folders(folders / "masks", folders / "labels", folders / "out")
    rows = rows_of(folders / "out" / "cases.csv")
    assert [(row["case"], row["label"]) for row in rows] == [
        (f"case_{c}", f"label {v}") for c in range(3) for v in (1, 2)
    ]
    for row in rows:
        case, value = int(row["case"][-1]), int(row["label"][-1])
        reference, predicted = blobs(case) == value, np.roll(blobs(case), 1, case) == value
        found = [float(row[metric]) for metric in METRICS]
        assert found == pytest.approx(by_definition(predicted, reference), abs=2e-5)
        assert float(row["volume_ml"]) == pytest.approx(predicted.sum() / 1000, rel=1e-5)
    dice = [float(row["dice"]) for row in rows if row["label"] == "label 1"]
    assert summary[0]["dice_mean"] == pytest.approx(np.mean(dice), abs=1e-5)
    assert [row["label"] for row in rows_of(folders / "out" / "summary.csv")] == ["label 1", "label 2", "mean"]
    assert not (folders / "out" / "results.json").exists()


def test_with_images_a_report_can_be_written(folders):
    score_folders(folders / "masks", folders / "labels", folders / "out", images=folders / "images")
    results = read_results(folders / "out")
    assert results.kind == "evaluation"
    assert results.cases[1].image == (str(folders / "images" / "case_1_0000.nii.gz"),)
    assert results.cases[1].prediction == str(folders / "masks" / "case_1_seg.nii.gz")


def test_regions_and_ignored_voxels_are_those_of_dataset_json(folders):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    (folders / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": [1, 2]}))
    reference = blobs(0)
    reference[:10] = 3
    save(folders / "labels" / "case_0.nii.gz", reference)
    score_folders(folders / "masks", folders / "labels", folders / "out")
    row = rows_of(folders / "out" / "cases.csv")[0]
    assert row["label"] == "whole"
    predicted = np.roll(blobs(0), 1, 0) > 0
    predicted[:10] = False
    whole = (reference == 1) | (reference == 2)
    assert float(row["dice"]) == pytest.approx(
        2 * (predicted & whole).sum() / (predicted.sum() + whole.sum()), abs=1e-5
    )


def test_classes_that_one_side_lacks(tmp_path):
    empty = np.zeros((8, 8, 8))
    one = empty.copy()
    one[2:5, 2:5, 2:5] = 1
    save(tmp_path / "labels" / "a.nii.gz", one)
    save(tmp_path / "masks" / "a.nii.gz", empty)
    scheme = LabelScheme(["background", "x", "y"])
    score_folders(tmp_path / "masks", tmp_path / "labels", tmp_path / "out", scheme)
    x, y = rows_of(tmp_path / "out" / "cases.csv")
    assert (float(x["dice"]), float(x["hd95_mm"])) == (0, math.inf)
    assert math.isnan(float(y["dice"]))


@pytest.mark.parametrize(
    "name", ["a.nii.gz", "a_seg.nii", "a_pred.nii.gz", "a_mask.mha", "a-seg.nii.gz", "a_trans.nii"]
)
def test_masks_are_found_under_the_endings_of_others(tmp_path, name):
    for file in (tmp_path / "masks" / name, tmp_path / "masks" / "ab.nii.gz", tmp_path / "labels" / "a.nii.gz"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    found = pair_files(tmp_path / "masks", tmp_path / "labels")
    assert found == {"a": (tmp_path / "masks" / name, tmp_path / "labels" / "a.nii.gz")}


def test_masks_that_are_missing_or_doubled_are_named(folders, caplog):
    (folders / "masks" / "case_1_seg.nii.gz").unlink()
    with pytest.raises(InputError, match=r"no mask for 1 of 3 references in .* \(case_1.nii.gz\).*--skip_missing"):
        score_folders(folders / "masks", folders / "labels", folders / "out")
    assert not (folders / "out").exists()
    score_folders(folders / "masks", folders / "labels", folders / "out", skip_missing=True)
    assert "case_1.nii.gz: left out" in caplog.text
    (folders / "masks" / "case_2.nii.gz").touch()
    with pytest.raises(InputError, match=r"case_2.nii.gz and case_2_seg.nii.gz may both be the mask"):
        pair_files(folders / "masks", folders / "labels")


@pytest.mark.parametrize(
    ("array", "spacing", "words"),
    [
        (np.zeros((20, 22, 13)), SPACING, "has shape"),
        (blobs(0), (0.5, 1.0, 2.2), "lies up to"),
        (blobs(0) * 9, SPACING, "outside the declared labels: 9, 18"),
        (blobs(0) + 0.5, SPACING, "outside the declared labels"),
    ],
)
def test_masks_that_do_not_fit_are_refused(folders, array, spacing, words):
    save(folders / "masks" / "case_0_seg.nii.gz", array, spacing, np.float32)
    with pytest.raises(InputError, match=words) as error:
        score_folders(folders / "masks", folders / "labels", folders / "out", LabelScheme(["background", "a", "b"]))
    assert "case_0_seg.nii.gz" in str(error.value)


def test_folders_that_cannot_be_scored_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for masks, words in ((tmp_path / "no", "there is no such folder"), (tmp_path / "empty", "holds no label maps")):
        with pytest.raises(InputError, match=words):
            score_folders(masks, tmp_path / "empty", tmp_path / "out")
    save(tmp_path / "zero" / "a.nii.gz", np.zeros((4, 4, 4)))
    with pytest.raises(InputError, match="no label map has a voxel above 0"):
        score_folders(tmp_path / "zero", tmp_path / "zero", tmp_path / "out")
    save(tmp_path / "b" / "b.nii.gz", np.ones((4, 4, 4)))
    with pytest.raises(InputError, match="A mask has the name of its reference"):
        score_folders(tmp_path / "b", tmp_path / "zero", tmp_path / "out", skip_missing=True)


def test_the_nearest_dataset_json_says_what_values_mean(tmp_path):
    assert find_scheme(tmp_path) is None
    (tmp_path / "labels").mkdir()
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1}}')
    assert [*find_scheme(tmp_path / "labels").declared] == ["background", "liver"]


def test_names_that_do_not_fit_are_shown_beside_those_that_are_needed(folders, tmp_path):
    masks, labels = folders / "masks", folders / "labels"
    (tmp_path / "odd").mkdir()
    for file in masks.glob("*.nii.gz"):
        shutil.copy(file, tmp_path / "odd" / f"predicted {file.name}")
    with pytest.raises(InputError, match="A mask has the name of its reference, but there are predicted case_0_seg"):
        pair_files(tmp_path / "odd", labels)


def test_masks_in_subfolders_are_pointed_at(folders, tmp_path):
    masks, labels = folders / "masks", folders / "labels"
    (tmp_path / "above").mkdir()
    shutil.copytree(masks, tmp_path / "above" / "case")
    with pytest.raises(InputError, match="it has subfolders with some"):
        pair_files(tmp_path / "above", labels)
