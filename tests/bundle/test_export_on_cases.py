"""Exports of the shipped network on two real cases of different sizes, through the bundle's own configuration."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_helpers import HIPPOCAMPUS, run_monai

from mednextv2.bundle.export import export_bundle
from mednextv2.data import read_dataset, split_dataset

DATA = os.environ.get("MEDNEXTV2_DATA")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA, reason="MEDNEXTV2_DATA is not set")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with two unseen cases of different sizes."""
    folder = tmp_path_factory.mktemp("images")
    cases = split_dataset(read_dataset(Path(DATA) / "Task04_Hippocampus"), 0).validation
    files = {nib.load(image).shape: Path(image) for image in (_image(case) for case in cases)}
    for shape in list(files)[:2]:
        (folder / files[shape].name).symlink_to(files[shape])
    return folder


def _image(case):
    return case["image"][0] if isinstance(case["image"], (list, tuple)) else case["image"]


def _masks(images, output, **settings):
    result = run_monai("inference", {
        "input": images, "output_dir": output, "amp": False, "device": "cpu", "test_mirror_axes": "[]", **settings,
    }, timeout=3600)  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return {file.name: np.asarray(nib.load(file).dataobj) for file in sorted(output.glob("*.nii.gz"))}


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    """The masks of `model.pt` in float32."""
    return _masks(images, tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize("format", ["ts", "pt2", "onnx"])
def test_an_exported_network_gives_the_labels_of_the_weights(format, images, expected, tmp_path):
    file = export_bundle(HIPPOCAMPUS, format, tmp_path / f"model.{format}")
    actual = _masks(images, tmp_path / "masks", weights=file)
    assert len({mask.shape for mask in expected.values()}) == 2
    assert actual.keys() == expected.keys()
    for name, mask in expected.items():
        assert len(np.unique(mask)) == 3
        print(format, name, mask.shape, "equal labels:", (actual[name] == mask).mean())
        assert (actual[name] == mask).mean() >= 0.9999
