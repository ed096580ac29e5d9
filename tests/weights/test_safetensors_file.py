"""Weights in the format safetensors."""

import json
import sys

import pytest
import torch
from pretrained_helpers import our_unet, their_unet
from safetensors.torch import load_file as load_theirs
from safetensors.torch import load_model, save_model
from safetensors.torch import save_file as save_theirs

from mednextv2.errors import InputError
from mednextv2.nets import create_mednext
from mednextv2.weights import load_file, load_weights, read_about
from mednextv2.weights.files import save_file
from mednextv2.weights.safetensors_file import is_safetensors, needs_safetensors

ABOUT = {"dataset": "Task04", "labels": ["background", "é"], "epoch": 3, "training": ["a", "b"]}


@pytest.fixture
def file(tmp_path):
    save_file(create_mednext("v2_tiny", 2, out_channels=3).state_dict(), tmp_path / "model.safetensors", ABOUT)
    return tmp_path / "model.safetensors"


def test_tensors_and_the_record_come_back(file):
    network = create_mednext("v2_tiny", 2, out_channels=3)
    assert is_safetensors(file)
    load_weights(network, file)
    theirs = load_theirs(file)
    assert theirs.keys() == network.state_dict().keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in network.state_dict().items())
    assert read_about(file) == ABOUT


def test_the_record_is_json_in_the_header(file):
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    assert metadata["format"] == "pt"
    assert json.loads(metadata["mednextv2"]) == ABOUT


def test_the_name_of_the_file_does_not_matter_for_reading(file, tmp_path):
    file.rename(tmp_path / "weights.bin")
    assert "stem.weight" in load_file(tmp_path / "weights.bin")
    assert read_about(tmp_path / "weights.bin") == ABOUT


def test_tensors_with_several_names_are_stored_once(tmp_path):
    network, again = our_unet(), our_unet()
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    assert len(load_theirs(tmp_path / "a.safetensors")) == len({t.data_ptr() for t in network.state_dict().values()})
    assert load_file(tmp_path / "a.safetensors").keys() == network.state_dict().keys()
    load_weights(again, tmp_path / "a.safetensors")
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_the_packages_own_functions_for_shared_tensors_read_and_write_the_same(tmp_path):
    network, again = their_unet(), their_unet()
    save_model(network, tmp_path / "theirs.safetensors")
    state = load_file(tmp_path / "theirs.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    save_file(network.state_dict(), tmp_path / "ours.safetensors")
    load_model(again, tmp_path / "ours.safetensors")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in network.state_dict().items())


def test_parts_and_layouts_of_tensors_are_kept_by_value(tmp_path):
    whole = torch.randn(4, 6)
    state = {"a": whole[1:], "b": whole.T, "c": torch.zeros(0), "d": torch.zeros(0), "e": torch.tensor(3.0).half()}
    save_file(state, tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in state.items())


@pytest.mark.parametrize("cut", [4, 40, 2000, -1])
def test_a_file_that_is_cut_off_is_told(cut, file):
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"not a file of safetensors, or a damaged one \(.*copy the file again"):
        load_file(file)
    assert read_about(file) in ({}, ABOUT)


@pytest.mark.parametrize(
    "header", [b"{}", b"[", b'{"__metadata__": 3}', b'{"__metadata__": {"mednextv2": "3"}}', b'{"__metadata__": {}}']
)
def test_a_header_without_a_record_records_nothing(header, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert read_about(tmp_path / "a.safetensors") == {}
    save_theirs({"a": torch.zeros(2)}, tmp_path / "b.safetensors", {"step": "1000"})
    assert read_about(tmp_path / "b.safetensors") == {}
    assert load_file(tmp_path / "b.safetensors").keys() == {"a"}


def test_without_the_package_the_remedy_is_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for function in (lambda: load_file(file), lambda: save_file({"a": torch.zeros(1)}, file)):
        with pytest.raises(
            InputError, match=r"needs the package safetensors, .* pip install 'mednextv2\[safetensors\]'"
        ):
            function()
    with pytest.raises(InputError, match=r"^save_safetensors: needs the package"):
        needs_safetensors("save_safetensors")
    assert read_about(file) == ABOUT  # for which the package is not needed
