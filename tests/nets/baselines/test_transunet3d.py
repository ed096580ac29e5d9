import pytest
import torch
from baseline_helpers import check_learning, check_parameters, check_refusal, check_shapes, check_training
from net_helpers import count

from mednextv2.nets.baselines import TransUNet3D


def small(patch_size=(32, 16, 16), **kwargs):
    return TransUNet3D(2, 3, patch_size, (4, 6, 8, 10, 12), width=16, layers=2, heads=2, mlp_width=32, **kwargs)


def test_its_transformer_is_as_large_as_vit_b():
    """ViT-B has 86 million parameters (Dosovitskiy et al. 2021, table 1), of which 0.6 million embed 16×16 patches."""
    with torch.device("meta"):
        network = TransUNet3D(1, 2)
        assert count(network.transformer) == pytest.approx(85.4e6, rel=0.01)
        # nnU-Net of these channels has as many as the rest of the network
        assert count(network) - count(network.transformer) < 20e6


def test_its_number_of_parameters_is_that_in_the_docstring():
    check_parameters(lambda: TransUNet3D(1, 2), 102.2e6, share=0.001)


@pytest.mark.parametrize("size", [96, 128])
def test_outputs_have_the_sizes_of_deep_supervision(size):
    check_shapes(lambda: TransUNet3D(1, 14), size, [1, 2, 4, 8])


def test_a_step_reaches_every_parameter():
    check_training(small(), (32, 16, 16))


def test_without_deep_supervision_there_is_one_head():
    network = small(deep_supervision=False)
    assert len(network.heads) == 1
    check_training(network, (32, 16, 16))


def test_it_learns():
    check_learning(small((16, 32, 16)), (16, 32, 16), steps=20)


def test_a_patch_that_cannot_be_halved_four_times_is_refused():
    check_refusal(small(), (40, 16, 16), "multiple of 16: spatial axis 0 has 40 voxels")


@pytest.mark.slow
def test_it_computes_at_full_size():
    with torch.no_grad():
        assert TransUNet3D(1, 14).eval()(torch.randn(1, 1, 96, 96, 96)).isfinite().all()
