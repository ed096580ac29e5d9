import pytest
import torch
from baseline_helpers import check_learning, check_parameters, check_refusal, check_shapes, check_training

from mednextv2.nets.baselines import UXNet3D
from mednextv2.nets.baselines.uxnet3d import _Block


def small():
    return UXNet3D(2, 3, features=(4, 8, 12, 16), depths=(1, 1, 2, 1), hidden_channels=20, kernel_size=3)


def test_it_has_the_published_number_of_parameters():
    check_parameters(lambda: UXNet3D(1, 14), 53.0e6)  # Lee et al. 2023, table 1


@pytest.mark.parametrize("size", [96, 128])
def test_the_output_has_the_size_of_the_patch(size):
    check_shapes(lambda: UXNet3D(1, 14), size, [1])


def test_a_step_reaches_every_parameter():
    check_training(small(), (16, 32, 32))


def test_it_learns():
    check_learning(small(), (16, 32, 16))


def test_a_patch_that_cannot_be_halved_four_times_is_refused():
    check_refusal(small(), (32, 24, 32), "multiple of 16: spatial axis 1 has 24 voxels")


def test_channels_of_a_block_meet_only_in_its_norm():
    """Both pointwise convolutions are depthwise: without the norm, a channel depends on itself alone."""
    block = _Block(3, 7)
    block.norm = torch.nn.Identity()
    torch.nn.init.ones_(block.scale)
    x = torch.randn(1, 3, 8, 8, 8)
    changed = x.clone()
    changed[:, 1] += 1
    differences = (block(changed) - block(x)).abs().amax((0, 2, 3, 4))
    assert differences[[0, 2]].max() == 0
    assert differences[1] > 0.1


def test_a_block_sees_seven_voxels_along_each_axis():
    block = _Block(2, 7)
    x = torch.randn(1, 2, 15, 15, 15, requires_grad=True)
    block(x)[0, 0, 7, 7, 7].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()
    assert [seen.amin(0).tolist(), seen.amax(0).tolist()] == [[4] * 3, [10] * 3]


@pytest.mark.slow
def test_it_computes_at_full_size():
    with torch.no_grad():
        assert UXNet3D(1, 14).eval()(torch.randn(1, 1, 96, 96, 96)).isfinite().all()
