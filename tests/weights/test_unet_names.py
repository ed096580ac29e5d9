"""U-Nets of nnU-Net and nnssl: several names of one tensor, and other numbers of stages."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from pretrained_helpers import as_sparse, features_of, our_plain_unet, our_unet, their_unet

from mednextv2.nets import create_mednext
from mednextv2.weights.unet_names import PLAIN, RESIDUAL, translate


def loaded(state, network):
    """Load what a translation has for a network, and return the translation."""
    found = translate(state, network.state_dict())
    fitting = {n: t for n, t in found.tensors.items() if t.shape == network.state_dict()[n].shape}
    network.load_state_dict(fitting, strict=False)
    return found


@pytest.mark.parametrize("prefix", ["", "net.", "model.backbone."])
def test_a_residual_unet_computes_the_same_here(prefix):
    theirs, ours = their_unet(outputs=3), our_unet()
    found = loaded({f"{prefix}{name}": tensor for name, tensor in theirs.state_dict().items()}, ours)
    assert found.kind is RESIDUAL
    assert found.tensors.keys() == ours.state_dict().keys()
    assert (found.absent, found.left, found.remarks) == ({}, {}, [])
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_a_plain_unet_computes_the_same_here():
    theirs, ours = their_unet(outputs=3, kind=PlainConvUNet), our_plain_unet()
    found = loaded(theirs.state_dict(), ours)
    assert found.kind is PLAIN
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_of_a_sparse_pretraining_only_what_was_trained_is_taken():
    theirs, ours = their_unet(outputs=3), our_unet()
    state = as_sparse(theirs.state_dict())
    changed = [name for name, tensor in theirs.state_dict().items() if not torch.equal(tensor, state[name])]
    assert {"encoder.stem.convs.0.conv.weight", "encoder.stem.convs.0.norm.bias"} < {*changed}
    found = loaded(state, ours)
    (remark,) = found.remarks
    assert "the file is of sparse pretraining, in which" in remark
    assert found.left == {}
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_a_network_with_fewer_stages_takes_those_of_the_same_resolution():
    theirs, ours = their_unet(outputs=3, stages=5), our_unet()
    found = loaded(theirs.state_dict(), ours)
    assert found.tensors.keys() == ours.state_dict().keys()
    assert {*found.left.values()} == {"of a stage that the network does not have"}
    assert found.names["network.decoder.stages.0.convs.0.conv.weight"].startswith("decoder.stages.1.convs.0")
    assert "the file has 5 stages, the network 4" in found.remarks[0]
    own = ours.network.state_dict()
    for name, tensor in theirs.state_dict().items():
        if name.startswith(("encoder.stages.3.", "encoder.stem.")):
            assert torch.equal(own[name], tensor), name
    for mine, others in ((0, 1), (1, 2), (2, 3)):
        for part in ("transpconvs", "seg_layers"):
            name = f"decoder.{part}.%d.weight"
            assert torch.equal(own[name % mine], theirs.state_dict()[name % others])


def test_a_network_with_more_stages_gets_new_ones_at_the_lowest_resolution():
    theirs, ours = their_unet(outputs=3, stages=3), our_unet()
    found = loaded(theirs.state_dict(), ours)
    assert {*found.absent.values()} == {"of a stage that the file does not have"}
    stages = {name.split("blocks")[0] for name in found.absent if name.startswith("network.encoder.")}
    assert stages == {"network.encoder.stages.3."}
    lowest = {name.split(".")[3] for name in found.absent if name.startswith("network.decoder.transpconvs")}
    assert lowest == {"0"}
    assert found.tensors.keys() | found.absent.keys() == ours.state_dict().keys()
    assert found.left == {}


def test_an_encoder_alone_is_taken():
    state = {name: t for name, t in their_unet().state_dict().items() if name.startswith("encoder.")}
    ours = our_unet()
    found = loaded({**state, "projection.weight": torch.zeros(3)}, ours)
    assert {*found.absent.values()} == {"the file has an encoder only"}
    assert found.left == {"projection.weight": "no part of the U-Net"}
    assert features_of(ours.network, torch.randn(1, 1, 32, 32, 32)).shape[1] == 4


def test_what_is_of_another_kind_has_no_name_in_common():
    plain, residual = their_unet(kind=PlainConvUNet).state_dict(), their_unet().state_dict()
    assert translate(create_mednext("v2_tiny").state_dict(), our_unet().state_dict()) is None
    for state, network in ((plain, our_unet()), (residual, our_plain_unet()), (plain, create_mednext("v2_tiny"))):
        found = translate(state, network.state_dict())
        assert found.tensors.keys().isdisjoint(network.state_dict())
        assert found.kind is (PLAIN if state is plain else RESIDUAL)
