"""The bundle run as a user runs it: MONAI's command line, from another directory, on a small phantom."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import HIPPOCAMPUS, QUICK, as_arguments, read_csv, run_monai, run_python
from forked_processes import run_module

from mednextv2.data import kfold_indices, read_dataset
from mednextv2.nets import create_mednext

WINDOW = {"patch_size": QUICK["patch_size"], "overlap": 0.0, "num_workers": 0}


def test_training_leaves_weights_checkpoint_table_and_curves(trained):
    weights = torch.load(trained / "model.pt", weights_only=True)
    create_mednext("v2_tiny", out_channels=3, deep_supervision=True).load_state_dict(weights)  # bare and complete
    assert torch.load(trained / "checkpoint_latest.pt", weights_only=True)["epoch"] == 1
    (row,) = read_csv(trained / "training_log.csv")
    columns = {"epoch", "train_loss", "learning_rate", "val_mean_dice", "val_dice_anterior", "val_dice_posterior"}
    assert columns <= set(row)
    assert list(trained.glob("events.out.tfevents*"))
    assert not list(trained.glob(".*"))  # nothing half-written


def test_evaluation_scores_the_unseen_cases_of_the_fold(trained, small_phantom, tmp_path):
    result = run_monai(
        "evaluate",
        {**WINDOW, "dataset_dir": small_phantom, "weights": trained / "model.pt", "output_dir": tmp_path},
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    names = [c.name for c in read_dataset(small_phantom).cases]
    unseen = {names[i] for i in kfold_indices(6, 0)[1]}
    rows = read_csv(tmp_path / "cases.csv")
    classes = ["anterior", "posterior"]
    assert [(r["case"], r["label"]) for r in rows] == [(case, name) for case in sorted(unseen) for name in classes]
    assert [r["label"] for r in read_csv(tmp_path / "summary.csv")] == [*classes, "mean"]
    for case in unseen:
        mask = nib.load(tmp_path / "predictions" / f"{case}_seg.nii.gz")
        assert mask.shape == nib.load(small_phantom / "labelsTr" / f"{case}.nii.gz").shape
        for c, name in enumerate(("anterior", "posterior"), 1):  # the table is about these very masks
            p = np.asarray(mask.dataobj) == c
            g = np.asarray(nib.load(small_phantom / "labelsTr" / f"{case}.nii.gz").dataobj) == c
            (row,) = [r for r in rows if r["case"] == case and r["label"] == name]
            assert float(row["dice"]) == pytest.approx(2 * (p & g).sum() / (p.sum() + g.sum()), abs=1e-5)


@pytest.mark.parametrize(
    "kind", ["folder", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("file", "datalist"))]
)
def test_inference_takes_a_file_a_folder_or_a_datalist(kind, trained, tmp_path):
    """The images are oblique, flipped and anisotropic; masks must come out in their geometry."""
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    affine = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([-1.5, 0.8, 1.2]), [20, -30, 11]
    )
    for name in ("a", "b"):
        image = nib.Nifti1Image(rng.normal(size=(23, 31, 19)).astype(np.float32), affine)
        image.set_sform(affine, 4)
        image.set_qform(affine, 2)
        nib.save(image, images / f"{name}.nii.gz")
    listed = {"testing": [{"image": "images/a.nii.gz"}, {"image": "images/b.nii.gz"}]}
    (tmp_path / "list.json").write_text(json.dumps(listed))
    source = {"file": images / "a.nii.gz", "folder": images, "datalist": tmp_path / "list.json"}[kind]
    settings = {**WINDOW, "input": source, "weights": trained / "model.pt", "output_dir": tmp_path / "masks"}
    result = run_monai("inference", settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    names = ["a"] if kind == "file" else ["a", "b"]
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == [f"{n}_seg.nii.gz" for n in names]
    for name in names:
        mask, image = nib.load(tmp_path / "masks" / f"{name}_seg.nii.gz"), nib.load(images / f"{name}.nii.gz")
        assert mask.shape == image.shape
        assert mask.get_data_dtype() == np.uint8
        assert set(np.unique(mask.dataobj)) <= {0, 1, 2}
        np.testing.assert_array_equal(mask.affine, image.affine)
        for field in ("qform_code", "sform_code", "pixdim", "xyzt_units", "quatern_b"):
            np.testing.assert_array_equal(mask.header[field], image.header[field])


def test_two_processes_train_together(small_phantom, tmp_path):
    files = [str(HIPPOCAMPUS / "configs" / f"{name}.yaml") for name in ("train", "multi_gpu_train")]
    settings = {**QUICK, "dataset_dir": small_phantom, "output_dir": tmp_path / "out"}
    result = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run",
        "--config_file", str(files), "--bundle_root", HIPPOCAMPUS, *as_arguments(settings),
        cwd=tmp_path, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    weights = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    create_mednext("v2_tiny", out_channels=3, deep_supervision=True).load_state_dict(weights)  # no `module.` in names
    (row,) = read_csv(tmp_path / "out" / "training_log.csv")  # one process writes
    assert float(row["val_mean_dice"]) >= 0


def test_mednextv2_run_works_from_another_directory_with_overrides(small_phantom, tmp_path):
    settings = {**QUICK, "epochs": 2, "iterations_per_epoch": 1, "patch_size": [16, 16, 16], "variant": "v1_s"}
    result = run_module(
        "mednextv2", "run", "mednextv2_hippocampus", "train",
        *as_arguments({**settings, "dataset_dir": small_phantom, "output_dir": "here"}), cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert torch.load(tmp_path / "here" / "checkpoint_latest.pt", weights_only=True)["epoch"] == 2
    state = torch.load(tmp_path / "here" / "model.pt", weights_only=True)
    assert not any(".grn." in name for name in state)  # v1
    assert state["stem.weight"].shape[0] == 32
    assert [row["epoch"] for row in read_csv(tmp_path / "here" / "training_log.csv")] == ["1", "2"]


def test_a_finished_training_started_again_changes_nothing(trained, small_phantom):
    before = {name: (trained / name).read_bytes() for name in ("model.pt", "checkpoint_latest.pt", "training_log.csv")}
    result = run_monai("train", {**QUICK, "dataset_dir": small_phantom, "output_dir": trained})
    assert result.returncode == 0, result.stderr[-3000:]
    assert before == {name: (trained / name).read_bytes() for name in before}


def test_bundle_runs_with_plain_commands_in_its_own_folder(small_phantom, tmp_path):
    result = run_python(
        "-m", "monai.bundle", "run", "--config_file", "configs/train.yaml",
        *as_arguments({**QUICK, "dataset_dir": small_phantom, "output_dir": tmp_path, "iterations_per_epoch": 1}),
        cwd=HIPPOCAMPUS,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "model.pt").is_file()
