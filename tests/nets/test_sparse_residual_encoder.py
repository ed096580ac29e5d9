"""The sparse walk over nnU-Net's residual encoder: against a plain definition, and blind to hidden voxels."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual import BottleneckD
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from masked_helpers import cells, gathered, hidden_voxels, parameter_gradients, plain_resenc, seen_positions
from net_helpers import lively, tiny
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets import nnunet
from mednextv2.nets import sparse_residual_encoder as sparse

SPACES = {"3D": [32, 32, 32], "thick slices": [32, 32, 16], "2D": [64, 64]}
SPACINGS = {"3D": [1.0, 1, 1], "thick slices": [1.0, 1, 3], "2D": [1.0, 1]}
GRIDS = {
    "3D": [(4, 4, 4), (2, 2, 2), (8, 8, 8)],
    "thick slices": [(2, 2, 2), (2, 4, 8)],
    "2D": [(8, 8), (4, 4), (2, 4)],
}


def network_and_image(kind):
    network = lively(nnunet.residual_encoder_unet(SPACES[kind], SPACINGS[kind], 2, 2, 4)).double()
    return network, torch.randn(2, 2, *SPACES[kind], dtype=torch.float64)


def rows_of(stages, image, visible, encoder):
    """Take the visible positions out of each stage."""
    found = []
    for y, stride in zip(stages, sparse.total_strides(encoder), strict=True):
        masks = seen_positions(visible, image.shape[2:], stride)
        assert (y[~masks[:, None].expand_as(y)] == 0).all()
        found.append(torch.cat([gathered(y[n : n + 1], mask) for n, mask in enumerate(masks)]))
    return found


def small(dims=3, **changes):
    """A small encoder of other parts than nnU-Net's own."""
    settings = {
        "n_stages": 3,
        "features_per_stage": [8, 16, 16],
        "conv_op": nn.Conv3d,
        "kernel_sizes": 3,
        "strides": [[1] * 3, [2] * 3, [2, 2, 1]],
        "n_blocks_per_stage": 2,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }
    return lively(ResidualEncoder(2, return_skips=True, **{**settings, **changes})).double()


@pytest.mark.parametrize("kind", SPACES)
def test_all_stages_and_gradients_are_those_of_gathered_positions(kind):
    network, x = network_and_image(kind)
    for grid in GRIDS[kind][:1] if kind == "3D" else GRIDS[kind]:
        visible = cells(*grid)
        found = rows_of(sparse.encode(network.encoder, x, visible), x, visible, network.encoder)
        expected = [torch.cat(samples) for samples in plain_resenc(network.encoder, x, visible)]
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
        gradients = parameter_gradients(network.encoder, found)
        wanted = parameter_gradients(network.encoder, expected)
        assert set(gradients) == set(wanted) == {k for k, _ in network.encoder.named_parameters()}
        torch.testing.assert_close(gradients, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("grid", GRIDS["3D"][1:], ids=str)
def test_cells_of_every_size_give_what_gathered_positions_do(grid):
    network, x = network_and_image("3D")
    visible = cells(*grid, seen=0.25)
    found = rows_of(sparse.encode(network.encoder, x, visible), x, visible, network.encoder)
    expected = [torch.cat(samples) for samples in plain_resenc(network.encoder, x, visible)]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_bottleneck_blocks_have_masks_of_two_resolutions():
    encoder = small(block=BottleneckD, bottleneck_channels=4)
    x, visible = torch.randn(2, 2, 16, 16, 8, dtype=torch.float64), cells(2, 2, 2)
    found = rows_of(sparse.encode(encoder, x, visible), x, visible, encoder)
    expected = [torch.cat(samples) for samples in plain_resenc(encoder, x, visible)]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["3D", "2D"])
def test_hidden_voxels_change_no_feature_at_all(kind):
    network, x = network_and_image(kind)
    encoder, x = network.encoder.float(), x.float()
    visible = cells(*GRIDS[kind][0])
    hidden = hidden_voxels(visible, x.shape[2:])
    found = sparse.encode(encoder, x, visible)
    for value in (torch.randn_like(x), 1e6, float("nan")):
        for a, b in zip(found, sparse.encode(encoder, torch.where(hidden, value, x), visible), strict=True):
            assert torch.equal(a, b)
    x.requires_grad_()
    sum(y.square().mean() for y in sparse.encode(encoder, x, visible)).backward()
    assert (x.grad[hidden.expand_as(x)] == 0).all()
    assert (x.grad[~hidden.expand_as(x)] != 0).all()


@pytest.mark.parametrize("kind", SPACES)
def test_with_everything_visible_the_encoder_is_the_ordinary_one(kind):
    """Up to rounding: PyTorch's InstanceNorm sums in another order."""
    network, x = network_and_image(kind)
    visible = torch.ones(2, *[2] * len(SPACES[kind]), dtype=torch.bool)
    for found, expected in zip(sparse.encode(network.encoder, x, visible), network.encoder(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_the_shared_convolution_stays_one_module_and_is_trained():
    network, x = network_and_image("3D")
    before = {k: id(m) for k, m in network.named_modules(remove_duplicate=False)}
    sum(y.square().mean() for y in sparse.encode(network.encoder, x, cells(2, 2, 2))).backward()
    assert {k: id(m) for k, m in network.named_modules(remove_duplicate=False)} == before
    shared = [m for m in network.encoder.modules() if hasattr(m, "all_modules")]
    assert len(shared) > 10
    for module in shared:
        assert module.conv is module.all_modules[0]
        assert module.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_op": nn.BatchNorm3d}, "do not know the norm BatchNorm3d; choose the form dense"),
        ({"norm_op_kwargs": {"track_running_stats": True}}, "do not know the norm InstanceNorm3d"),
        ({"norm_op": None, "norm_op_kwargs": None}, "do not know a convolution without a norm"),
        ({"squeeze_excitation": True}, "do not know squeeze and excitation"),
        ({"pool_type": "max"}, "do not know pooling in front of a stage"),
        ({"nonlin": nn.Softplus, "nonlin_kwargs": None}, "do not know the nonlinearity Softplus"),
    ],
)
def test_an_encoder_with_other_parts_is_refused(changes, message):
    network = nn.Module()
    network.encoder = small(**changes)
    with pytest.raises(InputError, match=message):
        sparse.check(network)


def test_its_networks_are_recognised():
    network, _ = network_and_image("2D")
    assert isinstance(network, ResidualEncoderUNet)
    assert sparse.is_residual_unet(network)
    assert not sparse.is_residual_unet(tiny())
