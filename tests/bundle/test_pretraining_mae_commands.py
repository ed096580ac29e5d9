"""Masked autoencoding from the command line, and what its bundle cannot do."""

import shutil

import pytest
from bundle_helpers import as_arguments, read_csv, run_monai, run_python
from pretraining_runs import MAE, QUICK
from verb_helpers import call_verb

from mednextv2.nets import create_mednext
from mednextv2.weights import load_weights, read_about

PRETRAIN = "mednextv2_pretrain_mae"


@pytest.mark.parametrize(
    "words",
    [
        ("predict", PRETRAIN, "image.nii.gz", "masks"),
        ("run", PRETRAIN, "inference", "--input", "image.nii.gz"),
        ("run", PRETRAIN, "finetune", "--pretrained", "model.pt"),
        ("export", PRETRAIN, "--format", "onnx", "--output", "model.onnx"),
        ("promote", PRETRAIN),
        ("phantom", "data", "--bundle", PRETRAIN),
    ],
)
def test_what_needs_a_segmentation_says_so(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call_verb(*words)
    assert code != 0
    assert "images without labels, and has no workflow" in err or "has no labels" in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_several_folders_and_a_report_from_the_command_line(small_phantom, tmp_path):
    for name, number in (("first", 0), ("second", 3)):
        (tmp_path / name).mkdir()
        for i in range(number, number + 3):
            shutil.copy(small_phantom / "imagesTr" / f"phantom_00{i}.nii.gz", tmp_path / name)
    code, _, err = call_verb(
        "run", PRETRAIN, "train", "--dataset_dir", f"[{tmp_path / 'first'},{tmp_path / 'second'}]", "--variant",
        "v2_tiny", "--patch_size", "[16,16,16]", "--block_size", "8", "--mask_ratio", "[0.6,0.9]", "--epochs", "1",
        "--iterations_per_epoch", "1", "--val_iterations", "1", "--num_workers", "0", "--output_dir", tmp_path / "out",
        "--prepared_dir", tmp_path / "prepared", "--spacing", "null",
    )  # fmt: skip
    assert code == 0, err
    about = read_about(tmp_path / "out" / "model.pt")
    assert about["dataset"] == "first, second"
    assert about["settings"]["mask_ratio"] == [0.6, 0.9]


@pytest.mark.parametrize("workflow", ["train", "evaluate", "multi_gpu_train"])
def test_the_help_shows_the_settings(workflow):
    code, out, _ = call_verb("run", PRETRAIN, workflow, "--help")
    assert code == 0
    for name in ("dataset_dir", "form", "block_size", "mask_ratio", "spacing", "variant"):
        assert f"--{name} " in out
    for name in ("voxels", "sources", "packed", "autoencoder", "split", "flat_axis"):
        assert f"--{name} " not in out


@pytest.mark.slow
def test_monais_command_line_trains_in_two_processes_and_evaluates(small_phantom, tmp_path):
    files = [str(MAE / "configs" / f"{name}.yaml") for name in ("train", "multi_gpu_train")]
    quick = {
        **QUICK["train"],
        "dataset_dir": small_phantom,
        "output_dir": tmp_path / "out",
        "prepared_dir": tmp_path / "p",
    }
    trained = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run",
        "--config_file", str(files), "--bundle_root", MAE, *as_arguments(quick), cwd=tmp_path, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr[-3000:]
    load_weights(create_mednext("v2_tiny", out_channels=1), tmp_path / "out" / "model.pt")
    settings = {
        "dataset_dir": small_phantom,
        "weights": tmp_path / "out" / "model.pt",
        "output_dir": tmp_path / "evaluation",
    }
    network = {name: QUICK["train"][name] for name in ("variant", "patch_size", "block_size")}
    evaluated = run_monai("evaluate", {**settings, **network}, MAE, cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    assert len(read_csv(tmp_path / "evaluation" / "cases.csv")) == 3
