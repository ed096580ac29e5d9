"""The choice of resolutions whose blocks are recomputed, from the estimate and the free memory."""

import pytest
import torch
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets import create_mednext
from mednextv2.nets.mednext import MedNeXt
from mednextv2.nets.training_memory import training_memory
from mednextv2.training import activation_checkpointing, set_checkpointing

SIZE = (2, 64, 64, 64)


def flags(network):
    """Whether the blocks of each resolution are recomputed, from full resolution to the bottleneck."""
    parts = [*network.encoder, network.bottleneck]
    assert [s[0].activation_checkpointing for s in reversed(network.decoder)] == [
        s[0].activation_checkpointing for s in network.encoder
    ]
    return [part[0].activation_checkpointing for part in parts]


@pytest.fixture(scope="module")
def network():
    return create_mednext("v2_tiny", deep_supervision=True)


def chosen(network, monkeypatch, free, mode="auto", device="cpu"):
    monkeypatch.setattr(activation_checkpointing, "free_memory", lambda: free)
    assert set_checkpointing(network, mode, "v2_tiny", SIZE, device) is network
    return flags(network)


def estimate(levels):
    return training_memory("v2_tiny", SIZE[1:], SIZE[0], checkpointing=[n < levels for n in range(5)])


def test_as_few_resolutions_as_are_needed_are_recomputed(network, monkeypatch, caplog):
    caplog.set_level("INFO")
    assert chosen(network, monkeypatch, 1e12) == [False] * 5
    assert caplog.text == ""
    for levels in (1, 2, 3, 4, 5):
        free = 1.00001 * estimate(levels) / 0.9  # a tenth is left free
        assert chosen(network, monkeypatch, free) == [n < levels for n in range(5)]
    assert chosen(network, monkeypatch, 0.999 * estimate(0) / 0.9) == [True, False, False, False, False]
    assert "blocks are recomputed in the backward pass (full resolution), with which it needs about" in caplog.text
    assert "still more" not in caplog.text
    assert chosen(network, monkeypatch, 0.5 * estimate(5)) == [True] * 5
    assert "That is still more than is free; lower --batch_size, --context or --patch_size" in caplog.text


def test_switches_need_no_estimate(network, monkeypatch):
    assert chosen(network, monkeypatch, 0.0, mode=False) == [False] * 5
    assert chosen(network, monkeypatch, 1e12, mode=True) == [True] * 5


def test_processes_of_one_machine_share_its_memory(network, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert chosen(network, monkeypatch, 1.5 * estimate(0) / 0.9)[0] is True
    assert chosen(network, monkeypatch, 2.1 * estimate(0) / 0.9)[0] is False


def test_on_a_gpu_its_own_memory_counts(network, monkeypatch):
    free = {"free": 0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["free"], 1e12))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2**20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    assert chosen(network, monkeypatch, 1e12, device="cuda")[0] is True
    free["free"] = 10 * estimate(0)
    assert chosen(network, monkeypatch, 0.0, device="cuda")[0] is False


def test_other_networks_are_left_alone_or_refused():
    other = nn.Conv3d(1, 2, 1)
    assert set_checkpointing(other, "auto", "v2_tiny", SIZE, "cpu") is other
    assert set_checkpointing(other, False, "v2_tiny", SIZE, "cpu") is other
    with pytest.raises(InputError, match="only the blocks of MedNeXt can be recomputed; leave it at auto"):
        set_checkpointing(other, True, "v2_tiny", SIZE, "cpu")
    with pytest.raises(InputError, match="checkpointing 'yes': should be auto, True or False"):
        set_checkpointing(MedNeXt(init_filters=2), "yes", "v2_tiny", SIZE, "cpu")
