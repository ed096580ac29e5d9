"""Each bundle of a published data set trains, evaluates and segments generated data with its own labels and channels."""

import nibabel as nib
import numpy as np
import pytest
import torch
from benchmark_helpers import NAMES, files_of_case, make_data, run_workflow, task_of
from bundle_helpers import read_csv


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_trains_evaluates_and_segments(name, tmp_path):
    task = task_of(name)
    scheme, channels = task.scheme(), len(task.workflow["channels"])
    data = make_data(name, tmp_path / "data")

    run_workflow(name, "train", dataset_dir=data, output_dir=tmp_path / "trained", prepared_dir=tmp_path / "prepared")
    weights = tmp_path / "trained" / "model.pt"
    state = torch.load(weights, weights_only=True)
    assert state["stem.weight"].shape[1] == channels
    assert state["heads.0.weight"].shape[0] == scheme.outputs
    assert all(torch.isfinite(value).all() for value in state.values())
    (log,) = read_csv(tmp_path / "trained" / "training_log.csv")
    assert np.isfinite(float(log["train_loss"]))
    assert {f"val_dice_{structure}" for structure in scheme.foreground} <= set(log)

    run_workflow(name, "evaluate", dataset_dir=data, weights=weights, output_dir=tmp_path / "scores")
    rows = read_csv(tmp_path / "scores" / "cases.csv")
    (case,) = {row["case"] for row in rows}  # one of five
    assert [row["label"] for row in rows] == scheme.foreground
    assert_mask(tmp_path / "scores" / "predictions" / f"{case}_seg.nii.gz", data / "labelsTr" / f"{case}.nii.gz", scheme)

    image = files_of_case(data, case, tmp_path / "image")
    run_workflow(name, "inference", input=image, weights=weights, output_dir=tmp_path / "masks")
    (mask,) = (tmp_path / "masks").iterdir()
    predicted = assert_mask(mask, data / "labelsTr" / f"{case}.nii.gz", scheme)
    scored = nib.load(tmp_path / "scores" / "predictions" / f"{case}_seg.nii.gz")
    np.testing.assert_array_equal(predicted, np.asarray(scored.dataobj))  # with the same settings


def assert_mask(path, reference, scheme):
    """Check that a mask has the geometry of its image and only values that the task has; return its voxels."""
    mask, reference = nib.load(path), nib.load(reference)
    assert mask.shape == reference.shape
    np.testing.assert_allclose(mask.affine, reference.affine)
    voxels = np.asarray(mask.dataobj)
    values = {region.paint for region in scheme.regions} or {*range(len(scheme.labels))}
    assert {*np.unique(voxels).tolist()} <= {0, *values}
    return voxels
