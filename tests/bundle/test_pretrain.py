"""Supervised pretraining on collections of data sets: training, evaluation, prediction and what follows from it."""

import json
import re
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from benchmark_helpers import task_of
from bundle_helpers import BUNDLES, ROOT, read_csv
from monai.bundle import ConfigWorkflow
from process_pairs import in_two_processes, joined
from verb_helpers import call_verb

from mednextv2.bundle import write_bundle
from mednextv2.bundle.run import as_setting, check_overrides, workflow_files
from mednextv2.data import make_task_phantom, read_dataset
from mednextv2.errors import InputError, find_input_error
from mednextv2.images import volume
from mednextv2.label_scheme import LabelScheme
from mednextv2.weights.provenance import read_about

NAME = "mednextv2_pretrain_ct"
COLLECTIONS = BUNDLES / NAME / "collections"
CT = [{"scheme": "ct", "lower": -1024.0, "upper": 276.0, "mean": -370.0, "std": 436.0}]
#: Data sets that annotate different structures, some of them the same: their labels, and those in the bundle.
PARTS = {
    "first": {"Spleen": "spleen", "Liver": "liver"},
    "second": {"l1": "liver", "l2": "heart", "l3": "aorta"},
    "third": {"brain": "brain"},
}
QUICK = {
    "variant": "v2_tiny", "patch_size": [16, 16, 16], "batch_size": 2, "epochs": 1, "iterations_per_epoch": 2,
    "val_iterations": 2, "num_workers": 0,
}  # fmt: skip
WINDOWS = {"variant": "v2_tiny", "patch_size": [16, 16, 16], "overlap": 0.0, "num_workers": 0}


def make_parts(folder, cases=5, shape=(20, 22, 18)):
    """Three data sets of phantoms, and a collection of them."""
    for number, (name, labels) in enumerate(PARTS.items()):
        scheme = LabelScheme(["background", *labels])
        make_task_phantom(folder / name, scheme, ["CT"], [1.5] * 3, CT, shape, cases, seed=number)
    entries = [{"root": name, "labels": dict(labels)} for name, labels in PARTS.items()]
    (folder / "collection.yaml").write_text(
        yaml.safe_dump({"datasets": entries, "overlaps": {"third": ["Other"]}}, sort_keys=False)
    )
    return folder / "collection.yaml"


def configured(workflow, bundle=BUNDLES / NAME, **settings):
    """A workflow of a bundle as MONAI makes it, with some settings."""
    files = workflow_files(bundle, workflow)
    settings = {**(QUICK if workflow not in ("evaluate", "inference") else WINDOWS), **settings}
    check_overrides(files, settings)
    return ConfigWorkflow(
        config_file=files, meta_file=str(bundle / "configs" / "metadata.json"), logging_file=False,
        workflow_type="infer" if workflow in ("evaluate", "inference") else "train", bundle_root=str(bundle),
        **{key: as_setting(key, value) for key, value in settings.items()},
    )  # fmt: skip


def run(workflow, **settings):
    made = configured(workflow, **settings)
    try:
        made.initialize()
        made.run()
    except Exception as e:  # MONAI wraps it, and the command line finds it again
        raise find_input_error(e) or e from e
    return made


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("parts"))


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


# ---------------------------------------------------------------------------------------------- ready-made collections


def test_the_overlay_has_the_papers_settings(tmp_path, parts):
    made = configured("pretrain+multi_gpu_train", dataset_dir=parts, output_dir=tmp_path)
    config = yaml.safe_load((BUNDLES / NAME / "configs" / "pretrain.yaml").read_text())
    assert config == {"epochs": 1500, "warmup_epochs": 50}
    facts = task_of(NAME).workflow
    assert (facts["patch_size"], facts["variant"], len(facts["labels"])) == ([128] * 3, "v2_base", 41)
    assert "DistributedDataParallel" in made.parser["network"]["_target_"]


