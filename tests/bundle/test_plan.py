"""What a plan decides, and the way from a data set to a bundle that trains, evaluates and segments."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from bundle_helpers import as_arguments, read_csv
from dataset_helpers import TUMOUR, make_folders, make_nnunet, run_verbs
from verb_helpers import call_verb

from mednextv2.bundle.plan import plan_dataset
from mednextv2.bundle.task import WORKFLOW_FACTS, read_task
from mednextv2.data import make_phantom_dataset, read_dataset
from mednextv2.nets.training_memory import training_memory

SMALL = {"patch_size": "[32,32,16]", "variant": "v2_tiny"}
TRAIN = {"epochs": 1, "iterations_per_epoch": 2, "val_iterations": 1, "num_workers": 0, "batch_size": 2}
WINDOW = {"overlap": 0.0, "test_mirror_axes": "[]", "num_workers": 0}


# ------------------------------------------------------------------------------- from the data set to masks


def plan_bundle_run(folder, bundle, image):
    """Go all the way as a user does; return the folder of training, evaluation and masks."""
    output = bundle.parent / f"{bundle.name}_output"
    data = {"dataset_dir": folder}
    prepared = {"prepared_dir": output / "prepared"}
    weights = {"weights": output / "train" / "model.pt"}
    commands = [
        ["plan", folder, "--output", bundle, *as_arguments(SMALL)],
        ["bundle", bundle / "task.yaml"],
        ["bundle", bundle / "task.yaml", "--check"],
        ["run", bundle, "train", *as_arguments({**TRAIN, **data, **prepared, "output_dir": output / "train"})],
        ["run", bundle, "evaluate", *as_arguments({**WINDOW, **data, **weights, "output_dir": output / "scores"})],
        ["run", bundle, "inference", *as_arguments(
            {**WINDOW, **weights, "test_mirror_axes": "[0,2]", "input": image, "output_dir": output / "masks"})],
    ]  # fmt: skip
    result = run_verbs(commands, cwd=bundle.parent)
    assert result.returncode == 0, result.stderr[-3000:]
    return output


def assert_bundle_works(output, folder, bundle, structures, painted, channels=1, outputs=None):
    state = torch.load(output / "train" / "model.pt", weights_only=True)
    assert state["stem.weight"].shape[1] == channels
    assert state["heads.0.weight"].shape[0] == (outputs or len(structures))
    assert all(torch.isfinite(v).all() for v in state.values())
    (log,) = read_csv(output / "train" / "training_log.csv")
    assert {f"val_dice_{name}" for name in structures} <= set(log)
    dataset = read_dataset(folder)
    rows = read_csv(output / "scores" / "cases.csv")
    scored = sorted({row["case"] for row in rows})
    assert len(scored) == 2  # a fifth of six cases, rounded up
    assert [(row["case"], row["label"]) for row in rows] == [(case, name) for case in scored for name in structures]
    truth = {case.name: case.label for case in dataset.cases}
    for case in scored:
        assert_mask(output / "scores" / "predictions" / f"{case}_seg.nii.gz", truth[case], painted)
    (mask,) = (output / "masks").iterdir()
    assert_mask(mask, truth[mask.name.removesuffix("_seg.nii.gz")], painted)
    config = yaml.safe_load((bundle / "configs" / "train.yaml").read_text())
    assert {key: config[key] for key in WORKFLOW_FACTS} == read_task(bundle / "task.yaml").workflow


def assert_mask(path, reference, painted):
    mask, reference = nib.load(path), nib.load(reference)
    assert mask.shape == reference.shape
    np.testing.assert_array_equal(mask.affine, reference.affine)
    assert mask.get_data_dtype() == np.uint8
    assert set(np.unique(mask.dataobj)) <= {0, *painted}


def test_an_nnunet_data_set_of_ct_and_pet_with_regions_becomes_a_bundle_that_works(tmp_path):
    """The regions are painted in an order and with values that no default would give."""
    labels = {"background": 0, "tumour": [1, 2, 3], "core": [2, 3], "rim": 1}
    folder = make_nnunet(tmp_path / "Dataset007_Tumour", labels, [3, 2, 1])
    image = tmp_path / "new"
    image.mkdir()
    for c in range(2):
        shutil.copy(folder / "imagesTr" / f"case1_{c:04d}.nii.gz", image)
    bundle = tmp_path / "mednextv2_tumour"
    output = plan_bundle_run(folder, bundle, image)
    assert_bundle_works(output, folder, bundle, ["tumour", "core", "rim"], {1, 2, 3}, channels=2)
    facts = read_task(bundle / "task.yaml").workflow
    assert facts["channels"] == ["CT", "PET"]
    assert facts["labels"] == ["background", "rim", "label 2", "label 3"]
    assert facts["regions"] == [
        {"name": "tumour", "values": [1, 2, 3], "paint": 3},
        {"name": "core", "values": [2, 3], "paint": 2},
        {"name": "rim", "values": [1], "paint": 1},
    ]
    assert facts["spacing"] == pytest.approx([0.8, 0.8, 3.5], abs=1e-5)  # anisotropic: the 10th percentile
    assert [entry["scheme"] for entry in facts["normalization"]] == ["ct", "zscore"]
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 3


def test_an_msd_data_set_becomes_a_bundle_that_works(tmp_path):
    folder = make_phantom_dataset(tmp_path / "Task99_Phantom", cases=6)
    bundle = tmp_path / "mednextv2_phantom"
    output = plan_bundle_run(folder, bundle, folder / "imagesTr" / "phantom_000.nii.gz")
    assert_bundle_works(output, folder, bundle, ["anterior", "posterior"], {1, 2}, outputs=3)
    assert read_task(bundle / "task.yaml").workflow["regions"] == []


def test_two_folders_become_a_bundle_that_works(tmp_path):
    folder = make_folders(tmp_path / "scans")
    bundle = tmp_path / "mednextv2_scans"
    output = plan_bundle_run(folder, bundle, folder / "images" / "scan0.nii.gz")
    assert_bundle_works(output, folder, bundle, ["label 1", "label 2"], {1, 2}, outputs=3)


@pytest.mark.slow
def test_an_ignore_label_becomes_a_bundle_that_works(tmp_path):
    labels = {"background": 0, "organ": 1, "ignore": 2}
    folder = make_nnunet(tmp_path / "Dataset008_Sparse", labels, None, ("T1", "T2"))
    image = [{"image": [str(folder / "imagesTr" / f"case0_{c:04d}.nii.gz") for c in range(2)]}]
    (tmp_path / "list.json").write_text(json.dumps(image))
    bundle = tmp_path / "mednextv2_sparse"
    output = plan_bundle_run(folder, bundle, tmp_path / "list.json")
    assert_bundle_works(output, folder, bundle, ["organ"], {1}, channels=2, outputs=2)
    assert read_task(bundle / "task.yaml").workflow["ignore_label"] == 2
    for row in read_csv(output / "scores" / "cases.csv"):  # the ignored slices do not count
        prediction = nib.load(output / "scores" / "predictions" / f"{row['case']}_seg.nii.gz").get_fdata()
        truth = nib.load(folder / "labelsTr" / f"{row['case']}.nii.gz").get_fdata()
        p, g = prediction[truth != 2] == 1, truth[truth != 2] == 1
        assert (truth == 2).any()
        assert float(row["dice"]) == pytest.approx(2 * (p & g).sum() / (p.sum() + g.sum()), abs=1e-5)


# ------------------------------------------------------------------------------------------------ what is decided


def test_the_estimate_counts_channels_and_outputs(tumour):
    plan = plan_dataset(tumour, patch_size=(160, 160, 160), batch_size=10, variant="v2_tiny")
    needed = training_memory("v2_tiny", (160, 160, 160), 10, in_channels=2, outputs=3)
    assert plan.decisions["memory"].value == f"{needed / 2**30:.1f} GiB"


@pytest.mark.parametrize(
    ("labels", "order", "axes"),
    [
        ({"background": 0, "left lung": [1, 3], "right lung": [2], "nodule": 3}, [1, 2, 3], [1, 2]),
        ({"background": 0, "anterior": 1, "posterior": 2}, None, [0, 2]),
        ({"background": 0, "upper left": 1, "lower left": 2, "upper right": 3, "lower right": 4}, None, [1]),
        ({"background": 0, "liver": 1, "spleen": 2}, None, [0, 1, 2]),
    ],
)
def test_structures_that_are_named_after_their_side_are_not_mirrored(tmp_path, labels, order, axes):
    folder = make_nnunet(tmp_path / "data", labels, order)
    assert plan_dataset(folder, variant="v2_tiny").decisions["mirror_axes"].value == axes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patch_size": (256, 256, 256), "memory": 4.0}, ("more than --memory 4", "more than 7,077,888 voxels")),
        ({"patch_size": (96, 48, 48)}, ("larger than the median image, 41 × 38 × 14, along 2 axes",)),
        ({"spacing": (0.02, 0.02, 0.02)}, ("voxels at that spacing",)),
    ],
)
def test_given_values_that_are_too_much_are_warned_of(tumour, settings, words):
    plan = plan_dataset(tumour, variant="v2_tiny", **settings)
    assert all(any(word in warning for warning in plan.warnings) for word in words), plan.warnings


# ------------------------------------------------------------------------------------ what check says beforehand


def test_check_names_channels_labels_and_regions(tumour):
    code, out, _ = call_verb("check", tumour)
    assert code == 0
    assert "6 cases, no defects" in out
    assert "channels: CT, PET; labels: background, label 1, label 2, enhancing" in out
    assert "region core: label 2, enhancing" in out
    assert list(TUMOUR)[1:] == [line.split()[1].rstrip(":") for line in out.splitlines() if line.startswith("region")]


def test_check_of_two_folders_names_the_labels_after_their_values(tmp_path):
    folder = make_folders(tmp_path / "scans", (1, 2))
    code, out, _ = call_verb("check", folder / "images", "--labels_dir", folder / "labels")
    assert code == 0
    assert "channels: 1; labels: background, label 1, label 2" in out
