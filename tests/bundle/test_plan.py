"""`mednextv2 plan` and the way from a data set to a bundle that trains, evaluates and segments."""

import csv
import io
import json
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from bundle_helpers import as_arguments
from dataset_helpers import TUMOUR, make_folders, make_nnunet, run_verbs, save

from mednextv2.__main__ import main
from mednextv2.bundle.plan import plan_dataset
from mednextv2.bundle.plan_to_task import default_folder, write_task
from mednextv2.bundle.task import WORKFLOW_FACTS, read_task
from mednextv2.data import make_phantom_dataset, read_dataset
from mednextv2.data.fingerprint import Fingerprint
from mednextv2.errors import InputError
from mednextv2.nets.training_memory import training_memory

SMALL = {"patch_size": "[32,32,16]", "variant": "v2_tiny"}
TRAIN = {"epochs": 1, "iterations_per_epoch": 2, "val_iterations": 1, "num_workers": 0, "batch_size": 2}
WINDOW = {"overlap": 0.0, "test_mirror_axes": "[]", "num_workers": 0}


@pytest.fixture(scope="module")
def tumour(tmp_path_factory):
    """An nnU-Net data set of CT and PET in thick slices, with regions. Read only."""
    return make_nnunet(tmp_path_factory.mktemp("tumour") / "Dataset007_Tumour")


