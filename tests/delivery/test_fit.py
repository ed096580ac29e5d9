import re

import pytest
import torch
from delivery_helpers import HIPPOCAMPUS, refused

from mednextv2.delivery.fit import check_fit
from mednextv2.nets import create_mednext
from mednextv2.weights.files import load_file, save_file


@pytest.fixture(scope="module")
def state():
    return load_file(HIPPOCAMPUS / "models" / "model.pt")


def complaint(state, path, about=None):
    save_file(state, path, about)
    return refused(check_fit, HIPPOCAMPUS, path)


def test_weights_of_the_bundle_fit():
    check_fit(HIPPOCAMPUS, HIPPOCAMPUS / "models" / "model.pt")


def test_every_tensor_that_differs_is_listed(state, tmp_path):
    other = {k: v for k, v in state.items() if k not in ("stem.bias", "heads.0.bias")}
    other["strange.weight"] = torch.zeros(1)
    other["heads.0.weight"] = torch.zeros(5, *state["heads.0.weight"].shape[1:])
    message = complaint(other, tmp_path / "other.pt")
    assert message.startswith(
        f"{tmp_path / 'other.pt'}: the weights do not fit the network of {HIPPOCAMPUS / 'configs'}"
    )
    lines = message.splitlines()[1:]
    assert len(lines) == 4
    assert "  not in the file: stem.bias" in lines
    assert "  not in the network: strange.weight" in lines
    shape = tuple(state["heads.0.weight"].shape)
    assert f"  of another shape: heads.0.weight {(5, *shape[1:])} in the file, {shape} in the network" in lines


def test_of_another_network_what_it_is_stands_above_a_list_that_ends(tmp_path):
    other = create_mednext("v1_s", out_channels=3, deep_supervision=True).state_dict()
    message = complaint(other, tmp_path / "other.pt", {"network": "mednext", "settings": {"variant": "v1_s"}})
    assert "they were trained with --variant v1_s" in message
    lines = [line.strip() for line in message.splitlines()[1:]]
    assert len(lines) == 16 + 16  # the names are the same but for GRN; so are the numbers of dimensions
    assert all(line.startswith("not in the file: ") for line in lines[:16])
    assert all(line.startswith("of another shape: ") for line in lines[16:])
    assert re.fullmatch(r"of another shape: \d+ more", lines[-1])


def test_a_checkpoint_with_more_in_it_is_refused(state, tmp_path):
    assert "is no bare state dict" in complaint({"model": state, "epoch": 3}, tmp_path / "checkpoint.pt")


def test_a_file_with_nothing_in_it_is_refused(tmp_path):
    assert "is no bare state dict" in complaint({}, tmp_path / "nothing.pt")


def test_numbers_of_another_kind_and_broken_ones_are_refused(state, tmp_path):
    doubled = {k: v.double() if k == "stem.bias" else v for k, v in state.items()}
    assert "stem.bias is torch.float64" in complaint(doubled, tmp_path / "a.pt")
    broken = {k: v * float("nan") if k == "stem.bias" else v for k, v in state.items()}
    assert "NaN or infinite numbers" in complaint(broken, tmp_path / "b.pt")


def test_weights_for_other_labels_are_refused(state, tmp_path):
    message = complaint(state, tmp_path / "a.pt", {"labels": ["background", "left", "right"]})
    assert "the weights are for the labels [background, left, right]" in message


def test_weights_of_another_spacing_are_refused(state, tmp_path):
    save_file(state, tmp_path / "same.pt", {"settings": {"spacing": [1.0, 1.0, 1.0]}})
    check_fit(HIPPOCAMPUS, tmp_path / "same.pt")
    message = complaint(state, tmp_path / "a.pt", {"settings": {"spacing": [2.0, 2.0, 3.0]}})
    assert "resampled to a spacing of [2.0, 2.0, 3.0] mm" in message
    assert "resamples to [1.0, 1.0, 1.0]; enter the former in task.yaml and build the bundle again" in message
