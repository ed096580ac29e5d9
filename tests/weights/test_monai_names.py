"""MONAI's MedNeXt: its names, and what does not fit in its larger sizes."""

import pytest
import torch
from monai.networks.nets import MedNeXt as MonaiMedNeXt
from monai.networks.nets.mednext import create_mednext as create_monai
from pretrained_helpers import randomised

from mednextv2.nets import MedNeXt, create_mednext
from mednextv2.weights.monai_names import depends_on_down_ratio, is_monai, rename, translate


def pair(**settings):
    """The same small network of MONAI and of this project."""
    shared = {"spatial_dims": 2, "init_filters": 4, "out_channels": 3, "kernel_size": 3, "deep_supervision": True}
    depth = {"blocks_down": (1, 2, 1, 2), "blocks_bottleneck": 1, "blocks_up": (2, 1, 2, 1)}
    theirs = {**shared, **depth, "use_residual_connection": True, "global_resp_norm": False, **settings}
    return randomised(MonaiMedNeXt(**theirs)), MedNeXt(**{**theirs, "global_resp_norm": False})


def assert_same_outputs(theirs, ours, x):
    with torch.no_grad():
        expected, actual = theirs.train()(x), ours.train()(x)
    assert len(actual) == len(expected) == 5
    for ours_at, theirs_at in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours_at, theirs_at, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"in_channels": 2}, {"use_residual_connection": False}], ids=str)
def test_a_network_of_monai_computes_the_same_here(settings):
    theirs, ours = pair(**settings)
    ours.load_state_dict(translate(theirs.state_dict()))
    assert_same_outputs(theirs, ours, torch.randn(1, settings.get("in_channels", 1), 32, 64))


def test_names_and_shapes_of_the_size_s_are_all_ours():
    ours = create_mednext("v1_s", out_channels=3, deep_supervision=True).state_dict()
    translated = translate(create_monai("S", out_channels=3, deep_supervision=True).state_dict())
    assert {name: tensor.shape for name, tensor in translated.items()} == {n: t.shape for n, t in ours.items()}


@pytest.mark.parametrize("size", ["B", "M", "L"])
def test_only_the_two_narrower_down_blocks_of_the_larger_sizes_do_not_fit(size):
    with torch.device("meta"):
        ours = create_mednext(f"v1_{size.lower()}", out_channels=3, deep_supervision=True).state_dict()
        theirs = translate(create_monai(size, out_channels=3, deep_supervision=True).state_dict())
    assert theirs.keys() == ours.keys()
    unlike = [name for name in ours if theirs[name].shape != ours[name].shape]
    assert all(depends_on_down_ratio(name) for name in unlike)
    assert {name.split(".")[1] for name in unlike} == {"0", "1"}


def test_names_of_others_are_not_taken_for_monai():
    assert is_monai(pair()[0].state_dict())
    assert not is_monai(pair()[1].state_dict())
    assert rename("enc_stages.2.1.global_resp_gamma") == "encoder.2.1.grn.gamma"
    assert rename("down_blocks.3.res_conv.bias") == "down.3.shortcut.bias"
    assert rename("anything.else") == "anything.else"
