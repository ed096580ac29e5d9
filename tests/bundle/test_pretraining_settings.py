"""Every setting of the bundle for masked autoencoding, run with each of its values once."""

import functools
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from pretraining_runs import MAE, Pretraining
from pretraining_settings import COMMON, EVALUATE, FACTS, OF_WEIGHTS, TRAIN
from recipe_settings import is_default
from setting_runs import at

from mednextv2.bundle.run import read_workflow
from mednextv2.data import image_check
from mednextv2.nets import create_mednext
from mednextv2.weights.files import digest_file

#: Scalars that are no settings, but made of them, or of the recipe that all bundles share.
DERIVED = {"about", "engine_amp", "network", "network_name", "patch", "flat_axis", "training", "sources", "voxels"}
DERIVED |= {"dataset_name"}


def configuration(workflow):
    return yaml.safe_load((MAE / "configs" / f"{workflow}.yaml").read_text(encoding="utf-8"))


def rows():
    """All values; slow are defaults, facts of the task, and what evaluation shares with the training."""
    for workflow, table in (("train", {**TRAIN, **FACTS}), ("evaluate", EVALUATE)):
        config = configuration(workflow)
        for name, values in table.items():
            elsewhere = (workflow == "evaluate" and name in COMMON) or name in FACTS
            for value, taken, more in values:
                if workflow == "train" or name not in OF_WEIGHTS:
                    marks = [pytest.mark.slow] if elsewhere or is_default(config, name, value) else []
                    yield pytest.param(workflow, name, value, taken, more, id=f"{workflow} {name} {value}", marks=marks)


@pytest.fixture(scope="module")
def places(small_phantom, tmp_path_factory):
    """A folder with what the runs have in common."""
    folder = tmp_path_factory.mktemp("places")
    shutil.copytree(small_phantom / "imagesTr", folder / "data")
    files = sorted((folder / "data").iterdir())
    for name in ("more", "defective", "channels"):
        (folder / name).mkdir()
    for file in files[:2]:
        shutil.copy(file, folder / "more")
    for number, file in enumerate(files[:4]):
        image = nib.load(file)
        both = np.stack([image.get_fdata(), image.get_fdata()[::-1]], -1).astype(np.float32)
        nib.save(nib.Nifti1Image(both, image.affine), folder / "channels" / file.name)
        shutil.copy(file, folder / "defective" / f"{number}.nii.gz")
    (folder / "defective" / "bad.nii.gz").write_bytes(b"bad")
    names = [file.name.removesuffix(".nii.gz") for file in files]
    (folder / "splits.json").write_text(json.dumps([{"train": names[:5], "val": names[5:]}]))
    Pretraining("train", folder, dataset_dir=folder / "data", output_dir=folder / "trained").run()
    torch.save(create_mednext("v2_tiny", out_channels=1, kernel_size=5).state_dict(), folder / "kernel 5.pt")
    return folder


@pytest.mark.parametrize(("workflow", "name", "value", "taken", "more"), list(rows()))
def test_setting(workflow, name, value, taken, more, places, tmp_path, monkeypatch):
    if name == "compile":  # Inductor would take a minute
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    if name == "bundle_root":
        shutil.copytree(MAE, places / "copy", dirs_exist_ok=True, ignore=shutil.ignore_patterns("models", "output"))
    if "at:trained copy" in more.values():
        shutil.rmtree(places / "trained copy", ignore_errors=True)
        shutil.copytree(places / "trained", places / "trained copy")
    needed = {"weights": "at:trained/model.pt"} if workflow == "evaluate" else {"pictures": 3}
    settings = {"dataset_dir": "at:data", "output_dir": tmp_path / "out", **needed, **more, name: value}
    if workflow == "evaluate":
        settings.pop("picture_interval", None)
    if settings.get("pretrained_sha256") == "of the file":
        settings["pretrained_sha256"] = digest_file(places / "trained" / "model.pt")
    checked, check = [], image_check.find_defect
    monkeypatch.setattr(image_check, "find_defect", lambda case: (checked.append(case), check(case))[1])
    done = Pretraining(workflow, places, **{key: at(v, places) for key, v in settings.items()}).run()
    done.checked, done.made = checked, "model.pt" if workflow == "train" else "cases.csv"
    done.loader = done["train::dataloader" if workflow == "train" else "dataloader"]
    done.shape_of = lambda file: nib.load(file).shape
    if name == "experiment":
        parser = read_workflow([str(MAE / "configs" / f"{workflow}.yaml")])
        parser.update({"bundle_root": str(MAE), "experiment": value})
        done.default_output = parser.get_parsed_content("output_dir").rstrip("/")
        done.no_experiment = "models" if workflow == "train" else "evaluation"
    assert taken(done, at(value, places))


@pytest.mark.parametrize(("workflow", "table"), [("train", TRAIN), ("evaluate", EVALUATE)])
def test_no_setting_is_untested(workflow, table):
    scalars = {name for name, value in configuration(workflow).items() if not isinstance(value, (dict, list))}
    known = {*table, *FACTS}
    assert scalars - DERIVED - known == set()
    assert known - scalars <= {"patch_size", "mirror_axes", "spacing", "normalization"}  # lists


def test_settings_about_the_device_are_those_of_the_other_bundles():
    """Their text is copied from the recipe that all other bundles share."""
    other = yaml.safe_load((Path(MAE).parent / "mednextv2_hippocampus" / "configs" / "train.yaml").read_text())
    mine = yaml.safe_load((MAE / "configs" / "train.yaml").read_text())
    names = list(other)
    shared = names[names.index("device") : names.index("experiment") + 1]
    assert len(shared) == 10
    assert {name: mine[name] for name in shared} == {name: other[name] for name in shared}
