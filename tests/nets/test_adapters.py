"""Networks of other projects in the form of this project's."""

from functools import partial

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import DynUNet, UNet
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets import AdaptedNetwork
from mednextv2.nets.adapters import as_heads, check_patch


class Returns(nn.Module):
    """Return what it is told to."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        assert type(x) is torch.Tensor
        return self.outputs


HEADS = [torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 4, 4)]


@pytest.mark.parametrize("kind", [list, tuple])
def test_of_several_heads_the_first_is_returned_in_eval_mode(kind):
    network = AdaptedNetwork("n", Returns(kind(HEADS)), [8, 8])
    x = torch.zeros(2, 1, 8, 8)
    assert all(a is b for a, b in zip(network.train()(x), HEADS, strict=True))
    assert network.eval()(x) is HEADS[0]


def test_a_single_head_is_a_tensor_in_both_modes():
    for outputs in (HEADS[0], HEADS[:1]):
        network = AdaptedNetwork("n", Returns(outputs), [8, 8])
        assert network.train()(torch.zeros(2, 1, 8, 8)) is network.eval()(torch.zeros(2, 1, 8, 8)) is HEADS[0]


def test_heads_in_one_tensor_are_separated():
    heads = as_heads(torch.arange(2 * 4 * 3 * 8 * 8).view(2, 4, 3, 8, 8), 4)
    assert [tuple(head.shape) for head in heads] == [(2, 3, 8, 8)] * 4
    assert heads[1][0, 0, 0, 0] == 3 * 64


def test_dynunets_heads_are_separated():
    inner = DynUNet(2, 1, 3, [3] * 4, [1, 2, 2, 2], [2, 2, 2], deep_supervision=True, deep_supr_num=2)
    network = AdaptedNetwork("dynunet", inner, [16, 16])
    assert [tuple(head.shape) for head in network(torch.zeros(2, 1, 16, 16))] == [(2, 3, 16, 16)] * 3


@pytest.mark.parametrize("outputs", [{"logits": HEADS[0]}, None, [], [HEADS[0], 3]])
def test_other_outputs_are_refused(outputs):
    with pytest.raises(TypeError, match="where a tensor of logits or a list of them"):
        as_heads(outputs, 4)


def test_a_network_may_be_given_or_built():
    build = partial(UNet, spatial_dims=2, in_channels=1, out_channels=3, channels=(2, 4), strides=(2,))
    for network in (build, build()):
        adapted = AdaptedNetwork("unet", network, [8, 8], 2)
        assert adapted(MetaTensor(torch.zeros(1, 1, 8, 8))).shape == (1, 3, 8, 8)
        assert next(iter(adapted.state_dict())).startswith("network.")


def test_a_patch_that_does_not_fit_is_refused_before_the_network_is_built():
    def never():
        raise AssertionError("built")

    with pytest.raises(InputError, match=r"network n: patch_size \[48, 64\] should be multiples of 32 .*\[64, 64\]"):
        AdaptedNetwork("n", never, [48, 64], 32)
    with pytest.raises(InputError, match=r"network n: has 3 spatial axes, but patch_size \[48, 64\] has 2"):
        AdaptedNetwork("n", never, [48, 64], spatial_dims=[3])
    with pytest.raises(InputError, match=r"network n: patch_size \[32, 32\] is too small .*\[64, 64\]"):
        AdaptedNetwork("n", never, [32, 32], 32, more_than_one=True)


def test_multiples_may_differ_between_axes():
    check_patch("n", [32, 48], [32, 16])
    check_patch("n", [32, 64], 32, more_than_one=True)
    with pytest.raises(InputError, match=r"multiples of \[16, 32\].*\[32, 64\]"):
        check_patch("n", [32, 48], [16, 32])


def test_inputs_of_other_sizes_are_refused():
    network = AdaptedNetwork("n", Returns(HEADS[0]), [8, 8], 4, fixed=True)
    with pytest.raises(InputError, match=r"network n: takes only patches of \[8, 8\] voxels"):
        network(torch.zeros(1, 1, 8, 16))
    free = AdaptedNetwork("n", Returns(HEADS[0]), [8, 8], 4)
    with pytest.raises(InputError, match=r"network n: patch_size \[8, 10\] should be multiples of 4"):
        free(torch.zeros(1, 1, 8, 10))


def test_a_missing_package_is_named_with_what_installs_it():
    def build():
        import no_such_package  # noqa: F401

    with pytest.raises(InputError, match=r"network n: No module named 'no_such_package'.*mednextv2\[networks\]"):
        AdaptedNetwork("n", build, [8, 8])
