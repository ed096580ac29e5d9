import pytest
import torch
from baseline_helpers import check_learning, check_parameters, check_refusal, check_shapes, check_training

from mednextv2.nets.baselines import TransBTS


def small(patch_size=(16, 16, 16)):
    return TransBTS(2, 3, patch_size, 8, (1, 1, 1, 1), width=16, layers=2, heads=2, mlp_width=32)


def test_it_has_the_published_number_of_parameters():
    check_parameters(lambda: TransBTS(1, 14), 31.6e6)  # Roy et al. 2023, MedNeXt, table 2
    check_parameters(lambda: TransBTS(4, 4), 32.99e6)  # Wang et al. 2021


@pytest.mark.parametrize("size", [96, 128])
def test_the_output_has_the_size_of_the_patch(size):
    check_shapes(lambda: TransBTS(1, 14, patch_size=(128, 128, 128)), size, [1])


def test_a_step_reaches_every_parameter():
    check_training(small(), (16, 16, 16))


def test_it_learns():
    check_learning(small((16, 16, 16)), (16, 16, 16))


def test_a_patch_that_cannot_be_halved_three_times_is_refused():
    check_refusal(small(), (16, 16, 20), "multiple of 8: spatial axis 2 has 20 voxels")


def test_every_token_sees_the_whole_patch():
    network = small((16, 16, 32))
    x = torch.randn(1, 2, 16, 16, 32, requires_grad=True)
    features = network.transformer(network.to_tokens(x.new_zeros(1, 64, 2, 2, 4) + x.mean()))
    tokens = torch.randn(1, 16, 2, 2, 4, requires_grad=True)
    network.transformer(tokens)[0, :, 0, 0, 0].square().sum().backward()
    assert features.shape == tokens.shape
    assert (tokens.grad.abs().sum((0, 1)) > 0).all()


@pytest.mark.slow
def test_it_computes_at_full_size():
    with torch.no_grad():
        assert TransBTS(1, 14, (96, 96, 96)).eval()(torch.randn(1, 1, 96, 96, 96)).isfinite().all()