def call(*arguments):
    """Run a verb in this process: its exit code, what it printed and its error."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    arguments = ["mednextv2", *map(str, arguments)]
    with mock.patch.object(sys, "argv", arguments), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as e:
            code = e.code
    return code, out.getvalue(), err.getvalue()


def refusal(*arguments):
    code, _, err = call(*arguments)
    assert code == 1, err
    assert "Traceback" not in err
    return err[err.rindex("error: ") :]


def planned(folder, output, *arguments):
    """Plan, and return the printed table and the facts of the task."""
    code, out, err = call("plan", folder, "--output", output, *arguments)
    assert code == 0, err[-3000:]
    return out, read_task(output / "task.yaml").workflow


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def row_of(table, name):
    """The lines of the table that belong to a name, as one text."""
    lines = table.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{name} "))
    stop = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), len(lines))
    return " ".join(" ".join(lines[start:stop]).split())


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


# ------------------------------------------------------------------------------------------------ the table


def test_every_decision_is_printed_with_its_reason_and_written_as_printed(tumour, tmp_path):
    table, facts = planned(tumour, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    expected = {
        "cases": f"6 {tumour}",
        "median spacing": "0.8 × 0.8 × 4 of the files",
        "spacing": "0.8 × 0.8 × 3.5 median spacing of the cases; anisotropic: 10th percentile",
        "median shape": "41 × 38 × 14 of the cases",  # 12 slices × 4 / 3.5 = 13.7
        "normalization": "channel CT: percentiles 0.5 and 99.5 of the foreground",
        "variant": "v2_tiny 16 filters",
        "patch_size": "48 × 48 × 16 the whole median image, rounded up to multiples of 16",
        "batch_size": "2 the smallest batch",
        "memory": "estimate for a training step",
        "batch_dice": "False a patch covers 100 % of the median image",
        "mirror_axes": "[0, 1, 2] all axes",
    }
    for name, words in expected.items():
        found = row_of(table, name)
        assert all(word in found for word in words.split()), (found, words)
    text = (tmp_path / "mednextv2_x" / "task.yaml").read_text()
    for reason in ("10th percentile", "the whole median image", "the smallest batch", "a patch covers 100 %"):
        assert reason in text
    assert facts["patch_size"] == [48, 48, 16]
    assert facts["batch_size"] == 2
    assert facts["spacing"] == pytest.approx([0.8, 0.8, 3.5], abs=1e-5)
    assert facts["dataset_name"] == "Dataset007_Tumour"
    needed = training_memory("v2_tiny", (48, 48, 16), 2, 2, 3) / 2**30
    assert f"{needed:.1f} GiB" in row_of(table, "memory")
    assert "warning" not in table


def test_ct_is_normalised_by_the_foreground_of_all_cases(tumour, tmp_path):
    _, facts = planned(tumour, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    foreground = []
    for case in read_dataset(tumour).cases:
        image, label = (np.asarray(nib.load(file).dataobj) for file in (case.images[0], case.label))
        foreground.append(image[label > 0].astype(float))
    ct = facts["normalization"][0]
    assert ct["mean"] == pytest.approx(np.mean([f.mean() for f in foreground]), rel=1e-6)
    assert np.concatenate(foreground).min() < ct["lower"] < ct["mean"] < ct["upper"] < np.concatenate(foreground).max()


def test_the_fingerprint_beside_the_task_is_that_of_the_plan(tumour, tmp_path):
    plan = plan_dataset(tumour, variant="v2_tiny")
    task = write_task(plan, tmp_path / "mednextv2_x")
    content = json.loads((task.parent / "fingerprint.json").read_text())
    assert Fingerprint.from_dict(content) == plan.fingerprint
    assert content["cases"] == 6
    assert content["spacings"][2] == pytest.approx([0.8, 0.8, 3.0])
    assert sorted(content["voxels"]) == ["0", "1", "2", "3"]


def test_what_is_said_of_the_data_set_is_what_people_read(tumour, tmp_path):
    about = {
        "name": "Lesions: a #1 set",
        "description": "Found\non CT",
        "reference": "https://x.org/a",
        "licence": "CC",
    }
    folder = make_nnunet(tmp_path / "data", cases=2, **about)
    task = write_task(plan_dataset(folder, variant="v2_tiny"), tmp_path / "mednextv2_x")
    public = read_task(task).public
    assert public["title"] == "Lesions: a #1 set with MedNeXt-v2"
    assert public["description"].split() == ["Found", "on", "CT"]
    assert (public["data_source"], public["data_license"]) == ("https://x.org/a", "CC")
    assert public["task"] == "Segmentation of whole, core, enhancing"
    other = read_task(write_task(plan_dataset(tumour, variant="v2_tiny"), tmp_path / "mednextv2_y")).public
    assert (other["data_source"], other["data_license"]) == ("not stated", "not stated")


@pytest.mark.parametrize(
    ("value", "spacing"),
    [("[0.9,1.0,2.0]", [0.9, 1.0, 2.0]), ("1.5", [1.5] * 3), ("2", [2.0] * 3), ("isotropic", [1.0] * 3)],
)
def test_a_given_spacing_replaces_the_rule(tumour, tmp_path, value, spacing):
    table, facts = planned(tumour, tmp_path / "mednextv2_x", "--spacing", value, "--variant", "v2_tiny")
    assert facts["spacing"] == spacing
    assert "given with --spacing" in row_of(table, "spacing")
    # cut to what the images hold at that spacing: 12 slices of 4 mm
    assert facts["patch_size"][2] == 16 * -(-round(12 * 4 / spacing[2]) // 16)


def test_given_patch_batch_and_variant_replace_the_rules(tumour, tmp_path):
    arguments = ("--patch_size", "[32,48,16]", "--batch_size", 3, "--variant", "v2_small")
    table, facts = planned(tumour, tmp_path / "mednextv2_x", *arguments)
    assert (facts["patch_size"], facts["batch_size"], facts["variant"]) == ([32, 48, 16], 3, "v2_small")
    assert "given with --patch_size" in row_of(table, "patch_size")
    assert "given with --batch_size" in row_of(table, "batch_size")
    assert "32 filters" in row_of(table, "variant")


def test_a_given_patch_alone_comes_with_the_smallest_batch(tumour, tmp_path):
    table, facts = planned(tumour, tmp_path / "mednextv2_x", *as_arguments(SMALL))
    assert facts["batch_size"] == 2
    assert "smallest batch" in row_of(table, "batch_size")


def test_the_estimate_counts_channels_and_outputs(tumour):
    plan = plan_dataset(tumour, patch_size=(160, 160, 160), batch_size=10, variant="v2_tiny")
    needed = training_memory("v2_tiny", (160, 160, 160), 10, in_channels=2, outputs=3)
    assert plan.decisions["memory"].value == f"{needed / 2**30:.1f} GiB"


def test_less_memory_makes_the_patch_smaller(tumour, tmp_path):
    table, facts = planned(tumour, tmp_path / "mednextv2_x", "--memory", 0.07, "--variant", "v2_tiny")
    patch = facts["patch_size"]
    assert np.prod(patch) < 48 * 48 * 16
    assert training_memory("v2_tiny", patch, 2, 2, 3) <= 0.07 * 2**30
    assert "limited by --memory 0.07 GiB" in row_of(table, "patch_size")


def test_memory_that_holds_no_patch_is_refused(tumour, tmp_path):
    message = refusal("plan", tumour, "--output", tmp_path / "mednextv2_x", "--memory", 0.5, "--variant", "v2_base")
    assert "--memory 0.5 GiB" in message
    assert "smaller --variant" in message
    assert not (tmp_path / "mednextv2_x").exists()


@pytest.mark.parametrize(
    ("patch", "spacing", "batch", "variant", "memory"),
    [
        ("[48,40,16]", "[1,1]", 0, "v3", 0),
        ("[48,48]", "[1,0,1]", 1.5, "base", "24GB"),
        ("96", "True", "many", 2, -1),
        ("big", "fine", "True", "[v2_base]", "[1]"),
        ("[True,16,16]", "[1,-1,1]", "-2", "None", "True"),
        ("[48,0,16]", "-1", "[2]", "{}", "nan"),
    ],
)
def test_impossible_settings_are_refused_all_at_once(tumour, tmp_path, patch, spacing, batch, variant, memory):
    given = {"patch_size": patch, "spacing": spacing, "batch_size": batch, "variant": variant, "memory": memory}
    message = refusal("plan", tumour, "--output", tmp_path / "mednextv2_x", *as_arguments(given))
    for name in given:
        assert f"--{name} " in message
    assert not (tmp_path / "mednextv2_x").exists()


def test_left_and_right_are_not_mirrored(tmp_path):
    labels = {"background": 0, "kidney_left": 1, "kidney_right": 2}
    folder = make_nnunet(tmp_path / "data", labels, None)
    table, facts = planned(folder, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    assert facts["mirror_axes"] == [1, 2]
    assert "not left and right" in row_of(table, "mirror_axes")
    assert "kidney_left and kidney_right" in row_of(table, "mirror_axes")


def test_mirroring_of_left_and_right_that_a_user_switches_on_is_warned_of(tmp_path):
    folder = make_nnunet(tmp_path / "data", {"background": 0, "kidney_left": 1, "kidney_right": 2}, None)
    planned(folder, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    task = tmp_path / "mednextv2_x" / "task.yaml"
    assert "warning" not in call("bundle", task)[1]
    task.write_text(task.read_text().replace("mirror_axes: [1, 2]", "mirror_axes: [0, 1, 2]"))
    for _ in range(2):  # also when nothing changes
        _, out, _ = call("bundle", task)
        assert "warning: mirror_axes [0, 1, 2]: axis 0 swaps left and right, and with them kidney_left and" in out
        assert "Without it: mirror_axes: [1, 2]" in out


def test_left_and_right_regions_are_not_mirrored(tmp_path):
    labels = {"background": 0, "left lung": [1, 3], "right lung": [2], "nodule": 3}
    folder = make_nnunet(tmp_path / "data", labels, [1, 2, 3])
    assert plan_dataset(folder, variant="v2_tiny").decisions["mirror_axes"].value == [1, 2]


def test_a_class_without_a_voxel_is_warned_of(tmp_path):
    folder = make_nnunet(tmp_path / "data", {"background": 0, "liver": 1, "cyst": 2}, None, values=[1])
    table, _ = planned(folder, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    assert "warning: no label map has a voxel of cyst" in table
    code, out, _ = call("check", folder)
    assert code == 0
    assert "warning: no label map has a voxel of cyst" in out


def test_a_single_case_is_planned_with_a_warning(tmp_path):
    folder = make_nnunet(tmp_path / "data", cases=1)
    table, _ = planned(folder, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    assert "warning: 1 case cannot be split into folds" in table
    assert "--fold all" in table


def test_the_next_commands_are_printed(tumour, tmp_path):
    out, _ = planned(tumour, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    assert f"mednextv2 bundle {tmp_path / 'mednextv2_x' / 'task.yaml'}" in out
    assert f"mednextv2 run {tmp_path / 'mednextv2_x'} train --dataset_dir {tumour} --fold 0" in out


def test_folders_of_other_names_are_given_one_by_one(tmp_path):
    folder = make_folders(tmp_path / "scans")
    images, labels = (folder / "images").rename(tmp_path / "scans" / "a"), tmp_path / "scans" / "labels"
    table, facts = planned(images, tmp_path / "mednextv2_x", "--labels_dir", labels, "--variant", "v2_tiny")
    assert f"--dataset_dir {images} --labels_dir {labels}" in table
    assert facts["labels"] == ["background", "label 1", "label 2"]
    assert facts["channels"] == ["image"]


# --------------------------------------------------------------------------------------------- what is refused


def test_a_task_that_exists_is_not_overwritten(tumour, tmp_path):
    output = tmp_path / "mednextv2_x"
    output.mkdir()
    (output / "task.yaml").write_text("mine")
    message = refusal("plan", tumour, "--output", output, "--variant", "v2_tiny")
    assert f"{output / 'task.yaml'}: exists already" in message
    assert {f.name: f.read_text() for f in output.iterdir()} == {"task.yaml": "mine"}


def test_a_task_that_exists_is_found_before_the_images_are_read(tumour, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundles" / "mednextv2_tumour").mkdir(parents=True)
    (tmp_path / "bundles" / "mednextv2_tumour" / "task.yaml").touch()
    with mock.patch("mednextv2.bundle.plan.check_dataset") as reading:
        assert "exists already" in refusal("plan", tumour)
    reading.assert_not_called()


def test_a_name_that_monai_would_cut_is_refused(tumour, tmp_path):
    message = refusal("plan", tumour, "--output", tmp_path / "mednext_v2", "--variant", "v2_tiny")
    assert "_v" in message
    assert "--output" in message
    assert not (tmp_path / "mednext_v2").exists()


@pytest.mark.parametrize(
    ("folder", "about", "name"),
    [
        ("Task09_Spleen", {}, "mednextv2_spleen"),
        ("Dataset123_Liver-Vessels", {}, "mednextv2_liver-vessels"),
        ("Dataset123_a", {"name": "Heart (MRI)"}, "mednextv2_heart_mri"),
        ("vessels", {}, "mednextv2_vessels"),
        ("leber größe", {}, "mednextv2_leber_gr_e"),
        ("-", {}, "mednextv2_task"),
    ],
)
def test_a_bundle_is_named_after_its_data_set(tmp_path, folder, about, name):
    folder = make_nnunet(tmp_path / folder, cases=1, **about)
    found = default_folder(read_dataset(folder))
    assert found.parts[0] == "bundles"
    assert found.name.replace("-", "_") == name.replace("-", "_")
    assert "_v" not in found.name


@pytest.mark.parametrize(("values", "gaps"), [((1, 3), "2"), ((2,), "1"), ((4, 9), "1, 2, 3, 5, 6, …")])
def test_folders_with_gaps_between_the_labels_are_refused(tmp_path, values, gaps):
    folder = make_folders(tmp_path / "scans", values)
    message = refusal("plan", folder, "--output", tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    assert f"the values {', '.join(map(str, (0, *values)))}, with gaps ({gaps})" in message
    assert "dataset.json" in message
    assert not (tmp_path / "mednextv2_x").exists()


def test_a_description_with_gaps_between_the_labels_is_refused(tmp_path):
    folder = make_nnunet(tmp_path / "data", {"background": 0, "liver": 1, "cyst": 3}, None)
    message = refusal("plan", folder, "--output", tmp_path / "mednextv2_x")
    assert f"{folder / 'dataset.json'}: the label values are 0, 1, 3" in message
    assert not (tmp_path / "mednextv2_x").exists()


@pytest.mark.parametrize("name", ["vertebra #1", "$max", "@organ", "%part"])
def test_names_that_monai_would_rewrite_are_refused(tmp_path, name):
    folder = make_nnunet(tmp_path / "data", {"background": 0, name: 1}, None, (name.replace("1", "2"), "T2"), cases=1)
    message = refusal("plan", folder, "--output", tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    assert f"{folder / 'dataset.json'}: rename " in message
    assert name in message
    assert name.replace("1", "2") in message
    assert not (tmp_path / "mednextv2_x").exists()
    moved = make_nnunet(tmp_path / f"x{name}", {"background": 0, "b": 1}, None, cases=1).rename(tmp_path / name)
    assert "the folder should have another name" in refusal("plan", moved, "--output", tmp_path / "mednextv2_x")


def test_folders_without_any_foreground_are_refused(tmp_path):
    folder = make_folders(tmp_path / "scans", ())
    assert "none of the 6 cases has a voxel above 0" in refusal("plan", folder, "--output", tmp_path / "mednextv2_x")


def test_all_defects_of_a_data_set_are_named_and_nothing_is_left_behind(tmp_path):
    folder = make_nnunet(tmp_path / "data")
    for number in (1, 4):
        file = folder / "imagesTr" / f"case{number}_0001.nii.gz"
        image = nib.load(file)
        array = image.get_fdata(dtype=np.float32)
        array[3, 3, 3] = np.nan
        save(file, array, image.affine)
    (folder / "labelsTr" / "case2.nii.gz").unlink()
    message = refusal("plan", folder, "--output", tmp_path / "deep" / "mednextv2_x")
    assert "3 defects" in message
    for words in ("case1_0001.nii.gz: has 1 NaN", "case4_0001.nii.gz: has 1 NaN", "case2.nii.gz: there is no such"):
        assert words in message
    assert not (tmp_path / "deep").exists()


def test_images_of_two_dimensions_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(5):
        save(tmp_path / "data" / "images" / f"x{n}.nii.gz", rng.normal(size=(32, 32)).astype(np.float32))
        save(tmp_path / "data" / "labels" / f"x{n}.nii.gz", rng.integers(0, 2, (32, 32)).astype(np.uint8))
    message = refusal("plan", tmp_path / "data", "--output", tmp_path / "mednextv2_x")
    assert "is 2D (32×32); expected 3D" in message
    assert not (tmp_path / "mednextv2_x").exists()


def test_a_plan_that_cannot_be_built_leaves_nothing_behind(tumour, tmp_path):
    plan = plan_dataset(tumour, variant="v2_tiny")
    plan.decisions["patch_size"] = plan.decisions["patch_size"].__class__((47, 48, 16), "planted")
    with pytest.raises(InputError, match="multiple of 16"):
        write_task(plan, tmp_path / "mednextv2_x")
    assert not (tmp_path / "mednextv2_x").exists()


# -------------------------------------------------------------------------------------------- check, and bundle


def test_check_names_channels_labels_and_regions(tumour):
    code, out, _ = call("check", tumour)
    assert code == 0
    assert "6 cases, no defects" in out
    assert "channels: CT, PET; labels: background, label 1, label 2, enhancing" in out
    assert "region core: label 2, enhancing" in out
    assert list(TUMOUR)[1:] == [line.split()[1].rstrip(":") for line in out.splitlines() if line.startswith("region")]


def test_check_of_two_folders_names_the_labels_after_their_values(tmp_path):
    folder = make_folders(tmp_path / "scans", (1, 2))
    code, out, _ = call("check", folder / "images", "--labels_dir", folder / "labels")
    assert code == 0
    assert "channels: 1; labels: background, label 1, label 2" in out


def test_bundle_says_what_it_wrote_and_what_is_out_of_date(tumour, tmp_path):
    planned(tumour, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    task = tmp_path / "mednextv2_x" / "task.yaml"
    message = refusal("bundle", task, "--check")
    assert "not up to date: configs/train.yaml" in message
    assert not (task.parent / "configs").exists()
    code, out, _ = call("bundle", task)
    assert code == 0
    assert "written: configs/train.yaml" in out
    assert call("bundle", task)[1].strip() == "all files are up to date"
    assert call("bundle", task, "--check")[0] == 0


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


def test_a_folder_that_cannot_be_written_is_refused_before_the_data_are_read(tumour, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("mednextv2.bundle.plan.plan_dataset", lambda *_: pytest.fail("the data were read"))
    for place in (tmp_path / "file", tmp_path / "file" / "mednextv2_x"):
        assert f"{tmp_path / 'file'} is a file" in refusal("plan", tumour, "--output", place)
