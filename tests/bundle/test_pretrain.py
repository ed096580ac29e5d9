"""Supervised pretraining on collections of data sets: training, evaluation, prediction and what follows from it."""

import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import yaml
from benchmark_helpers import task_of
from bundle_helpers import BUNDLES, read_csv
from collection_runs import NAME, PARTS, QUICK, run
from verb_helpers import call_verb

from mednextv2.bundle import write_bundle
from mednextv2.data import read_dataset
from mednextv2.errors import InputError
from mednextv2.weights.provenance import read_about


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    output = tmp_path_factory.mktemp("pretrained")
    run("pretrain", dataset_dir=parts, output_dir=output, prepared_dir=output / "prepared")
    return output


def test_a_collection_of_three_data_sets_is_trained_on(parts, trained):
    (row,) = read_csv(trained / "training_log.csv")
    assert np.isfinite(float(row["train_loss"]))
    about = read_about(trained / "model.pt")
    assert about["labels"] == task_of(NAME).scheme().legend
    assert {name: len(cases) for name, cases in about["datasets"].items()} == {"first": 4, "second": 4, "third": 4}
    assert len(about["validation"]) == 3
    assert about["overlaps"] == {"third": ["Other"]}
    prepared = [*(trained / "prepared").rglob("*case.json")]
    assert 0 < len(prepared) <= 8  # as many as patches at most: each when it was drawn


def test_evaluation_scores_what_the_data_sets_annotate_and_a_report_shows_it(parts, trained, tmp_path):
    run("evaluate", dataset_dir=parts, weights=trained / "model.pt", output_dir=tmp_path / "scores")
    rows = read_csv(tmp_path / "scores" / "cases.csv")
    found = {}
    for row in rows:
        found.setdefault(row["case"].split(".")[0], set()).add(row["label"])
        assert float(row["reference_ml"]) > 0
    assert found == {name: {*labels.values()} for name, labels in PARTS.items()}
    names = {row["case"] for row in rows}
    assert {p.name for p in (tmp_path / "scores" / "predictions").iterdir()} == {f"{name}_seg.nii.gz" for name in names}
    (name,) = (name for name in names if name.startswith("second"))
    scheme = task_of(NAME).scheme()
    reference = np.asarray(nib.load(tmp_path / "scores" / "references" / f"{name}.nii.gz").dataobj)
    own = np.asarray(nib.load(parts.parent / "second" / "labelsTr" / f"{name[7:]}.nii.gz").dataobj)
    assert [scheme.labels[reference[own == v][0]] for v in (0, 1, 2, 3)] == ["background", "liver", "heart", "aorta"]
    code, _, err = call_verb("report", tmp_path / "scores")
    assert code == 0, err[-2000:]


def test_seen_cases_are_not_scored(parts, trained, tmp_path):
    settings = {"weights": trained / "model.pt", "output_dir": tmp_path / "out"}
    with pytest.raises(InputError, match="trained on 3 of the 3 cases to be scored"):
        run("evaluate", dataset_dir=parts, fold=1, num_folds=5, **settings)
    run("evaluate", dataset_dir=parts, fold=1, num_folds=5, score_trained_cases=True, **settings)
    assert len({row["case"] for row in read_csv(tmp_path / "out" / "cases.csv")}) == 3


def test_images_are_segmented_with_all_structures(parts, trained, tmp_path):
    run("inference", input=parts.parent / "third", weights=trained / "model.pt", output_dir=tmp_path)
    masks = [np.asarray(nib.load(mask).dataobj) for mask in tmp_path.iterdir()]
    assert len(masks) == 5
    assert all(mask.max() < 41 for mask in masks)


def test_a_training_goes_on_and_its_batches_say_what_is_annotated(parts, trained, tmp_path):
    output = shutil.copytree(trained, tmp_path / "again")
    more = {"epochs": 2, "augment_on": "device", "num_workers": 1, "batch_dice": True, "prepare_ahead": True}
    made = run("pretrain", dataset_dir=parts, output_dir=output, prepared_dir=tmp_path / "prepared", **more)
    assert len(read_csv(output / "training_log.csv")) == 2
    assert len([*(tmp_path / "prepared").rglob("*case.json")]) == 15
    batch = next(iter(made.parser.get_parsed_content("train::dataloader")))
    assert batch["structures"].shape == (2, 40)
    assert {int(n) for n in batch["structures"].sum(1)} <= {1, 2, 3}


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("second", "was trained on 1 of the 1 validation case"),
        pytest.param("Other", "pretrained on third, which has images that are also in Other", marks=pytest.mark.slow),
    ],
)
def test_fine_tuning_takes_the_weights_and_knows_what_they_have_seen(
    parts, trained, tmp_path, caplog, dataset, message
):
    caplog.set_level("WARNING")
    bundle = tmp_path / "mednextv2_other"
    shutil.copytree(BUNDLES / NAME, bundle, ignore=shutil.ignore_patterns("output", "models"))
    task = bundle / "task.yaml"
    first, _, second = task.read_text().partition("\n---")
    facts = {**yaml.safe_load(first), "dataset_name": dataset, "labels": ["background", "l1", "l2", "l3"]}
    task.write_text(f"{yaml.safe_dump(facts, sort_keys=False)}\n---{second}")
    write_bundle(task)
    given = {"dataset_dir": parts.parent / "second", "fold": 1, "bundle": bundle}
    more = {"prepared_dir": tmp_path / "prepared", "pretrained": trained / "model.pt", "warmup_epochs": 0}
    run("finetune", output_dir=tmp_path / "tuned", **given, **more)
    assert message in caplog.text
    weights = tmp_path / "tuned" / "model.pt"
    assert read_about(weights)["pretrained"]["datasets"].keys() == {"first", "second", "third"}
    caplog.clear()
    if dataset == "second":
        with pytest.raises(InputError, match="trained on 1 of the 1 case to be scored"):
            run("evaluate", weights=weights, output_dir=tmp_path / "scores", **given)
    else:
        run("evaluate", weights=weights, output_dir=tmp_path / "scores", **given)
        assert message in caplog.text


