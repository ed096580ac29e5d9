"""`mednextv2 plan`: the table that it prints, the task that it writes, and what it refuses."""

from unittest import mock

import nibabel as nib
import numpy as np
import pytest
from bundle_helpers import as_arguments
from dataset_helpers import make_folders, make_nnunet, save
from verb_helpers import call_verb, planned, refusal

from mednextv2.data import read_dataset
from mednextv2.nets.training_memory import training_memory

SMALL = {"patch_size": "[32,32,16]", "variant": "v2_tiny"}


def row_of(table, name):
    """The lines of the table that belong to a name, as one text."""
    lines = table.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{name} "))
    stop = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), len(lines))
    return " ".join(" ".join(lines[start:stop]).split())


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
        ("[48,48]", "[1,0,1]", 1.5, "base", -24),
        ("96", "True", "many", 2, -1),
        ("big", "fine", "True", "[v2_base]", "inf"),
        ("[True,16,16]", "[1,-1,1]", "-2", "None", "-1e9"),
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


def test_a_class_without_a_voxel_is_warned_of(tmp_path):
    folder = make_nnunet(tmp_path / "data", {"background": 0, "liver": 1, "cyst": 2}, None, values=[1])
    table, _ = planned(folder, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    assert "warning: no label map has a voxel of cyst" in table
    code, out, _ = call_verb("check", folder)
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


def test_a_mix_of_planes_and_volumes_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    for n, shape in enumerate([(32, 32), (32, 32, 1), (32, 32, 4)]):
        save(tmp_path / "data" / "images" / f"x{n}.nii.gz", rng.normal(size=shape).astype(np.float32))
        save(tmp_path / "data" / "labels" / f"x{n}.nii.gz", rng.integers(0, 2, shape).astype(np.uint8))
    message = refusal("plan", tmp_path / "data", "--output", tmp_path / "mednextv2_x")
    assert "x2.nii.gz: is 3D (32×32×4); expected 2D" in message
    assert "x1.nii.gz" not in message
    assert not (tmp_path / "mednextv2_x").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--spacing", "[1,1,1]", 'should be millimetres along two axes, such as "[1.0,1.0]"'),
        ("--patch_size", "[32,32,32]", 'should be two multiples of 16, such as "[96,96]"'),
    ],
)
def test_planes_have_settings_of_two_axes(tmp_path, option, value, words):
    rng = np.random.default_rng(0)
    for n in range(2):
        save(tmp_path / "data" / "images" / f"x{n}.nii.gz", rng.normal(size=(32, 32)).astype(np.float32))
        save(tmp_path / "data" / "labels" / f"x{n}.nii.gz", rng.integers(0, 2, (32, 32)).astype(np.uint8))
    assert words in refusal("plan", tmp_path / "data", "--output", tmp_path / "mednextv2_x", option, value)


def test_a_folder_that_cannot_be_written_is_refused_before_the_data_are_read(tumour, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("mednextv2.bundle.plan.plan_dataset", lambda *_: pytest.fail("the data were read"))
    for place in (tmp_path / "file", tmp_path / "file" / "mednextv2_x"):
        assert f"{tmp_path / 'file'} is a file" in refusal("plan", tumour, "--output", place)