@pytest.mark.parametrize("name", ["cads", "totalsegmentator"])
def test_a_ready_made_collection_annotates_all_structures_of_the_bundle(name, tmp_path, monkeypatch):
    facts = yaml.safe_load((ROOT / "tests" / "facts" / "datasets.yaml").read_text(encoding="utf-8"))["datasets"]
    known = {entry["id"]: entry for entry in facts}
    given = yaml.safe_load((COLLECTIONS / f"{name}.yaml").read_text())["datasets"][0]["labels"]
    if name == "cads":
        theirs = {"iliac_artery": "common iliac artery", "iliac_vena": "common iliac vein", "clavicula": "clavicle",
                  "small_bowel": "small intestine", "adrenal_gland": "adrenal gland"}  # fmt: skip
        for part, values in given.items():
            for value, structure in values.items():
                expected = known["cads"]["label_groups"][f"part_{part}"][value].lower()
                side = {"_left": " l", "_right": " r"}.get(structure[structure.rfind("_") :], "")
                stem = structure[: structure.rfind("_")] if side else structure
                words = theirs.get(stem, stem.replace("_", " "))
                assert expected in (words + side, words + side.replace(" l", " of lung l"), _lobe(structure))
    else:
        assert {*given} <= {*known["totalsegmentator_v2"]["labels"].values()}
    scheme = task_of(NAME).scheme()
    monkeypatch.setenv("MEDNEXTV2_DATA", str(tmp_path))
    write_ready_made(name, tmp_path, given)
    found = read_dataset(COLLECTIONS / f"{name}.yaml", scheme=scheme)
    assert all(case.structures == (True,) * 40 for case in found.cases)
    values = {int(v) for case in found.cases for v in np.unique(volume.read_volume(case.label)[0])}
    assert values == {*range(41)}
    overlaps = {other for others in found.overlaps.values() for other in others}
    folders = {
        yaml.safe_load(task.read_text().split("\n---")[0])["dataset_name"] for task in BUNDLES.glob("*/task.yaml")
    }
    assert overlaps <= folders


def _lobe(structure):
    """CADS's name of a lobe: Upper lobe of lung L."""
    words = structure.split("_")
    return f"{words[1]} lobe of lung {words[-1][0]}" if words[0] == "lung" else ""


def write_ready_made(name, folder, labels):
    """Two cases of a data set in its published layout, with all structures."""

    def save(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 1.5, 1])), path)

    random = np.random.default_rng(0)
    shape, offset = (8, 9, 10), 0
    for case in ("s0001", "s0002"):
        if name == "cads":
            root = folder / "CADS" / "0001_visceral_gc"
            save(root / "images" / f"{case}_0000.nii.gz", random.normal(size=shape).astype(np.float32))
            offset = 0
            for part, values in labels.items():
                label = np.zeros(np.prod(shape), np.uint8)
                label[offset : offset + len(values)] = [*values]
                label[-1] = 99  # a structure that the bundle does not have
                offset += len(values)
                save(root / "segmentations" / case / f"{case}_part_{part}.nii.gz", label.reshape(shape))
        else:
            root = folder / "Totalsegmentator_dataset_v201"
            save(root / case / "ct.nii.gz", random.normal(size=shape).astype(np.float32))
            for number, mask in enumerate(labels):
                label = np.zeros(np.prod(shape), np.uint8)
                label[number] = 1
                save(root / case / "segmentations" / f"{mask}.nii.gz", label.reshape(shape))


# ------------------------------------------------------------------------------------------------- several processes


