import filecmp
import json
import os
import shutil
import subprocess
import sys
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch
from delivery_helpers import HIPPOCAMPUS, ROOT, content, copy_bundle, refused
from test_full_disk import room_for

import mednextv2
from mednextv2.bundle import find_bundle, write_bundle
from mednextv2.delivery import fetch_bundle, pack_bundle
from mednextv2.delivery.manifest import MANIFEST, read_manifest, verify
from mednextv2.delivery.packing import collect_pack, release_address
from mednextv2.weights import read_about
from mednextv2.weights.files import digest_file, load_file, save_file

KEY = "mednextv2_hippocampus_v0.1.0"


@pytest.fixture(scope="module")
def unpacked(packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(packed / f"{KEY}.zip") as archive:
        archive.extractall(folder)
    (root,) = folder.iterdir()
    return root


def test_the_archive_has_one_folder_with_everything(unpacked):
    assert unpacked.name == "mednextv2_hippocampus"
    verify(unpacked, "here")
    files = set(read_manifest(unpacked))
    workflows = ("train", "finetune", "multi_gpu_train", "evaluate", "inference")
    assert {f"configs/{name}.{ending}" for name in workflows for ending in ("yaml", "json")} <= files
    assert {"LICENSE", "task.yaml", "models/model.pt", "configs/metadata.json", "docs/README.md"} <= files
    assert (unpacked / "models" / "model.pt").read_bytes() == (HIPPOCAMPUS / "models" / "model.pt").read_bytes()


def test_the_package_in_it_is_the_whole_package(unpacked):
    package = ROOT / "mednextv2"
    theirs = {f.relative_to(unpacked / "mednextv2").as_posix() for f in (unpacked / "mednextv2").rglob("*.*")}
    ours = {f.relative_to(package).as_posix() for f in package.rglob("*.*") if "__pycache__" not in f.parts}
    assert theirs == ours
    assert all(filecmp.cmp(unpacked / "mednextv2" / name, package / name, shallow=False) for name in ours)


def test_packing_twice_gives_the_same_bytes(packed, tmp_path):
    (again, *_) = pack_bundle(HIPPOCAMPUS, tmp_path)
    assert again == tmp_path / f"{KEY}.zip"
    assert again.read_bytes() == (packed / again.name).read_bytes()


def test_the_index_has_its_address_and_checksum(packed):
    index = json.loads((packed / "models" / "model_info.json").read_text())
    source = f"https://github.com/alice/bundles/releases/download/v1/{KEY}.zip"
    assert index == {KEY: {"checksum": digest_file(packed / f"{KEY}.zip"), "source": source}}


def test_the_whole_way_through_a_web_server(packed, hosts, tmp_path):
    pack_bundle(HIPPOCAMPUS, tmp_path / "www", url=f"{hosts.address}/files/")
    hosts.files["model_info.json"] = tmp_path / "www" / "models" / "model_info.json"
    hosts.files[f"files/{KEY}.zip"] = tmp_path / "www" / f"{KEY}.zip"
    fetched = fetch_bundle("mednextv2_hippocampus", tmp_path / "bundles", f"{hosts.address}/model_info.json")
    assert find_bundle(fetched.folder) == fetched.folder
    assert mednextv2.Predictor(fetched.folder, device="cpu").model.version == "0.1.0"
    again = pack_bundle(fetched.folder, tmp_path / "again")  # what was fetched can be packed, and is the same
    assert again[0].read_bytes() == (packed / f"{KEY}.zip").read_bytes()


# everything that a program without the package does, in one process, since it takes seconds to import everything
_STRANGER = """
import sys
import torch, monai.bundle
root, folder, image, output = sys.argv[1:]
try:
    import mednextv2
    raise SystemExit("mednextv2 is installed")
except ModuleNotFoundError:
    pass
network = monai.bundle.load("mednextv2_hippocampus", bundle_dir=folder)
saved = torch.load(root + "/models/model.pt")
own = network.state_dict()
assert set(own) == set(saved)
assert max(float((own[k] - saved[k]).abs().max()) for k in saved) == 0
monai.bundle.run(config_file=root + "/configs/inference.json", bundle_root=root, input=image, output_dir=output)
import mednextv2
assert mednextv2.__file__ == root + "/mednextv2/__init__.py", mednextv2.__file__
"""


def test_it_runs_where_the_package_is_not_installed(unpacked, image, predictor, tmp_path):
    import release_hosts

    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(release_hosts.LACK)
    done = subprocess.run(
        [sys.executable, "-c", _STRANGER, str(unpacked), str(unpacked.parent), str(image), str(tmp_path / "masks")],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "start")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    mask = np.asarray(nib.load(tmp_path / "masks" / "case_seg.nii.gz").dataobj)
    expected = mednextv2.predict(HIPPOCAMPUS, image).labels
    assert (mask > 0).any()
    assert (mask == expected).all()


def test_weights_of_a_fold_can_be_packed(tmp_path):
    state = {key: value * 0.5 for key, value in load_file(HIPPOCAMPUS / "models" / "model.pt").items()}
    save_file(state, tmp_path / "fold.pt")
    pack = collect_pack(HIPPOCAMPUS, tmp_path / "fold.pt")
    assert pack.files["models/model.pt"] == tmp_path / "fold.pt"


def test_safetensors_are_packed_in_pytorchs_format(tmp_path):
    state = {key: value * 0.5 for key, value in load_file(HIPPOCAMPUS / "models" / "model.pt").items()}
    save_file(state, tmp_path / "fold.safetensors", {"epoch": 3})
    archive, _, copy, _ = pack_bundle(HIPPOCAMPUS, tmp_path, tmp_path / "fold.safetensors", url="https://example.org/b")
    with zipfile.ZipFile(archive) as pack:
        pack.extract("mednextv2_hippocampus/models/model.pt", tmp_path)
    for file in (tmp_path / "mednextv2_hippocampus" / "models" / "model.pt", copy):
        found = torch.load(file, weights_only=True)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())
        assert read_about(file) == {"epoch": 3}


