"""Fine-tuning: a training that starts from other weights, and what is done with its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from bundle_helpers import as_arguments, read_csv, run_python
from configured_runs import PREDICT, TRAIN, copy_bundle, run_configured

from mednextv2.bundle.run import configure, read_workflow, workflow_files
from mednextv2.errors import InputError
from mednextv2.predict_files import predict_files
from mednextv2.weights.provenance import read_about, trained_cases

REGIONS = [{"name": "whole", "values": [1, 2], "paint": 1}, {"name": "end", "values": [2], "paint": 2}]


@pytest.fixture
def data(small_phantom):
    return {"dataset_dir": str(small_phantom)}


@pytest.fixture
def bundle(tmp_path):
    return copy_bundle(tmp_path)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory, small_phantom):
    """A bundle that was trained."""
    bundle = copy_bundle(tmp_path_factory.mktemp("first"))
    run_configured(bundle, "train", dataset_dir=str(small_phantom), **TRAIN)
    return bundle


@pytest.fixture
def first(bundle, trained_once):
    """Weights of an ordinary training of the bundle."""
    for name in ("models", "output"):
        shutil.copytree(trained_once / name, bundle / name)
    return bundle / "models" / "fold_0" / "model.pt"


def test_fine_tuned_weights_are_evaluated_and_used(first, bundle, data, tmp_path, caplog):
    caplog.set_level("INFO")
    done = run_configured(
        bundle, "finetune", **data, **TRAIN, pretrained=str(first), regions=REGIONS, context=2, learning_rate=1e-9
    )
    lines = [record.getMessage() for record in caplog.records if "tensors loaded" in record.getMessage()]
    assert len(lines) == 1
    assert "newly initialised: heads.0.weight" in lines[0]  # two regions instead of three classes
    assert [*done["train::dataset"].patch_size] == [32, 32, 32]
    folder = bundle / "models" / "finetune" / "fold_0"
    old, new = (torch.load(file, weights_only=True) for file in (first, folder / "model.pt"))
    assert new["heads.0.weight"].shape[0] == 2
    rest = [name for name in old if not name.startswith("heads.")]
    assert all(torch.allclose(new[name], old[name], atol=1e-6) for name in rest)
    about = read_about(folder / "model.pt")
    assert about["settings"] == {"variant": "v2_tiny", "kernel_size": 3, "patch_size": [16, 16, 16], "context": 2}
    assert about["pretrained"]["training"] == about["training"] == read_about(first)["training"]

    scored = run_configured(bundle, "evaluate", **data, **PREDICT, regions=REGIONS, experiment="finetune")
    assert scored["predictor"].weights == [str(folder / "model.pt")]
    assert [*scored["inferer"].roi_size] == [32, 32, 32]  # as in training
    rows = read_csv(bundle / "output" / "evaluation" / "finetune" / "fold_0" / "cases.csv")
    assert {row["label"] for row in rows} == {"whole", "end"}

    image = next((Path(data["dataset_dir"]) / "imagesTr").glob("*.nii.gz"))
    quick = {key: PREDICT[key] for key in ("overlap", "test_mirror_axes")}
    (mask,) = predict_files(bundle, image, tmp_path / "masks", experiment="finetune", regions=REGIONS, **quick)
    assert Path(mask).is_file()


def test_without_another_training_fine_tuned_weights_are_found_by_themselves(first, bundle, data, tmp_path):
    elsewhere = first.rename(tmp_path / "first.pt")
    run_configured(bundle, "finetune", **data, **TRAIN, pretrained=str(elsewhere))
    scored = run_configured(bundle, "evaluate", **data, **PREDICT)
    assert scored["predictor"].weights == [str(bundle / "models" / "finetune" / "fold_0" / "model.pt")]
    assert (bundle / "output" / "evaluation" / "fold_0" / "cases.csv").is_file()


def test_the_schedule_is_that_of_mednext_v2(bundle):
    """Roy et al. 2025 (arXiv:2512.17774): AdamW, 300 epochs, of which 50 are a warm-up to 1e-3."""
    parser = read_workflow(workflow_files(bundle, "finetune"))
    config = parser.config
    names = ("epochs", "warmup_epochs", "optimizer_name", "learning_rate", "context", "weight_decay")
    assert [config[name] for name in names] == [300, 50, "adamw", 1e-3, 1.0, 3e-5]


def test_weights_of_another_organ_are_told_by_their_labels(first, bundle, data, caplog):
    assert read_about(first)["labels"] == ["background", "anterior", "posterior"]
    caplog.set_level("INFO")
    other = ["background", "liver", "tumour"]
    with pytest.raises(
        InputError, match=r"for the labels \[background, anterior, posterior\], but the labels here are \[b"
    ):
        run_configured(bundle, "evaluate", **data, **PREDICT, labels=other)
    parts = (("whole", 1), ("anterior", 1), ("posterior", 2))
    regions = [{"name": name, "values": [value], "paint": value} for name, value in parts]
    with pytest.raises(InputError, match=r"the labels here are \[background, whole, anterior, posterior\]"):
        run_configured(bundle, "inference", input=data["dataset_dir"], **PREDICT, regions=regions)
    renamed = ["background", "front", "back"]
    run_configured(bundle, "finetune", **data, **TRAIN, pretrained=str(first), labels=renamed, learning_rate=1e-9)
    (line,) = [record.getMessage() for record in caplog.records if "tensors loaded" in record.getMessage()]
    assert "newly initialised: heads.0.weight" in line
    assert "posterior], but the labels here are [background, front, back]" in line
    about = read_about(bundle / "models" / "finetune" / "fold_0" / "model.pt")
    assert about["labels"] == renamed
    assert about["pretrained"]["labels"] == read_about(first)["labels"]


@pytest.mark.parametrize("given", [{}, {"pretrained": None}])
def test_without_weights_it_does_not_start(given, bundle, data):
    with pytest.raises(InputError, match="pretrained None: should be the file of weights to start from"):
        run_configured(bundle, "finetune", **data, **TRAIN, **given)
    assert not (bundle / "models").exists()


def test_weights_that_are_not_there_end_it_before_cases_are_prepared(bundle, data, tmp_path):
    with pytest.raises(InputError, match=r"none\.pt: there is no such checkpoint file"):
        run_configured(bundle, "finetune", **data, **TRAIN, pretrained=str(tmp_path / "none.pt"))
    assert not (bundle / "output").exists()


def test_a_fine_tuning_that_is_started_again_does_not_load_the_weights_again(first, bundle, data, tmp_path):
    start = first.rename(tmp_path / "first.pt")
    run_configured(bundle, "finetune", **data, **TRAIN, pretrained=str(start))
    folder = bundle / "models" / "finetune" / "fold_0"
    before = torch.load(folder / "checkpoint_latest.pt", weights_only=True)["model"]
    start.write_bytes(b"")
    more = {**TRAIN, "epochs": 2, "learning_rate": 1e-12}
    run_configured(bundle, "finetune", **data, **more, pretrained=str(start))
    after = torch.load(folder / "checkpoint_latest.pt", weights_only=True)
    assert after["epoch"] == 2
    assert all(torch.allclose(tensor, before[name], atol=1e-5) for name, tensor in after["model"].items())
    assert read_about(folder / "checkpoint_latest.pt")["pretrained"]["file"] == "first.pt"


def test_cases_of_the_pretraining_are_not_scored(first, bundle, data, tmp_path, caplog):
    """The weights come from fold 0, and are fine-tuned in fold 1, whose validation cases they have seen."""
    run_configured(bundle, "finetune", **data, **TRAIN, pretrained=str(first), fold=1)
    assert "validation cases of this fold" in caplog.text or "validation case of this fold" in caplog.text
    file = bundle / "models" / "finetune" / "fold_1" / "model.pt"
    assert len(trained_cases([file])) > len(read_about(file)["training"])
    with pytest.raises(InputError, match=r"finetune/fold_1/model\.pt: trained on 1 of the 1 case to be scored"):
        run_configured(bundle, "evaluate", **data, **PREDICT, experiment="finetune", fold=1)


def test_overlays_of_training_are_joined(bundle):
    def names(*args):
        return [Path(file).name for file in workflow_files(bundle, *args)]

    both = ["train.yaml", "finetune.yaml", "multi_gpu_train.yaml"]
    assert names("finetune+multi_gpu_train") == names("multi_gpu_train+finetune") == both
    assert names("finetune+multi_gpu_train", "unetr") == [*both[:2], "unetr.yaml", both[2]]
    with pytest.raises(InputError, match=r"has no workflow 'finetune\+evaluate'"):
        names("finetune+evaluate")


def test_settings_that_do_not_exist_are_refused(bundle):
    with pytest.raises(InputError, match="--contxt: there is no such setting; did you mean --context"):
        configure(bundle, "finetune", {"contxt": 1.5})


@pytest.mark.slow
def test_two_processes_fine_tune_together(first, bundle, data, tmp_path):
    settings = {**TRAIN, **data, "pretrained": first, "output_dir": tmp_path / "out"}
    result = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "mednextv2", "run", bundle,
        "finetune+multi_gpu_train", *as_arguments(settings), cwd=tmp_path, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("tensors loaded") == 1
    assert read_about(tmp_path / "out" / "model.pt")["pretrained"]["file"] == "model.pt"
    json.dumps(read_about(tmp_path / "out" / "model.pt"))
