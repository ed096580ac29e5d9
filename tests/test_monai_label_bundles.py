"""What scripts/monai_label.sh checks and copies before it starts MONAI Label."""

import importlib
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from mednextv2.bundle import write_bundle
from mednextv2.errors import InputError

ROOT = Path(__file__).parents[1]
HIPPOCAMPUS = ROOT / "bundles" / "mednextv2_hippocampus"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return importlib.import_module("monai_label_bundles")


@pytest.fixture
def bundle(tmp_path):
    """A copy of the hippocampus bundle, with what trainings leave in a bundle."""
    folder = tmp_path / "mednextv2_copy"
    shutil.copytree(HIPPOCAMPUS, folder, ignore=shutil.ignore_patterns("output", "fold_*"))
    for name in ("models/fold_0/model.pt", "models/replaced_2026-01-01_000000/model.pt", "output/masks/a.nii.gz"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    return folder


def read_metadata(folder):
    return json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))


def refused(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


def test_a_bundle_is_copied_without_what_trainings_left(script, bundle, tmp_path):
    app = tmp_path / "app"
    assert script.install(str(bundle), str(app)) == bundle.name
    copied = {str(file.relative_to(app / "model" / bundle.name)) for file in app.rglob("*") if file.is_file()}
    there = {str(file.relative_to(HIPPOCAMPUS)) for file in HIPPOCAMPUS.rglob("*") if file.is_file()}
    assert copied == {name for name in there if not name.startswith("output") and "fold_" not in name}
    assert read_metadata(app / "model" / bundle.name) == read_metadata(bundle)


def test_a_second_start_keeps_weights_and_brings_the_rest_up_to_date(script, bundle, tmp_path, capsys):
    app = tmp_path / "app"
    script.install(str(bundle), str(app))
    copy = app / "model" / bundle.name
    state = torch.load(copy / "models" / "model.pt", weights_only=True)
    state["heads.0.bias"] += 1
    torch.save(state, copy / "models" / "model.pt")
    (copy / "configs" / "train.yaml").write_text("old: 1\n", encoding="utf-8")
    trained = (copy / "models" / "model.pt").read_bytes()
    script.install(str(bundle), str(app))
    assert (copy / "models" / "model.pt").read_bytes() == trained
    assert (copy / "configs" / "train.yaml").read_bytes() == (bundle / "configs" / "train.yaml").read_bytes()
    assert "the app keeps its weights" in capsys.readouterr().out


def test_regions_get_the_names_of_the_values_in_masks(script, bundle, tmp_path):
    text = (bundle / "task.yaml").read_text(encoding="utf-8").replace("\nignore_label: null", "\nignore_label: 3")
    regions = "[{name: whole, values: [1, 2], paint: 1}, {name: back, values: [2], paint: 2}]"
    (bundle / "task.yaml").write_text(text.replace("\nregions: []", f"\nregions: {regions}"), encoding="utf-8")
    write_bundle(bundle / "task.yaml")
    assert read_metadata(bundle)["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "whole", "1": "back"}
    names = {"0": "background", "1": "anterior", "2": "posterior", "3": "ignore"}
    assert script.label_values(bundle) == names
    (bundle / "models" / "model.pt").unlink()
    state = torch.load(HIPPOCAMPUS / "models" / "model.pt", weights_only=True)
    torch.save({k: v[1:].clone() if "heads" in k else v for k, v in state.items()}, bundle / "models" / "model.pt")
    script.install(str(bundle), str(tmp_path / "app"))
    copy = tmp_path / "app" / "model" / bundle.name
    assert read_metadata(copy)["network_data_format"]["outputs"]["pred"]["channel_def"] == names


def test_bundles_that_cannot_be_served_are_refused(script, bundle, tmp_path):
    app = str(tmp_path / "app")
    weights, metadata = bundle / "models" / "model.pt", bundle / "configs" / "metadata.json"
    torch.save(torch.nn.Conv3d(1, 1, 1), weights)
    assert f"{weights}: refused, since reading it would run code" in refused(script.install, str(bundle), app)
    torch.save(torch.nn.Conv3d(1, 1, 1).state_dict(), weights)
    assert f"{weights}: the weights are of another network" in refused(script.install, str(bundle), app)
    weights.unlink()
    assert f"{bundle}: this bundle has no weights" in refused(script.install, str(bundle), app)
    content = read_metadata(bundle)
    content["required_packages_version"]["mednextv2"] = "99.0.0"
    metadata.write_text(json.dumps(content), encoding="utf-8")
    assert f"{bundle}: needs mednextv2 99.0.0, and" in refused(script.install, str(bundle), app)
    other = bundle.rename(tmp_path / "liver_Detection")
    assert f"{other}: MONAI Label takes a bundle with 'detection'" in refused(script.install, str(other), app)
    assert not Path(app).exists()


def test_a_port_in_use_is_refused(script):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert f"--port {port}: is in use at 127.0.0.1" in refused(script.check_port, "127.0.0.1", str(port))
    script.check_port("127.0.0.1", str(port))
    for wrong in ("http", "0", "65536"):
        assert f"--port {wrong}: should be a whole number" in refused(script.check_port, "127.0.0.1", wrong)
    for host in ("192.0.2.1", "nowhere.invalid"):  # an address of no computer, and no name
        assert refused(script.check_port, host, str(port)).startswith(f"--host {host}: no server can be started")


def test_a_folder_without_images_is_refused(script, tmp_path):
    (tmp_path / "notes.txt").touch()
    assert f"--studies {tmp_path}: holds no image" in refused(script.check_studies, str(tmp_path))
    (tmp_path / "a.nii.gz").touch()
    script.check_studies(str(tmp_path))


def test_errors_end_the_command_with_one_message(script, bundle, tmp_path, capsys):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "a.nii.gz").touch()
    (tmp_path / "app").mkdir()
    with socket.socket() as server:  # a free port
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    names = tmp_path / "app" / "bundles.txt"
    options = ["--app", tmp_path / "app", "--studies", tmp_path / "studies", "--host", "127.0.0.1", "--port", port]
    options = [*map(str, options), "--names", str(names), "--bundles"]
    assert script.main([*options, f"{HIPPOCAMPUS},{bundle}"]) == 0
    assert names.read_text(encoding="utf-8") == f"{HIPPOCAMPUS.name},{bundle.name}"
    assert script.main([*options, str(tmp_path / "none")]) == 1
    assert script.main([*options, ","]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(line.startswith("error: ") for line in errors)
    assert "names no bundle" in errors[1]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--port"], 2, "--port needs a value"),
        (["--nothing"], 2, "unknown argument --nothing"),
        ([], 2, "--studies is missing"),
        (["--studies", "nowhere"], 1, "--studies nowhere: there is no such folder"),
    ],
)
@pytest.mark.parametrize("name", ["monai_label.sh", "check_monai_label.sh"])
def test_options_are_checked_before_anything_is_installed(name, arguments, status, words, tmp_path):
    if name == "check_monai_label.sh":
        arguments = [a.replace("--studies", "--data") for a in arguments]
        words, status = (
            words.replace("--studies", "--data").replace("there is no such folder", "holds no dataset.json"),
            2,
        )
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / name), *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == status
    assert done.stderr.startswith(f"error: {words}")
    assert done.stderr.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["monai_label.sh", "check_monai_label.sh"])
def test_help_names_every_option(name):
    script = ROOT / "scripts" / name
    done = subprocess.run(["bash", str(script), "--help"], capture_output=True, text=True, check=True, timeout=60)
    patterns = re.findall(r"^ *(--[a-z|-]+)\)", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    options = {option for pattern in patterns for option in pattern.split("|")}
    assert len(options) > 3
    for option in options:
        assert option in done.stdout
    assert "set -euo" not in done.stdout