def test_the_choice_of_post_processing_belongs_to_the_bundle(tmp_path):
    folder = copy_bundle(tmp_path / "mednextv2_copy")
    write_bundle(folder / "task.yaml")
    assert "models/postprocessing.json" not in collect_pack(folder).files
    (folder / "models" / "postprocessing.json").write_text("{}")
    assert collect_pack(folder).files["models/postprocessing.json"] == folder / "models" / "postprocessing.json"


def test_a_bundle_that_differs_from_a_fresh_build_is_refused(tmp_path):
    folder = copy_bundle(tmp_path / "mednextv2_hippocampus")
    assert collect_pack(folder)
    (folder / "configs" / "train.yaml").write_text("epochs: 3\n")
    (folder / "LICENSE").unlink()
    message = refused(pack_bundle, folder, tmp_path / "out")
    assert f"{folder}: differs from a fresh build of its task.yaml: configs/train.yaml, LICENSE." in message
    assert "mednextv2 bundle" in message
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_weights_is_refused(tmp_path):
    message = refused(pack_bundle, "mednextv2_btcv", tmp_path / "out")
    assert "models/model.pt: there are no such weights" in message
    assert "--weights" in message
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.pt")
    message = refused(pack_bundle, HIPPOCAMPUS, tmp_path / "out", tmp_path / "a.pt")
    assert "not in the network: a" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("version", ["0.10.0", "1.0"])
def test_a_version_that_does_not_sort_is_refused(version, tmp_path):
    folder = copy_bundle(tmp_path / "mednextv2_copy", texts={"version: 0.1.0": f"version: '{version}'"})
    (folder / "task.yaml").write_text((folder / "task.yaml").read_text().replace("  0.1.0:", f"  '{version}':"))
    write_bundle(folder / "task.yaml")
    assert f"task.yaml: the version '{version}' should be three digits" in refused(pack_bundle, folder, tmp_path)


def test_a_name_that_monai_cuts_is_refused(tmp_path):
    assert 'holds "_v"' in refused(pack_bundle, copy_bundle(tmp_path / "mednext_v2_x"), tmp_path)


def test_a_bundle_of_others_is_refused(tmp_path):
    (tmp_path / "spleen" / "configs").mkdir(parents=True)
    assert "has no task.yaml" in refused(pack_bundle, tmp_path / "spleen", tmp_path)


def test_a_full_disk_leaves_what_was_there(packed, tmp_path):
    (tmp_path / f"{KEY}.zip").write_bytes(b"of before")
    with room_for(5000):
        message = refused(pack_bundle, HIPPOCAMPUS, tmp_path, hugging_face=True)
    assert f"{tmp_path / f'{KEY}.zip'}: cannot be written (" in message
    assert content(tmp_path) == {f"{KEY}.zip": b"of before"}


def test_a_version_that_is_published_is_not_replaced(packed, tmp_path):
    (tmp_path / "models").mkdir()
    published = {KEY: {"checksum": "0" * 64, "source": "https://host/x.zip"}}
    (tmp_path / "models" / "model_info.json").write_text(json.dumps(published))
    message = refused(pack_bundle, HIPPOCAMPUS, tmp_path, github="alice/bundles/v1")
    assert f"has {KEY} with another content already" in message


def test_addresses():
    assert release_address("alice/b/v1", None) == "https://github.com/alice/b/releases/download/v1"
    assert release_address(None, "https://host/x/") == "https://host/x"
    assert release_address(None, None) == ""
    assert "give one of them" in refused(release_address, "a/b/c", "https://host")
    assert "should be OWNER/REPO/TAG" in refused(release_address, "a/b", None)
    assert "should be OWNER/REPO/TAG" in refused(release_address, "a//c", None)
    assert "begins with https://" in refused(release_address, None, "host/x")


def test_the_manifest_names_every_file_but_itself(packed):
    with zipfile.ZipFile(packed / f"{KEY}.zip") as archive:
        names = {name.split("/", 1)[1] for name in archive.namelist()}
        text = archive.read(f"mednextv2_hippocampus/{MANIFEST}").decode()
    assert {line.split("  ", 1)[1] for line in text.splitlines()} == names - {MANIFEST}


def test_an_ensemble_is_packed_whole_unless_a_file_is_given(tmp_path):
    root = tmp_path / "mednextv2_liver"
    copy_bundle(root)
    write_bundle(root / "task.yaml")
    own = root / "models" / "model.pt"
    (root / "models" / "model_1.pt").write_bytes(own.read_bytes())
    (root / "models" / "replaced_2026-01-01_000000").mkdir()
    (root / "models" / "replaced_2026-01-01_000000" / "model.pt").write_bytes(own.read_bytes())
    names = {name for name in collect_pack(root).files if name.startswith("models/")}
    assert names == {"models/model.pt", "models/model_1.pt"}
    assert collect_pack(root, own).weights == {"models/model.pt": own}


def test_a_renamed_folder_is_named_as_such(tmp_path):
    shutil.copytree(HIPPOCAMPUS, tmp_path / "renamed", ignore=shutil.ignore_patterns("output", "fold_*"))
    message = refused(collect_pack, tmp_path / "renamed")
    assert "was built under the name mednextv2_hippocampus; rename the folder back" in message