# ------------------------------------------------------------------------------------------------------ bad input


def relabel(parts, tmp_path, value, file="second/labelsTr/phantom_000.nii.gz"):
    """A copy of the data, of which a label map has a voxel of another value."""
    folder = shutil.copytree(parts.parent, tmp_path / "copy")
    image = nib.load(folder / file)
    label = np.asarray(image.dataobj).copy()
    label[0, 0, 0] = value
    nib.save(nib.Nifti1Image(label, image.affine), folder / file)
    return folder / "collection.yaml"


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_value_that_is_not_in_the_map_ends_the_training_with_its_file(parts, tmp_path, workers):
    file = relabel(parts, tmp_path, 9)
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({"datasets": content["datasets"][1:2]}, sort_keys=False))
    given = {"dataset_dir": file, "output_dir": tmp_path / "out", "prepared_dir": tmp_path / "p", "fold": "all"}
    settings = {**QUICK, **given, "iterations_per_epoch": 20, "num_workers": workers}
    code, _, err = call_verb("run", NAME, "pretrain", *[str(x) for k, v in settings.items() for x in (f"--{k}", v)])
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "second/labelsTr/phantom_000.nii.gz: has voxels of the value 9, which" in line


def test_what_a_header_tells_ends_a_training_before_it_begins(parts, tmp_path):
    folder = shutil.copytree(parts.parent, tmp_path / "copy")
    (folder / "third" / "imagesTr" / "phantom_002_0000.nii.gz").unlink()
    file = folder / "first" / "labelsTr" / "phantom_001.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), np.eye(4)), file)
    with pytest.raises(InputError) as e:
        run(
            "pretrain", dataset_dir=folder / "collection.yaml", output_dir=tmp_path / "out", prepared_dir=tmp_path / "p"
        )
    assert "The collection has 2 defects" in str(e.value)
    assert "phantom_002_0000.nii.gz: there is no such file" in str(e.value)
    assert "first/labelsTr/phantom_001.nii.gz: has shape 5×5×5" in str(e.value)
    assert not (tmp_path / "out" / "model.pt").exists()


def test_verbs_for_one_data_set_refuse_a_collection(parts, tmp_path):
    code, _, err = call_verb("ensemble", NAME, parts)
    assert code == 1
    assert "collection.yaml: is a collection of data sets" in err
    code, _, err = call_verb(
        "compare", parts, "--output", tmp_path / "compared", "--networks", "mednext_v2_tiny", "--epochs", 1
    )
    assert code != 0
    assert "is a collection of data sets; networks are compared on one data set" in err


def test_checks_and_plans_read_a_collection(parts, tmp_path):
    code, out, err = call_verb("check", parts)
    assert code == 0, err
    assert "15 cases, no defects" in out
    assert "labels: background, spleen, liver, heart, aorta, brain" in out
    bundle = tmp_path / "mednextv2_mine"
    code, out, err = call_verb("plan", parts, "--output", bundle, "--variant", "v2_tiny", "--patch_size", "[16,16,16]")
    assert code == 0, err[-2000:]
    rows = re.findall(r"^data set (\w+) +(\d+) cases +median spacing .+, size [\d ×]+$", out, re.MULTILINE)
    assert [name for name, _ in rows] == [part.name for part in read_dataset(parts).parts]
    assert sum(int(cases) for _, cases in rows) == 15
    facts = yaml.safe_load((bundle / "task.yaml").read_text().partition("\n---")[0])
    assert facts["labels"] == ["background", "spleen", "liver", "heart", "aorta", "brain"]
    assert facts["normalization"][0]["scheme"] == "ct"
    write_bundle(bundle / "task.yaml")
    output = tmp_path / "out"
    run("train", bundle=bundle, dataset_dir=parts, output_dir=output, prepared_dir=tmp_path / "p", spacing=[1.5] * 3)
    assert read_about(output / "model.pt")["labels"] == facts["labels"]
