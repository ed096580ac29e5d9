import pytest
import torch
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets import AdaptedNetwork, create_mednext
from mednextv2.nets.nnunet import plain_conv_unet, residual_encoder_unet
from mednextv2.nets.parts import encoder_of, stages_from_output

SMALL = {"init_filters": 2, "out_channels": 3, "deep_supervision": True}
NNUNET = ((32, 32, 32), (1.0, 1.0, 1.0), 1, 3, 4)  # three halvings


def parameters(modules):
    return [p for module in modules for p in module.parameters()]


def adapted(build, **more):
    return AdaptedNetwork("other", lambda: build, (32, 32, 32), **more)


def test_the_encoder_of_mednext_is_all_above_the_decoder():
    network = create_mednext("v2_tiny", **SMALL)
    own = {id(p) for p in parameters(encoder_of(network))}
    names = {name.split(".")[0] for name, p in network.named_parameters() if id(p) in own}
    others = {name.split(".")[0] for name, p in network.named_parameters() if id(p) not in own}
    assert names == {"stem", "encoder", "down", "bottleneck"}
    assert others == {"up", "decoder", "heads"}


@pytest.mark.parametrize("build", [plain_conv_unet, residual_encoder_unet])
def test_the_encoder_of_another_network_is_its_module_of_this_name(build):
    network = adapted(build(*NNUNET))
    assert encoder_of(network) == [network.network.encoder]


def test_networks_without_an_encoder_are_refused():
    with pytest.raises(InputError, match="the network other has no part with the name encoder; its parts are 0, 1"):
        encoder_of(adapted(nn.Sequential(nn.Conv3d(1, 2, 1), nn.Conv3d(2, 3, 1))))
    with pytest.raises(InputError, match="no part with the name encoder"):
        encoder_of(adapted(nn.ModuleDict({"encoder": nn.Identity(), "head": nn.Conv3d(1, 2, 1)})))
    with pytest.raises(InputError, match="nothing else of the network other could be trained"):
        encoder_of(adapted(nn.ModuleDict({"encoder": nn.Conv3d(1, 2, 1)})))


def test_stages_of_mednext_from_the_output_to_the_input():
    """The distance of a layer is the number of stages that the output's gradient passes on the path without skips."""
    network = create_mednext("v2_tiny", **SMALL)
    names = {id(p): name for name, p in network.named_parameters()}
    stages = stages_from_output(network)
    found = [{".".join(names[id(p)].split(".")[:2]) for p in parameters(modules)} for _, modules in stages]
    assert found == [
        {"heads.0", "heads.1", "heads.2", "heads.3", "heads.4"},
        {"decoder.3", "up.3"},
        {"decoder.2", "up.2"},
        {"decoder.1", "up.1"},
        {"decoder.0", "up.0"},
        {"bottleneck.0", "bottleneck.1", "down.3"},
        {"encoder.3", "down.2"},
        {"encoder.2", "down.1"},
        {"encoder.1", "down.0"},
        {"encoder.0"},
        {"stem.weight", "stem.bias"},
    ]
    assert [name for name, _ in stages] == [
        "heads", "decoder, full resolution", "decoder, 1/2 of the resolution", "decoder, 1/4 of the resolution",
        "decoder, 1/8 of the resolution", "bottleneck", "encoder, 1/8 of the resolution",
        "encoder, 1/4 of the resolution", "encoder, 1/2 of the resolution", "encoder, full resolution", "stem",
    ]  # fmt: skip


def test_the_order_is_that_in_which_layers_act():
    network = create_mednext("v2_tiny", out_channels=3).eval()
    called = []
    for distance, (_, modules) in enumerate(stages_from_output(network)):
        for module in modules:
            for leaf in module.modules():
                if not [*leaf.children()]:
                    leaf.register_forward_pre_hook(lambda *_, d=distance: called.append(d))
    from mednextv2.ops import use

    with torch.no_grad(), use("torch"):
        network(torch.zeros(1, 1, 16, 16, 16))
    assert called == sorted(called, reverse=True)
    assert {0, 10} <= {*called}


@pytest.mark.parametrize("build", [plain_conv_unet, residual_encoder_unet])
def test_stages_of_nnunet_hold_every_parameter_once(build):
    network = adapted(build(*NNUNET))
    stages = stages_from_output(network)
    found = [id(p) for _, modules in stages for p in parameters(modules)]
    assert sorted(found) == sorted(id(p) for p in network.parameters())
    names = [name for name, _ in stages]
    middle = ["bottleneck", "encoder, 1/4 of the resolution", "encoder, 1/2 of the resolution"]
    decoder = ["decoder, full resolution", "decoder, 1/2 of the resolution", "decoder, 1/4 of the resolution"]
    stem = ["stem"] if build is residual_encoder_unet else []
    assert names == ["heads", *decoder, *middle, "encoder, full resolution", *stem]


def test_other_networks_have_no_known_order():
    with pytest.raises(InputError, match="layer_decay: the order of the layers of the network other is not known"):
        stages_from_output(adapted(nn.Sequential(nn.Conv3d(1, 2, 1))))
