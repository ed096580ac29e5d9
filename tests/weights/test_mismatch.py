"""What is said about weights that do not fit a network, from the shapes of their tensors alone."""

import pytest
import torch
from torch import nn

from mednextv2.nets import VARIANTS, create_mednext
from mednextv2.weights.mismatch import MedNeXtSize, describe_mismatch, read_size


def state(variant, **settings):
    with torch.device("meta"):
        return create_mednext(variant, **settings).state_dict()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_size_of_a_mednext_is_read_from_its_tensors(variant):
    found = read_size(state(variant, in_channels=2, out_channels=5, kernel_size=5))
    assert found == MedNeXtSize(variant, 2, 5, 5)
    assert read_size(state(variant, spatial_dims=2, init_filters=8)) == MedNeXtSize(None, 1, 2, 3)


def test_other_networks_have_no_such_size():
    assert read_size(nn.Conv3d(1, 2, 3).state_dict()) is None
    assert read_size({}) is None
    broken = {**state("v2_tiny"), "bottleneck.0.expand.weight": torch.zeros(3)}
    assert read_size(broken) is None


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        (
            ("v2_tiny", {}),
            ("v2_small", {}),
            ["of the variant v2_tiny, and the configuration is of v2_small: give --variant v2_tiny"],
        ),
        (("v1_s", {}), ("v1_b", {}), ["of the variant v1_s, and the configuration is of v1_b"]),
        (
            ("v2_tiny", {"out_channels": 3}),
            ("v2_tiny", {"out_channels": 4}),
            ["for 3 classes, and the configuration"],
        ),
    ],
)
def test_two_mednexts_are_told_apart_by_their_settings(theirs, ours, words):
    own, other = (state(variant, **{"out_channels": 3, **settings}) for variant, settings in (ours, theirs))
    text = describe_mismatch(own, other)
    assert all(word in text for word in words), text


class Other(nn.Module):
    def __init__(self, channels=1, width=8, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(channels, width, 3), nn.Conv3d(width, 2 * width, 3))
        self.out = nn.ModuleList([nn.Conv3d(2 * width, classes, 1), nn.Conv3d(width, classes, 1)])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": 4}, "They are for 3 classes, and the configuration is for 4."),
        ({"width": 48}, "Its first layer has 8 filters, that of the configuration 48 (width)."),
        ({"channels": 2}, "They are for 1 input channel, and the configuration is for 2."),
        (
            {"channels": 2, "classes": 4},
            "They are for 1 input channel, and the configuration is for 2. They are for 3",
        ),
    ],
)
def test_networks_of_other_code_are_told_apart_by_their_layers(settings, words):
    assert describe_mismatch(Other(**settings).state_dict(), Other().state_dict()).startswith(words)


def test_networks_without_a_common_name_are_named():
    tiny = state("v2_tiny", out_channels=3)
    text = describe_mismatch(Other().state_dict(), tiny)
    assert text.startswith("They are of MedNeXt v2_tiny with 1 input channel, 3 classes and kernels of 3 voxels: leave")
    text = describe_mismatch(tiny, Other().state_dict())
    assert "it begins with body.0.weight, the network with stem.weight" in text
    assert "give its --network" in text
    assert describe_mismatch(tiny, tiny) == ""


def test_networks_for_volumes_and_for_2d_images_are_told_apart():
    flat, solid = (state("v2_tiny", spatial_dims=axes) for axes in (2, 3))
    assert describe_mismatch(flat, solid).startswith(
        "It is a network for volumes, that of the configuration for 2D images."
    )
    assert describe_mismatch(solid, flat).startswith(
        "It is a network for 2D images, that of the configuration for volumes."
    )
