"""MONAI's MedNeXt in this project's sizes."""

import pytest
import torch

from mednextv2.errors import InputError
from mednextv2.nets import VARIANTS, create_mednext
from mednextv2.nets.monai_mednext import monai_mednext


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_are_nearly_those_of_our_network(variant):
    with torch.device("meta"):
        theirs, ours = monai_mednext(variant), create_mednext(variant, deep_supervision=True)
    assert parameters(theirs) == pytest.approx(parameters(ours), rel=0.1)


def test_it_has_five_heads_in_training_and_one_in_evaluation():
    network = monai_mednext("v2_tiny", 2, 3, 4)
    x = torch.zeros(1, 3, 32, 32)
    assert [tuple(y.shape[1:]) for y in network.train()(x)] == [(4, 32 // 2**i, 32 // 2**i) for i in range(5)]
    assert network.eval()(x).shape == (1, 4, 32, 32)


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match="variant 'v3'"):
        monai_mednext("v3")
