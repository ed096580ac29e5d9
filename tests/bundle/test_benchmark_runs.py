"""Each bundle trains, is fine-tuned, evaluates and segments on generated data with its own labels and channels."""

import re
import shlex

import nibabel as nib
import numpy as np
import pytest
import torch
from benchmark_helpers import ALL, PRETRAIN_MAE, files_of_case, make_data, run_workflow, task_of
from bundle_helpers import ROOT, read_csv
from dataset_helpers import run_verbs


@pytest.mark.parametrize("name", [name for name in ALL if name != PRETRAIN_MAE])  # for which: test_pretraining_mae.py
def test_a_bundle_trains_is_fine_tuned_evaluates_and_segments(name, tmp_path):
    task = task_of(name)
    scheme, channels = task.scheme(), len(task.workflow["channels"])
    data = make_data(name, tmp_path / "data")

    given = {"dataset_dir": data, "prepared_dir": tmp_path / "prepared"}
    run_workflow(name, "train", output_dir=tmp_path / "trained", **given)
    first = assert_training(tmp_path / "trained", scheme, channels)
    start = tmp_path / "trained" / "model.pt"
    run_workflow(
        name, "finetune", output_dir=tmp_path / "tuned", pretrained=start, warmup_epochs=0, learning_rate=1e-6, **given
    )
    tuned = assert_training(tmp_path / "tuned", scheme, channels)
    steps = [(tuned[key] - first[key]).abs().max().item() for key in first]
    assert 0 < max(steps) < 1e-5  # one step of AdamW is about as large as the learning rate
    weights = tmp_path / "tuned" / "model.pt"

    run_workflow(name, "evaluate", dataset_dir=data, weights=weights, output_dir=tmp_path / "scores")
    rows = read_csv(tmp_path / "scores" / "cases.csv")
    (case,) = {row["case"] for row in rows}  # one of five
    assert [row["label"] for row in rows] == scheme.foreground
    reference = data / "labelsTr" / f"{case}.nii.gz"
    scored = assert_mask(tmp_path / "scores" / "predictions" / f"{case}_seg.nii.gz", reference, scheme)

    image = files_of_case(data, case, tmp_path / "image")
    run_workflow(name, "inference", input=image, weights=weights, output_dir=tmp_path / "masks")
    (mask,) = (tmp_path / "masks").iterdir()
    np.testing.assert_array_equal(assert_mask(mask, reference, scheme), scored)  # with the same settings


def test_the_page_about_bundles_shows_commands_that_work(tmp_path):
    page = (ROOT / "docs" / "bundles.md").read_text(encoding="utf-8")
    block = re.search(r"## Without data.*?```bash\n(.*?)```", page, re.DOTALL)[1].replace("\\\n", " ")
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    assert [command[0] for command in commands] == ["phantom", "run", "predict"]
    commands[1] += ["--prepared_dir", str(tmp_path / "prepared")]  # not in the bundle of this checkout
    commands[2] += ["--test_mirror_axes", "[]", "--overlap", "0"]  # faster
    result = run_verbs(commands, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    masks = sorted((tmp_path / "masks").glob("*_seg.nii.gz"))
    assert [mask.name for mask in masks] == [f"phantom_{n:03d}_seg.nii.gz" for n in range(3)]
    scheme = task_of("mednextv2_kits19").scheme()
    for mask in masks:
        assert_mask(mask, tmp_path / "try_kits19" / "labelsTr" / mask.name.replace("_seg", ""), scheme)


def assert_training(output, scheme, channels):
    """Check that a training left weights of the task's network and a log of its structures; return the weights."""
    state = torch.load(output / "model.pt", weights_only=True)
    assert state["stem.weight"].shape[1] == channels
    assert state["heads.0.weight"].shape[0] == scheme.outputs
    assert all(torch.isfinite(value).all() for value in state.values())
    (log,) = read_csv(output / "training_log.csv")
    assert np.isfinite(float(log["train_loss"]))
    assert {f"val_dice_{structure}" for structure in scheme.foreground} <= set(log)
    return state


def assert_mask(path, reference, scheme):
    """Check that a mask has the geometry of its image and only values that the task has; return its voxels."""
    mask, reference = nib.load(path), nib.load(reference)
    assert mask.shape == reference.shape
    np.testing.assert_allclose(mask.affine, reference.affine)
    voxels = np.asarray(mask.dataobj)
    values = {region.paint for region in scheme.regions} or {*range(len(scheme.labels))}
    assert {*np.unique(voxels).tolist()} <= {0, *values}
    return voxels
