"""The steps of MONAI Deploy's operator for bundles give the masks of `predict`.

The operator is `MonaiBundleInferenceOperator` of monai-deploy-app-sdk 4.0.0, whose runtime (Holoscan) is not needed
for these steps: it reads `configs/metadata.json` and the first of `inference.json` and `inference.yaml` of a folder, or
both from the folder `extra` of a TorchScript file; takes out transforms whose class is named like LoadImage or
SaveImage; gives images in memory; and calls the inferer with `image[None]`.
"""

import json
import os
import shutil
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch
from export_helpers import BUNDLE, PATCH, export_small, make_weights
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple, first
from predict_helpers import AFFINE, noise, save

import mednextv2


def read_folder(bundle):
    """Read a bundle as `_read_directory_bundle_config` does, and its network as `_load_model_from_directory_bundle`."""
    parser = ConfigParser()
    parser.read_meta(f=json.loads((bundle / "configs" / "metadata.json").read_text()))
    names = [bundle / "configs" / f"inference{ending}" for ending in (".json", ".yaml", "yml")]
    parser.read_config([next(name for name in names if name.exists())])
    parser.parse()
    if (bundle / "models" / "model.ts").exists():
        return parser, torch.jit.load(bundle / "models" / "model.ts", map_location="cpu").eval()
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", map_location="cpu"), strict=True)
    return parser, network.eval()


def read_script(file, folder):
    """Read a TorchScript file as `get_bundle_config` does."""
    parser = ConfigParser()
    with zipfile.ZipFile(file) as archive:
        root = archive.namelist()[0].split("/")[0]
        parser.read_meta(f=json.loads(archive.read(f"{root}/extra/metadata.json")))
        parser.read_config([archive.extract(f"{root}/extra/inference.json", folder)])
    parser.parse()
    return parser, torch.jit.load(file, map_location="cpu").eval()


def without_files(compose):
    """Leave out transforms as `filter_compose` does."""
    compose.transforms = tuple(
        t for t in compose.transforms if not any(name in type(t).__name__ for name in ("LoadImage", "SaveImage"))
    )
    return compose


def segment(parser, network, value, metadata):
    """Take the steps of `_init_config` and `compute`; return the output `pred`."""
    inferer = parser.get_parsed_content("inferer")
    before = without_files(parser.get_parsed_content("preprocessing"))
    after = without_files(parser.get_parsed_content("postprocessing"))
    (name,) = parser["_meta_"]["network_data_format"]["inputs"]
    (output,) = parser["_meta_"]["network_data_format"]["outputs"]
    assert isinstance(first(before.transforms), MapTransform)
    assert isinstance(first(after.transforms), MapTransform)
    with torch.no_grad():
        inputs = before({name: MetaTensor.ensure_torch_and_prune_meta(value, metadata)})
        image = inputs.pop(name)
        outputs = inferer(inputs=image[None].to(torch.device("cpu")), network=network)
        inputs[name] = image
        outputs = after({output: ensure_tuple(outputs)[0], **inputs})
    return np.squeeze(outputs[output].cpu().numpy(), 0).astype(np.uint8)


def from_dicom(image):
    """Return an image in memory as the operator makes it from a DICOM volume: `_convert_from_image_dicom_source`."""
    array, affine = np.asarray(image.dataobj), image.affine
    spacing = nib.affines.voxel_sizes(affine)
    return array, {
        "spacing": spacing, "original_affine": affine, "affine": affine.copy(),
        "spatial_shape": np.asarray(array.shape), "original_channel_dim": "no_channel",
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small network's export, and the mask of `predict` with its weights."""
    folder = tmp_path_factory.mktemp("deploy")
    export_small(folder, "ts", test_mirror_axes=[])
    return folder


@pytest.fixture(scope="module")
def image(folder):
    return nib.load(save(folder / "case.nii.gz", noise(40, 50, 30), AFFINE))


@pytest.fixture(scope="module")
def expected(folder, image):
    network, weights = make_weights(folder)
    mask = mednextv2.predict(
        BUNDLE, image.get_filename(), weights=str(weights), network=str(network), patch_size=PATCH, amp=False,
        device="cpu", test_mirror_axes=[],
    ).labels  # fmt: skip
    assert len(np.unique(mask)) == 3
    return mask


def test_an_exported_file_alone_gives_the_mask_of_predict(folder, image, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser, network = read_script(folder / "one_convolution.ts", tmp_path / "read")
    assert (segment(parser, network, *from_dicom(image)) == expected).mean() >= 0.9999
    assert os.listdir(tmp_path) == ["read"]  # the mask stays in memory


def test_a_folder_with_an_exported_file_gives_the_mask_of_predict(folder, image, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BUNDLE / "configs", tmp_path / "bundle" / "configs")
    (tmp_path / "bundle" / "models").mkdir()
    shutil.copy(folder / "one_convolution.ts", tmp_path / "bundle" / "models" / "model.ts")
    config = tmp_path / "bundle" / "configs" / "inference.yaml"
    text = config.read_text().replace("patch_size: [48, 64, 48]", f"patch_size: {PATCH}")
    config.write_text(text.replace('test_mirror_axes: "@mirror_axes"', "test_mirror_axes: []"))
    parser, network = read_folder(tmp_path / "bundle")
    assert (segment(parser, network, *from_dicom(image)) == expected).mean() >= 0.9999


def test_an_array_without_geometry_has_its_channels_last(folder, image, expected, tmp_path):
    parser, network = read_script(folder / "one_convolution.ts", tmp_path)
    array = np.asarray(image.dataobj)
    flat = [
        segment(parser, network, *given)
        for given in ((array, {"original_channel_dim": "no_channel"}), (array[..., None], {"original_channel_dim": -1}))
    ]
    assert flat[0].shape == array.shape
    np.testing.assert_array_equal(*flat)


@pytest.mark.slow
def test_the_shipped_bundle_gives_the_mask_of_predict(image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser, network = read_folder(BUNDLE)
    actual = segment(parser, network, *from_dicom(image))
    np.testing.assert_array_equal(actual, mednextv2.predict(BUNDLE, image.get_filename(), device="cpu").labels)
