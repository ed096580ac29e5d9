"""From a plan to a task.yaml: its folder, its texts, and what it refuses."""

import json

import pytest
from dataset_helpers import make_nnunet

from mednextv2.bundle.plan import plan_dataset
from mednextv2.bundle.plan_to_task import check_folder, default_folder, write_task
from mednextv2.bundle.task import read_task
from mednextv2.data import read_dataset
from mednextv2.data.fingerprint import Fingerprint
from mednextv2.errors import InputError


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
    assert public["weights"] == "none"  # so that its README says that it has to be trained
    other = read_task(write_task(plan_dataset(tumour, variant="v2_tiny"), tmp_path / "mednextv2_y")).public
    assert (other["data_source"], other["data_license"]) == ("not stated", "not stated")


def test_a_plan_that_cannot_be_built_leaves_nothing_behind(tumour, tmp_path):
    plan = plan_dataset(tumour, variant="v2_tiny")
    plan.decisions["patch_size"] = plan.decisions["patch_size"].__class__((47, 48, 16), "planted")
    with pytest.raises(InputError, match="multiple of 16"):
        write_task(plan, tmp_path / "mednextv2_x")
    assert not (tmp_path / "mednextv2_x").exists()


def test_what_is_written_is_what_was_decided(tumour, tmp_path):
    plan = plan_dataset(tumour, variant="v2_tiny", patch_size=(32, 48, 16), batch_size=3, spacing=(0.9, 1.0, 2.0))
    path = write_task(plan, tmp_path / "new" / "mednextv2_x")
    assert path == tmp_path / "new" / "mednextv2_x" / "task.yaml"
    task = read_task(path)
    assert task.name == "mednextv2_x"
    for name in ("batch_size", "variant", "mirror_axes", "batch_dice", "normalization"):
        assert task.workflow[name] == plan.decisions[name].value
    assert (task.workflow["patch_size"], task.workflow["spacing"]) == ([32, 48, 16], [0.9, 1.0, 2.0])
    assert task.workflow["channels"] == ["CT", "PET"]
    assert task.scheme().members == plan.scheme.members
    assert max(map(len, path.read_text().splitlines())) <= 200  # comments stand above their facts
    comments = " ".join(line[2:] for line in task.text.splitlines() if line.startswith("# "))
    for decision in ("patch_size", "batch_size", "spacing", "mirror_axes", "batch_dice"):
        assert " ".join(plan.decisions[decision].reason.split()) in comments
    assert sorted(p.name for p in path.parent.iterdir()) == ["fingerprint.json", "task.yaml"]


def test_long_texts_are_wrapped_and_read_back_whole(tmp_path):
    text = "A set: of #many words, 'quoted' and \"quoted\" – with ünïcode. " * 8
    folder = make_nnunet(tmp_path / "data", cases=2, description=text)
    path = write_task(plan_dataset(folder, variant="v2_tiny"), tmp_path / "mednextv2_x")
    assert " ".join(read_task(path).public["description"].split()) == " ".join(text.split())
    assert max(len(line) for line in path.read_text(encoding="utf-8").splitlines() if "many words" in line) <= 120


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_folder_that_can_be_made_passes_and_is_not_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_folder("~/bundles/mednextv2_x") == tmp_path / "bundles" / "mednextv2_x"
    assert not list(tmp_path.iterdir())
    (tmp_path / "mednextv2_x").mkdir()
    assert check_folder(tmp_path / "mednextv2_x") == tmp_path / "mednextv2_x"


def test_folders_that_cannot_become_bundles_are_refused(tmp_path):
    (tmp_path / "mednextv2_x").mkdir()
    (tmp_path / "mednextv2_x" / "task.yaml").touch()
    (tmp_path / "file").touch()
    for folder, words in (
        (tmp_path / "mednextv2_x", "exists already"),
        (tmp_path / "organ_v3", 'the name holds "_v"'),
        (tmp_path / "file" / "mednextv2_y", f"{tmp_path / 'file'} is a file"),
        (tmp_path / "file", "is a file"),
    ):
        with pytest.raises(InputError, match="--output") as caught:
            check_folder(folder)
        assert words in str(caught.value)


def test_a_folder_without_the_right_to_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(InputError, match=f"{tmp_path} cannot be written"):
        check_folder(tmp_path / "mednextv2_x")


@pytest.mark.parametrize("name", ["@b #1", "%c::d", "$x", "$"])
def test_a_folder_may_have_a_name_that_monai_would_work_out(tumour, tmp_path, name):
    task = read_task(write_task(plan_dataset(tumour, variant="v2_tiny"), tmp_path / name))
    assert task.public["title"][0] not in "$@%"
