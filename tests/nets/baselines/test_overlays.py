"""The baselines as `--network`: the files in recipes/networks."""

import pytest
import torch
from bundle_helpers import HIPPOCAMPUS, QUICK
from net_helpers import count

from mednextv2.bundle import run_bundle
from mednextv2.bundle.run import read_workflow, workflow_files
from mednextv2.errors import InputError, find_input_error
from mednextv2.nets import baselines
from mednextv2.weights import read_about

NETWORKS = {
    "uxnet3d": (baselines.UXNet3D, {"network_hidden": 8}, [16, 24, 16], "multiples of 16"),
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
    with pytest.raises(Exception, match="") as refused:  # noqa: PT011  # MONAI wraps it
        build(name, patch_size=patch)
    found = find_input_error(refused.value)
    assert isinstance(found, InputError)
    assert words in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_trained_and_evaluated_by_the_workflows(name, phantom, tmp_path):
    _, small, _, _ = NETWORKS[name]
    shared = {"network": name, "dataset_dir": phantom, **small, "num_workers": 0}
    length = {k: QUICK[k] for k in ("batch_size", "epochs", "iterations_per_epoch", "val_iterations")}
    train = {**shared, **length, "output_dir": tmp_path / "training", "prepared_dir": tmp_path / "prepared"}
    run_bundle(HIPPOCAMPUS, "train", **train, patch_size=[32, 32, 32])
    weights = tmp_path / "training" / "model.pt"
    assert read_about(weights)["network"] == name
    evaluate = {"weights": weights, "output_dir": tmp_path / "scores", "test_mirror_axes": [], "overlap": 0.0}
    run_bundle(HIPPOCAMPUS, "evaluate", dataset_dir=phantom, num_workers=0, **evaluate)  # the weights know the network
    assert (tmp_path / "scores" / "cases.csv").is_file()
