"""Weights to start from, checked before the first training of a comparison."""

import pytest
import torch
from comparison_helpers import network_file

from mednextv2.bundle import find_bundle
from mednextv2.bundle.run import read_workflow, workflow_files
from mednextv2.comparison.pretrained import check_pretrained
from mednextv2.errors import InputError
from mednextv2.nets import create_mednext
from mednextv2.weights.files import save_file

BUNDLE = find_bundle("mednextv2_hippocampus")
MINI = {"init_filters": 2, "blocks_down": 1, "blocks_bottleneck": 1, "blocks_up": 1, "deep_supervision": True}


def weights(folder, name, about=None, **settings):
    state = create_mednext("v1_s", **{**MINI, "out_channels": 3, **settings}).state_dict()
    save_file(state, folder / name, about)
    return str(folder / name)


def training(folder, file, name="mini"):
    return f"--pretrained {name}", {
        "network": str(network_file(folder, name)),
        "dataset_dir": str(folder),
        "pretrained": str(file),
    }


def test_a_line_says_what_would_be_loaded(tmp_path):
    before = torch.get_rng_state()
    labels = {"labels": ["background", "liver", "tumour"]}
    files = [weights(tmp_path, "a.pt"), weights(tmp_path, "b.pt", out_channels=5), weights(tmp_path, "c.pt", labels)]
    torch.set_rng_state(before)
    same, classes, organ = check_pretrained(BUNDLE, [training(tmp_path, file) for file in files])
    assert torch.equal(torch.get_rng_state(), before)
    assert "newly initialised" not in same
    assert "newly initialised: heads.0.weight" in classes
    assert "(the weights are for the labels [background, liver, tumour], but the labels here are [backgr" in organ


def test_all_files_that_cannot_be_used_are_told_together(tmp_path):
    (tmp_path / "damaged.pt").write_bytes(b"PK\x03\x04 damaged")
    other = weights(tmp_path, "other.pt", init_filters=4)
    good = weights(tmp_path, "good.pt")
    with pytest.raises(InputError) as caught:
        check_pretrained(BUNDLE, [training(tmp_path, file) for file in (tmp_path / "damaged.pt", good, other)])
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"--pretrained mini: {tmp_path / 'damaged.pt'}: not a PyTorch checkpoint, or a damaged one")
    assert "for 4 filters at full resolution (variant), and the configuration is for 2" in second
    for line in (first, second):
        assert line.endswith(". Give other weights for this network with the same option, or leave it out")


def test_a_network_that_cannot_be_built_is_left_to_its_run(tmp_path):
    good = weights(tmp_path, "good.pt")
    (line,) = check_pretrained(BUNDLE, [training(tmp_path, good, "greedy")])
    assert line == f"pretrained {good}: can be read; whether it fits is seen when its network is built"
    (tmp_path / "damaged.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"damaged\.pt: not a PyTorch checkpoint"):
        check_pretrained(BUNDLE, [training(tmp_path, tmp_path / "damaged.pt", "greedy")])


def test_weights_that_have_seen_a_scored_case_are_refused(tmp_path):
    name = read_workflow(workflow_files(BUNDLE, "train")).get_parsed_content("dataset_name")
    seen = weights(tmp_path, "seen.pt", {"dataset": name, "training": ["a", "b"]})
    elsewhere = weights(tmp_path, "elsewhere.pt", {"dataset": "another", "training": ["a", "b"]})
    pairs = [training(tmp_path, file) for file in (seen, elsewhere)]
    assert len(check_pretrained(BUNDLE, pairs, ["c"])) == 2
    with pytest.raises(
        InputError, match=r"seen.pt: was trained on 1 of the 2 cases that are scored \(b, ...\)"
    ) as caught:
        check_pretrained(BUNDLE, pairs, ["b", "c"])
    assert "elsewhere.pt" not in str(caught.value)
