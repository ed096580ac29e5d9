"""The release command: what it writes, and its trial in an environment without the package."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import pytest
from predict_helpers import BUNDLE

from mednextv2.version import __version__

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import release  # noqa: E402

NAME = BUNDLE.name
DATA = os.environ.get("MEDNEXTV2_DATA")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    output = tmp_path_factory.mktemp("release")
    return output, release.make_release([BUNDLE], output, "alice/bundles/v1")


def test_everything_is_in_one_folder(made):
    output, written = made
    files = [str(path.relative_to(output)) for path in written]
    assert files == [
        f"{NAME}_v0.1.0.zip", "models/model_info.json", f"{NAME}_v0.1.0_model.pt",
        f"large_files/{NAME}/large_files.yml", f"huggingface/{NAME}",
        f"python/mednextv2-{__version__}-py3-none-any.whl", f"python/mednextv2-{__version__}.tar.gz",
    ]  # fmt: skip
    assert all(path.exists() for path in written)
    assert [*json.loads((output / "models" / "model_info.json").read_text())] == [f"{NAME}_v0.1.0"]


def test_the_wheel_and_the_source_distribution_have_the_whole_package(made):
    package = ROOT / "mednextv2"
    ours = {f"mednextv2/{file.relative_to(package).as_posix()}" for file in package.rglob("*.*")
            if "__pycache__" not in file.parts}  # fmt: skip
    output, _ = made
    with zipfile.ZipFile(next((output / "python").glob("*.whl"))) as wheel:
        assert ours <= {*wheel.namelist()}
    with tarfile.open(next((output / "python").glob("*.tar.gz"))) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert ours <= names
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= names


def test_the_checkout_stays_as_it_was(made):
    assert not [path for path in (ROOT / "build", ROOT / "dist") if path.exists()]


def test_all_bundles_with_weights_are_released():
    assert release.bundles_with_weights() == [BUNDLE]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "bundle nothing: no folder with configs"),
        (["mednextv2_btcv"], "models/model.pt: there are no such weights"),
    ],
)
def test_a_mistake_is_one_message(arguments, words, tmp_path, capsys):
    assert release.main([*arguments, "--output", str(tmp_path / "out"), "--github", "a/b/c"]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_stranger_downloads_runs_and_upgrades_it(tmp_path, phantom):
    """Needs a package index: a new environment gets everything that a bundle requires, except for mednextv2."""
    images = Path(DATA) / "Task04_Hippocampus" if DATA else phantom
    image = next((images / "imagesTr").glob("[!.]*.nii.gz"))
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "release.py"), "--output", str(tmp_path / "release"),
         "--github", "alice/bundles/v1", "--try", str(image)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    voxels = nib.load(image).header.get_data_shape()
    size = voxels[0] * voxels[1] * voxels[2]
    for source in ("github", "huggingface_hub"):
        assert f"{NAME} 0.1.0 from {source}: 0 of {size} voxels have another label than here" in lines
        assert f"{NAME} 0.1.0 from {source}: monai.bundle.load, largest difference: 0.0" in lines
    upgraded = [line for line in lines if line.endswith("version 0.1.1, verified; before, it was version 0.1.0")]
    assert len(upgraded) == 2
    assert lines[-1] == "the trial has passed"