def gradients_of(parts, folder, ranks, rank=0):
    """The gradients of a step on a fixed batch of four patches, of which this process has its part."""
    batch = 4 // ranks
    made = configured(
        "pretrain+multi_gpu_train" if ranks > 1 else "pretrain", dataset_dir=parts, output_dir=folder / "out",
        prepared_dir=folder / "prepared", batch_size=batch, batch_dice=True, amp=False,
    )  # fmt: skip
    parser = made.parser
    take = parser.get_parsed_content
    keys = [(0, True, 1), (5, True, 2), (9, True, 3), (11, False, 4)]  # of all three data sets
    dataset, network = take("train::dataset"), take("network")
    getattr(network, "module", network).load_state_dict(torch.load(folder / "start.pt", weights_only=True))
    items = [dataset[key] for key in keys[rank * batch : (rank + 1) * batch]]
    image, labels = take("train::trainer").prepare_batch(torch.utils.data.default_collate(items), torch.device("cpu"))
    loss = take("loss")(network.train()(image), labels)
    loss.backward()
    return loss.item(), {name.removeprefix("module."): p.grad for name, p in network.named_parameters()}


def one_process_of_two(rank, folder, parts):
    torch.manual_seed(0)
    with joined(rank, folder):
        return gradients_of(parts, folder, 2, rank)


@pytest.mark.slow
def test_a_step_of_two_processes_is_that_of_one_with_the_doubled_batch(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    network = configured("pretrain", dataset_dir=parts, amp=False).parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "start.pt")
    loss, expected = gradients_of(parts, tmp_path, 1)
    losses = []
    for value, found in in_two_processes(one_process_of_two, tmp_path, parts):
        losses.append(value)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert sum(losses) / 2 == pytest.approx(loss, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- many cases


def make_many(folder: Path, cases: int) -> Path:
    """Data sets of tiny cases; all files of a kind are copies of one."""
    image, label = folder / "image.nii.gz", folder / "label.nii.gz"
    affine = np.diag([1.5, 1.5, 1.5, 1])
    voxels = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, affine), image)
    nib.save(nib.Nifti1Image((voxels > 1).astype(np.uint8), affine), label)
    names = ("a", "b", "c", "d")
    for name in names:
        for kind, source in (("images", image), ("labels", label)):
            (folder / name / kind).mkdir(parents=True)
            content = source.read_bytes()
            for number in range(cases // len(names)):
                (folder / name / kind / f"patient{number:05d}.nii.gz").write_bytes(content)
    entries = [
        {"root": name, "labels": {1: label}}
        for name, label in zip(names, ("spleen", "liver", "heart", "brain"), strict=True)
    ]
    (folder / "many.yaml").write_text(json.dumps({"datasets": entries}))
    return folder / "many.yaml"


def start(file, folder, monkeypatch, batches):
    """Do what a training does up to its first batches; return the seconds, and how often each file was read."""
    reads = {}
    load = volume._load_nifti

    def count(path):
        reads[str(path)] = reads.get(str(path), 0) + 1
        return load(path)

    monkeypatch.setattr(volume, "_load_nifti", count)
    began = time.perf_counter()
    made = configured("pretrain", dataset_dir=file, output_dir=folder / "out", prepared_dir=folder / "prepared")
    take = made.parser.get_parsed_content
    for name in ("settings", "network_def", "prepare", "start"):
        take(name)
    loader = iter(take("train::dataloader"))
    for _ in range(batches):
        next(loader)
    return time.perf_counter() - began, reads


def test_no_voxel_is_read_before_a_case_is_drawn_and_none_twice(tmp_path, monkeypatch):
    file = make_many(tmp_path, 80)
    seconds, reads = start(file, tmp_path, monkeypatch, batches=2)
    assert (
        len([name for name in reads if "/labels/" in name]) == len([*(tmp_path / "prepared").rglob("*case.json")]) <= 4
    )
    assert {*reads.values()} == {1}
    assert seconds < 60


@pytest.mark.slow
def test_ten_thousand_cases_start_in_a_minute(tmp_path, monkeypatch):
    file = make_many(tmp_path, 10_000)
    seconds, reads = start(file, tmp_path, monkeypatch, batches=1)
    print(f"{seconds:.1f} s")
    assert seconds < 60
    assert len(reads) <= 2
    assert len(read_dataset(file, scheme=task_of(NAME).scheme()).cases) == 10_000
