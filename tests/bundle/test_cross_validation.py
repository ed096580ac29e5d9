"""The end of a cross-validation, on predictions drawn by hand, and what inference makes of it."""

import csv
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import HIPPOCAMPUS, as_arguments
from cross_validation_helpers import CASES, NAMES, make_folds, predicted, truth
from dataset_helpers import make_folders, make_nnunet, run_verbs, save
from scipy import ndimage
from sklearn.model_selection import KFold

from mednextv2.bundle import cross_validation, write_bundle
from mednextv2.bundle.cross_validation import bundle_scheme, finish_cross_validation
from mednextv2.bundle.plan import plan_dataset
from mednextv2.bundle.plan_to_task import write_task
from mednextv2.errors import InputError
from mednextv2.inference.postprocessing import Postprocessing
from mednextv2.nets import create_mednext
from mednextv2.report import read_results, write_report


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose five folds are trained and evaluated, and its data set."""
    return make_folds(tmp_path)


def dice_of(pairs, value):
    scores = [2 * ((p == value) & (g == value)).sum() / ((p == value).sum() + (g == value).sum()) for p, g in pairs]
    return np.mean(scores)


def test_scores_of_all_folds_are_one_table(bundle):
    table, _ = finish_cross_validation(*bundle)
    folder = bundle[0] / "output" / "evaluation" / "cross_validation"
    with (folder / "cases.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert sorted((row["case"], row["label"]) for row in rows) == [
        (name, label) for name in NAMES for label in ("anterior", "posterior")
    ]
    with (folder / "summary.csv").open() as f:
        summary = {row["label"]: row for row in csv.DictReader(f)}
    assert list(summary) == ["anterior", "posterior", "mean"]
    # 0.00, 0.01, …, 0.10: mean 0.05; the posterior's are half a unit higher
    assert float(summary["anterior"]["dice_mean"]) == pytest.approx(0.05)
    assert float(summary["posterior"]["dice_mean"]) == pytest.approx(0.55)
    assert float(summary["mean"]["dice_mean"]) == pytest.approx(0.30)
    assert summary["anterior"]["dice_cases"] == str(CASES)
    lines = {line.split()[0]: line.split() for line in table.splitlines()}
    assert lines["posterior"] == ["posterior", "0.550", "0.500", "3.00"]


@pytest.mark.parametrize("experiment", ["wide", "finetune"])
def test_the_folds_of_an_experiment_are_finished_apart(bundle, experiment):
    root, data = bundle
    finish_cross_validation(root, data)
    with pytest.raises(InputError, match=rf"fold 0 is not trained: .* --experiment {experiment} --fold 0"):
        finish_cross_validation(root, data, experiment=experiment)
    for fold in range(5):
        for folder in (root / "models", root / "output" / "evaluation"):
            shutil.move(folder / f"fold_{fold}", folder / experiment / f"fold_{fold}")
    shutil.rmtree(root / "output" / "evaluation" / "cross_validation")
    (root / "models" / "folds_postprocessing.json").unlink()
    finish_cross_validation(root, data, experiment=experiment)
    assert (root / "output" / "evaluation" / experiment / "cross_validation" / "cases.csv").is_file()
    assert (root / "models" / experiment / "folds_postprocessing.json").is_file()
    assert not (root / "models" / "folds_postprocessing.json").exists()


def test_a_report_shows_all_folds(bundle):
    finish_cross_validation(*bundle)
    folder = bundle[0] / "output" / "evaluation" / "cross_validation"
    results = read_results(folder)
    assert sorted(case.case for case in results.cases) == NAMES
    page = write_report(folder).read_text(encoding="utf-8")
    assert "mednextv2_copy, cross-validation" in page
    assert all(name in page for name in NAMES)


def test_absent_classes_and_infinite_distances_survive_the_table(bundle):
    file = bundle[0] / "output" / "evaluation" / "fold_3" / "cases.csv"
    lines = file.read_text().splitlines()
    lines[1:3] = [",".join([*lines[1].split(",")[:2], "nan", "nan", "nan"]),
                  ",".join([*lines[2].split(",")[:2], "0", "0", "inf"])]  # fmt: skip
    file.write_text("\n".join(lines) + "\n")
    finish_cross_validation(*bundle)
    with (bundle[0] / "output" / "evaluation" / "cross_validation" / "summary.csv").open() as f:
        anterior, posterior, _ = csv.DictReader(f)
    assert anterior["dice_cases"] == str(CASES - 1)
    assert (posterior["dice_cases"], posterior["hd95_mm_infinite"]) == (str(CASES), "1")
    assert float(posterior["dice_min"]) == 0


def test_post_processing_that_helps_is_accepted_and_left_for_inference(bundle):
    _, decision = finish_cross_validation(*bundle)
    assert decision.cases == CASES
    assert decision.steps == [[1, 2]]  # the islands go; nothing is left for the single labels to improve
    pairs = [(predicted(case), truth(case)) for case in range(CASES)]
    union = decision.table[0]
    assert union["name"] == "foreground"
    assert union["dice_before"] == pytest.approx(np.mean([dice_of(pairs, value) for value in (1, 2)]))
    assert union["dice_after"] == 1
    assert [row["accepted"] for row in decision.table] == [True, False, False]
    assert Postprocessing.load(bundle[0] / "models" / "folds_postprocessing.json") == [[1, 2]]


def test_folds_that_are_missing_are_all_named_with_their_commands(bundle):
    root, data = bundle
    (root / "models" / "fold_1" / "model.pt").unlink()
    (root / "models" / "model.pt").touch()  # published weights are of no fold
    (root / "output" / "evaluation" / "fold_3" / "cases.csv").unlink()
    unseen = list(KFold(5, shuffle=True, random_state=12345).split(NAMES))[4][1]
    (root / "output" / "evaluation" / "fold_4" / "predictions" / f"{NAMES[unseen[0]]}_seg.nii.gz").unlink()
    with pytest.raises(InputError) as error:
        finish_cross_validation(*bundle)
    first, *lines = str(error.value).splitlines()
    assert first == f"{root}: the cross-validation is not complete"
    assert lines == [
        f"fold 1 is not trained: mednextv2 run {root} train --dataset_dir {data} --fold 1",
        f"fold 3 is not evaluated (0 of 2 predictions missing in {root / 'output' / 'evaluation' / 'fold_3'}): "
        f"mednextv2 run {root} evaluate --dataset_dir {data} --fold 3",
        f"fold 4 is not evaluated (1 of 2 predictions missing in {root / 'output' / 'evaluation' / 'fold_4'}): "
        f"mednextv2 run {root} evaluate --dataset_dir {data} --fold 4",
    ]
    assert not (root / "models" / "folds_postprocessing.json").exists()
    assert not (root / "output" / "evaluation" / "cross_validation").exists()


def test_few_cases_make_as_many_folds(bundle, tmp_path):
    few = make_folders(tmp_path / "few", cases=3)
    with pytest.raises(InputError, match="not complete") as error:
        finish_cross_validation(bundle[0], few)
    assert re.findall(r"fold (\d) is not evaluated", str(error.value)) == ["0", "1", "2"]


def test_the_scheme_of_a_bundle_with_regions_is_read_from_its_configuration(tmp_path):
    data = make_nnunet(tmp_path / "data", cases=1)
    write_bundle(write_task(plan_dataset(data, variant="v2_tiny"), tmp_path / "mednextv2_x"))
    scheme = bundle_scheme(tmp_path / "mednextv2_x")
    assert scheme.foreground == ["whole", "core", "enhancing"]
    assert scheme.members == [(1, 2, 3), (2, 3), (3,)]


def test_inference_averages_the_folds_and_applies_what_was_decided(tmp_path):
    root = tmp_path / "mednextv2_copy"
    shutil.copytree(HIPPOCAMPUS / "configs", root / "configs")
    for fold in (0, 3):
        torch.manual_seed(fold)
        network = create_mednext("v2_tiny", out_channels=3, deep_supervision=True)
        for parameter in network.parameters():  # lively enough for masks of many pieces
            parameter.data += 0.2 * torch.randn_like(parameter)
        (root / "models" / f"fold_{fold}").mkdir(parents=True)
        torch.save(network.state_dict(), root / "models" / f"fold_{fold}" / "model.pt")
    decided = tmp_path / "decided.json"
    decided.write_text('{"steps": [[1], [2]]}')
    image = save(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(24, 32, 20)).astype(np.float32))
    common = {"input": image, "patch_size": "[32,32,32]", "test_mirror_axes": "[]", "num_workers": 0, "amp": False}
    runs = {
        "alone": {"weights": root / "models" / "fold_0" / "model.pt"},
        "both": {},
        "decided": {"postprocessing_file": decided},
    }
    results = run_verbs(
        [["run", root, "inference", *as_arguments({**common, **settings, "output_dir": tmp_path / name})]
         for name, settings in runs.items()],
        cwd=tmp_path,
    )  # fmt: skip
    assert results.returncode == 0, results.stderr[-3000:]
    masks = {name: np.asarray(nib.load(tmp_path / name / "a_seg.nii.gz").dataobj) for name in runs}
    assert (masks["alone"] != masks["both"]).any()
    expected = np.zeros_like(masks["both"])
    for value in (1, 2):
        components, count = ndimage.label(masks["both"] == value, np.ones((3, 3, 3)))
        assert count > 1  # else there would be nothing to remove
        expected[components == 1 + np.bincount(components.ravel())[1:].argmax()] = value
    np.testing.assert_array_equal(masks["decided"], expected)


def recorded(count, validation):
    return {"num_folds": count, "training": [n for n in NAMES if n not in validation], "validation": validation}


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ({0: recorded(6, NAMES[:2]), 1: recorded(5, NAMES[2:4])}, "fold 0 of 6, fold 1 of 5"),
        ({0: recorded(5, NAMES[:2]), 1: recorded(5, NAMES[1:3])}, f"{NAMES[1]} validates in fold 0 and in fold 1"),
    ],
)
def test_folds_of_different_splits_are_refused(bundle, monkeypatch, folds, words):
    abouts = {fold: about | {"fold": fold} for fold, about in folds.items()}
    monkeypatch.setattr(cross_validation, "_about", lambda root, fold: abouts.get(fold, {}))
    with pytest.raises(InputError, match=words):
        finish_cross_validation(*bundle)


def test_the_number_of_folds_is_that_of_any_fold_that_is_trained(bundle, monkeypatch):
    about = recorded(3, NAMES[:4]) | {"fold": 1}
    monkeypatch.setattr(cross_validation, "_about", lambda root, fold: about if fold == 1 else {})
    shutil.rmtree(bundle[0] / "output" / "evaluation")
    with pytest.raises(InputError, match="not complete") as error:
        finish_cross_validation(*bundle)
    assert len(re.findall("is not evaluated", str(error.value))) == 3
