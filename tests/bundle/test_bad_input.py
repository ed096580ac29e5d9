"""Mistakes of users on the command line: one message that names the file and the remedy, exit code 1, no traceback."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import HIPPOCAMPUS, QUICK, as_arguments, run_monai

from mednextv2.__main__ import main
from mednextv2.nets import MedNeXt, create_mednext

WINDOW = {"patch_size": QUICK["patch_size"], "num_workers": 0}


def run(workflow, **settings):
    """Run the command line in this process: it takes seconds to import everything anew."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    arguments = ["mednextv2", "run", str(HIPPOCAMPUS), workflow, *as_arguments(settings)]
    with mock.patch.object(sys, "argv", arguments), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as e:
            code = e.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def assert_refused(result, *words, code=1):
    assert result.returncode == code, result.stdout[-1000:] + result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    message = result.stderr[result.stderr.rindex("error:") :]
    for word in words:
        assert str(word) in message, message


@pytest.fixture
def broken(small_phantom, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(small_phantom, folder)
    return folder


def train(folder, tmp_path, **settings):
    result = run("train", **{**QUICK, "dataset_dir": folder, "output_dir": tmp_path / "out", **settings})
    assert not list((tmp_path / "out").glob("*.pt")), "it trained"
    return result


def test_a_missing_folder(tmp_path):
    assert_refused(train(tmp_path / "nowhere", tmp_path), tmp_path / "nowhere", "--dataset_dir")


def test_all_defects_of_a_data_set_at_once(broken, tmp_path):
    cases = [f"phantom_{i:03d}.nii.gz" for i in range(6)]
    (broken / "labelsTr" / cases[0]).unlink()
    whole = (broken / "imagesTr" / cases[1]).read_bytes()
    (broken / "imagesTr" / cases[1]).write_bytes(whole[: len(whole) // 2])
    image = nib.load(broken / "imagesTr" / cases[2])
    array = np.asarray(image.dataobj, dtype=np.float32)
    array[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(array, image.affine), broken / "imagesTr" / cases[2])
    label = nib.load(broken / "labelsTr" / cases[3])
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj) + np.uint8(5), label.affine), broken / "labelsTr" / cases[3])
    label = nib.load(broken / "labelsTr" / cases[4])
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[1:], label.affine), broken / "labelsTr" / cases[4])
    nib.save(nib.Nifti1Image(np.zeros((30, 40, 30), np.float32), np.eye(4)), broken / "imagesTr" / cases[5])
    result = train(broken, tmp_path)
    assert_refused(result, "defects", *cases, "truncated", "NaN", "outside the declared labels", "constant", "shape")


def test_the_plain_monai_command_ends_with_the_message_too(broken, tmp_path):
    (broken / "labelsTr" / "phantom_003.nii.gz").unlink()
    result = run_monai("train", {**QUICK, "dataset_dir": broken, "output_dir": tmp_path / "out"})
    assert_refused(result, "labelsTr/phantom_003.nii.gz", "no such file")


def test_dataset_json_that_does_not_parse(broken, tmp_path):
    (broken / "dataset.json").write_text('{"training": [')
    assert_refused(train(broken, tmp_path), broken / "dataset.json", "not valid JSON")


def test_other_classes_in_dataset_json(broken, tmp_path):
    content = json.loads((broken / "dataset.json").read_text())
    content["labels"]["3"] = "amygdala"
    (broken / "dataset.json").write_text(json.dumps(content))
    assert_refused(train(broken, tmp_path), "amygdala", "background, anterior, posterior")


def test_a_patch_size_that_is_no_multiple_of_16(small_phantom, tmp_path):
    assert_refused(train(small_phantom, tmp_path, patch_size=[40, 56, 40]), "patch_size", "[32, 64, 32]")


def test_every_impossible_setting_at_once(small_phantom, tmp_path):
    result = train(
        small_phantom, tmp_path, epochs=0, batch_size="x", foreground_patches=1.5, kernel_size=4, device="cuda:7"
    )
    assert_refused(
        result, "epochs 0", "batch_size 'x'", "foreground_patches 1.5", "kernel_size 4", "device cuda:7", "--device cpu"
    )


def test_a_fold_that_does_not_exist(small_phantom, tmp_path):
    assert_refused(train(small_phantom, tmp_path, fold=7), "fold 7", "0 to 4")


def test_an_unknown_variant(small_phantom, tmp_path):
    assert_refused(train(small_phantom, tmp_path, variant="v9"), "variant", "v9", "v2_base")


def test_an_output_folder_that_cannot_be_written(small_phantom, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("train", **{**QUICK, "dataset_dir": small_phantom, "output_dir": tmp_path / "file" / "out"})
    assert_refused(result, "output_dir", tmp_path / "file" / "out", "cannot be written")


def test_a_mistyped_setting(small_phantom, tmp_path):
    assert_refused(train(small_phantom, tmp_path, epochss=3), "--epochss", "--epochs", code=2)


def test_a_memory_that_is_too_small_for_a_step(small_phantom, tmp_path, monkeypatch):
    def fail(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(MedNeXt, "compute", fail)
    result = train(small_phantom, tmp_path, batch_size=3)
    assert_refused(result, "device cpu", "3 patches of 16×32×16 voxels", "--batch_size", "--patch_size", "--variant")
    assert len(result.stderr[result.stderr.rindex("error:") :].splitlines()) == 1


def test_missing_weights(small_phantom, tmp_path):
    images = small_phantom / "imagesTr"
    result = run("inference", **WINDOW, input=images, weights=tmp_path / "no.pt", output_dir=tmp_path)
    assert_refused(result, tmp_path / "no.pt")


def test_a_checkpoint_with_other_classes(small_phantom, tmp_path):
    torch.save(create_mednext("v2_tiny", out_channels=5, deep_supervision=True).state_dict(), tmp_path / "other.pt")
    images = small_phantom / "imagesTr"
    result = run("inference", **WINDOW, input=images, weights=tmp_path / "other.pt", output_dir=tmp_path / "o")
    assert_refused(result, tmp_path / "other.pt", "5 classes", "3")
    assert not (tmp_path / "o").exists()


def test_resuming_with_another_network(trained, small_phantom, tmp_path):
    shutil.copytree(trained, tmp_path / "out")
    before = (tmp_path / "out" / "model.pt").read_bytes()
    other = {"output_dir": tmp_path / "out", "variant": "v1_s", "epochs": 2}
    result = run("train", **{**QUICK, "dataset_dir": small_phantom, **other})
    assert_refused(result, "checkpoint_latest.pt", "another network", "--resume")
    assert (tmp_path / "out" / "model.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("shape", "value", "words"),
    [
        ((32, 32), 1.0, "2D"),
        ((16, 16, 16, 3), 1.0, "4D"),
        ((16, 16, 16), np.nan, "NaN"),
        ((16, 16, 16), 0.0, "constant"),
    ],
)
def test_images_that_cannot_be_segmented(shape, value, words, trained, tmp_path):
    array = np.full(shape, value, np.float32) if value != 1.0 else np.random.default_rng(0).random(shape, np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "image.nii.gz")
    result = run(
        "inference", **WINDOW, input=tmp_path / "image.nii.gz", weights=trained / "model.pt", output_dir=tmp_path / "o"
    )
    assert_refused(result, tmp_path / "image.nii.gz", words)
    assert not (tmp_path / "o").exists()
