"""The baselines as `--network`: the files in recipes/networks."""

import pytest
import torch
from bundle_helpers import HIPPOCAMPUS
from net_helpers import count

from mednextv2.bundle.run import read_workflow, workflow_files
from mednextv2.errors import InputError, find_input_error
from mednextv2.nets import baselines

NETWORKS = {
    "uxnet3d": (baselines.UXNet3D, {"network_filters": 4}, [16, 24, 16], "multiples of 16"),
    "nnformer": (baselines.NnFormer, {"network_width": 12}, [32, 48, 32], "multiples of 32"),
    "transbts": (baselines.TransBTS, {"network_filters": 8}, [16, 20, 16], "multiples of 8"),
    "transunet3d": (baselines.TransUNet3D, {"network_layers": 1}, [16, 16, 40], "multiples of 16"),
}


def build(name, **settings):
    parser = read_workflow(workflow_files(HIPPOCAMPUS, "train", name))
    parser.update(settings)
    with torch.device("meta"):
        return parser.get_parsed_content("network_def")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_builds_the_network_in_its_published_size(name):
    kind, small, _, _ = NETWORKS[name]
    network = build(name, patch_size=[64, 64, 64])
    assert isinstance(network.network, kind)
    own = {"patch_size": [64, 64, 64]} if name.startswith("trans") else {}
    with torch.device("meta"):
        assert count(network) == count(kind(in_channels=1, out_channels=3, **own))
    smaller = build(name, patch_size=[64, 64, 64], **small)
    assert count(smaller) < count(network)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_patch_that_it_cannot_take_is_refused(name):
    _, _, patch, words = NETWORKS[name]
    with pytest.raises(Exception, match=r"network_def|network") as refused:  # MONAI's, about the one that is sought
        build(name, patch_size=patch)
    found = find_input_error(refused.value)
    assert isinstance(found, InputError)
    assert words in str(found)
