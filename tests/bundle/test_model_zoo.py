"""Every bundle, as it is packed, against the checks of MONAI's model zoo (the steps of its `ci/verify_bundle.py`).

The zoo reads `configs/inference.json`, which packs have. Bundles without weights are given random ones.
"""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from benchmark_helpers import PRETRAIN_MAE
from bundle_helpers import BUNDLES
from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out

from mednextv2.bundle.run import read_workflow, workflow_files
from mednextv2.delivery import pack_bundle
from mednextv2.weights.files import save_file

NAMES = sorted(p.name for p in BUNDLES.iterdir() if p.is_dir())
SCHEMA = Path(__file__).parent / "metadata_schema.json"


def workflow_of(name):
    """The workflow that builds a bundle's network without training it: a bundle without labels has no inference."""
    return "evaluate" if name == PRETRAIN_MAE else "inference"


def random_weights(name, folder):
    parser = read_workflow(workflow_files(BUNDLES / name, workflow_of(name)))
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    save_file(network.state_dict(), folder / "random.pt", {"labels": parser.get_parsed_content("scheme").legend})
    return folder / "random.pt"


@pytest.fixture
def packed(name, tmp_path):
    """The folder of a bundle that was packed and unpacked, and its index."""
    own = BUNDLES / name / "models" / "model.pt"
    archive, *_ = pack_bundle(name, tmp_path / "out", weights=None if own.is_file() else random_weights(name, tmp_path))
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path / "models")
    return tmp_path / "models" / name


def test_every_bundle_is_tried():
    assert len(NAMES) == 14


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_packed_bundle_passes_the_checks_of_the_model_zoo(name, packed):
    metadata = json.loads((packed / "configs" / "metadata.json").read_text())
    for file in ("LICENSE", f"configs/{workflow_of(name)}.json", "models/model.pt", "docs/README.md"):
        assert (packed / file).is_file(), file
    assert metadata["version"] in metadata["changelog"]
    schema = packed / "eval" / "schema.json"  # used as it is where it exists, so that nothing is downloaded
    schema.parent.mkdir()
    shutil.copy(SCHEMA, schema)
    files = {"meta_file": str(packed / "configs" / "metadata.json")}
    verify_metadata(**files, filepath=str(schema))
    files["config_file"] = str(packed / "configs" / f"{workflow_of(name)}.json")
    with torch.no_grad():
        verify_net_in_out("network_def", **files, bundle_root=str(packed))
        script = packed / "models" / "verify_model.ts"
        ckpt_export(
            "network_def", filepath=str(script), ckpt_file=str(packed / "models" / "model.pt"), **files,
            bundle_root=str(packed),
        )  # fmt: skip
    loaded = torch.jit.load(script)
    saved = torch.load(packed / "models" / "model.pt", weights_only=True)
    assert {key: tuple(value.shape) for key, value in loaded.state_dict().items()} == {
        key: tuple(value.shape) for key, value in saved.items()
    }
