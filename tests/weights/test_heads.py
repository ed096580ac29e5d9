"""The layers of a network that make its outputs."""

from pretrained_helpers import our_unet
from torch import nn

from mednextv2.nets import MedNeXt
from mednextv2.weights.heads import is_head, output_tensors


def test_heads_of_mednext_have_names():
    found = output_tensors(MedNeXt(init_filters=2, deep_supervision=True), None)
    assert list(found) == [f"heads.{n}.{leaf}" for n in range(5) for leaf in ("weight", "bias")]
    assert {*found.values()} == {0}
    assert is_head("heads.0.weight")
    assert not is_head("stem.weight")


def test_heads_of_nnunet_have_names_whatever_else_has_as_many_outputs():
    """With 8 classes, a shortcut of the second stage, which has 8 features, is no head."""
    found = output_tensors(our_unet(outputs=8), 8)
    assert all(name.startswith("network.decoder.seg_layers.") for name in found)
    assert len(found) == 2 * 3


def test_heads_of_others_are_known_by_their_shapes():
    network = nn.Sequential(
        nn.Conv3d(1, 5, 3), nn.Conv3d(5, 5, 1), nn.ConvTranspose3d(5, 5, 2, 2), nn.Linear(5, 5, bias=False)
    )
    assert output_tensors(network, 5) == {"1.weight": 0, "1.bias": 0, "2.weight": 1, "2.bias": 0, "3.weight": 0}
    assert output_tensors(network, 4) == {}
    assert output_tensors(nn.Conv3d(1, 5, 1), 5) == {"weight": 0, "bias": 0}
