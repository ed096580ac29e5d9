"""MedNeXt's sparse encoder: against a plain definition, and blind to hidden voxels."""

import pytest
import torch
from masked_helpers import cells, hidden_voxels, levels_of, parameter_gradients, plain_mednext
from net_helpers import V1, image, lively, tiny

from mednextv2 import ops
from mednextv2.nets import sparse_mednext
from mednextv2.nets.blocks import MedNeXtBlock

KINDS = {
    "3D": {},
    "v1": V1,
    "kernel 5": {"kernel_size": 5},
    "2D": {"spatial_dims": 2},
    "2D, kernel 7, v1": {"spatial_dims": 2, "kernel_size": 7, **V1},
    "first down block without GRN": {"grn_in_first_down": False},
    "sum": {"grn_denominator": "sum", "encoder_expansion_ratio": 3, "blocks_down": 2},
    "no residual": {"use_residual_connection": False},
    "checkpointing": {"activation_checkpointing": True},
}


def encode(network, x, visible):
    strides = [[2**level] * (x.dim() - 2) for level in range(5)]
    return sparse_mednext.encode(network, x, levels_of(visible, x.shape[2:], strides))


# the image of a network, and grids that divide it into cells of 16, 8, 32 and 4 voxels, and of others along each axis
SPACES = {2: (64, 32), 3: (32, 32, 32)}
GRIDS = {2: [(4, 2), (8, 4), (2, 1), (16, 8), (2, 4)], 3: [(2, 2, 2), (4, 4, 4), (1, 2, 1), (8, 8, 8), (2, 4, 8)]}


def network_and_image(kind, batch=2):
    network = lively(tiny(in_channels=2, out_channels=2, **KINDS[kind])).double()
    return network, torch.randn(batch, 2, *SPACES[network.spatial_dims], dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_all_stages_and_gradients_are_those_of_gathered_positions(kind):
    network, x = network_and_image(kind)
    for grid in GRIDS[network.spatial_dims][: 1 if network.spatial_dims == 3 else 5]:
        visible = cells(*grid)
        found, expected = encode(network, x, visible), plain_mednext(network, x, visible)
        assert len(found) == len(expected) == 5
        expected = [torch.cat(samples) for samples in expected]
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
        gradients = parameter_gradients(network, found)
        wanted = parameter_gradients(network, expected)
        assert set(gradients) == set(wanted)
        assert {k.split(".")[0] for k in gradients} == {"stem", "encoder", "down", "bottleneck"}
        torch.testing.assert_close(gradients, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("grid", [*GRIDS[3][1:], (2, 1, 1)], ids=str)
def test_cells_of_every_size_give_what_gathered_positions_do(grid):
    network, x = network_and_image("3D")
    x = torch.cat([x, x.flip(2)], 2) if grid == (2, 1, 1) else x  # cells of 32 voxels along all axes
    visible = cells(*grid, seen=0.25)
    expected = [torch.cat(samples) for samples in plain_mednext(network, x, visible)]
    torch.testing.assert_close(encode(network, x, visible), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("path", ["auto", "torch", "reference"])
@pytest.mark.parametrize("equal", [True, False], ids=["equal counts", "other counts"])
def test_every_implementation_has_the_result_in_single_precision(path, equal):
    network, x = network_and_image("3D")
    visible = cells(2, 2, 2)
    if equal:
        visible[1] = visible[0].flip(0)
        assert visible[0].sum() == visible[1].sum()
    expected = [torch.cat(samples) for samples in plain_mednext(network, x, visible)]
    wanted = parameter_gradients(network, expected)
    network.float()
    with ops.use(path):
        found = encode(network, x.float(), visible)
        gradients = parameter_gradients(network, found)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() < 1e-5 * b.norm()
    for name, gradient in gradients.items():
        if name.endswith("depthwise.bias"):  # the norm cancels it, so its gradient is zero up to rounding
            assert gradient.norm() < 1e-3 * gradients[name.replace("bias", "weight")].norm()
        else:
            assert (gradient - wanted[name]).norm() < 1e-4 * wanted[name].norm()


@pytest.mark.parametrize("kind", ["3D", "v1", "kernel 5", "2D"])
def test_hidden_voxels_change_no_visible_feature_at_all(kind):
    network, x = network_and_image(kind)
    network, x = network.float(), x.float()
    visible = cells(*GRIDS[network.spatial_dims][0])
    hidden = hidden_voxels(visible, x.shape[2:])
    others = [torch.where(hidden, value, x) for value in (torch.randn_like(x), 1e6, float("nan"))]
    found = encode(network, x, visible)
    for other in others:
        for a, b in zip(found, encode(network, other, visible), strict=True):
            assert torch.equal(a, b)
    seen = torch.where(hidden, x, x + 1e-2 * torch.randn_like(x))
    assert not any(torch.equal(a, b) for a, b in zip(found, encode(network, seen, visible), strict=True))


def test_hidden_voxels_have_no_gradient_and_visible_ones_do():
    network, x = network_and_image("3D")
    visible = cells(2, 2, 2)
    hidden = hidden_voxels(visible, x.shape[2:]).expand_as(x)
    x.requires_grad_()
    sum(rows.square().mean() for rows in encode(network, x, visible)).backward()
    assert (x.grad[hidden] == 0).all()
    assert (x.grad[~hidden] != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_with_everything_visible_the_encoder_is_the_ordinary_one(kind):
    """Up to rounding: the statistics of the norm are summed in another order, line by line in the ordinary block."""
    network, x = network_and_image(kind)
    expected = []
    for stage in network.encoder:
        stage.register_forward_hook(lambda _, __, y: expected.append(y))
    network.bottleneck.register_forward_hook(lambda _, __, y: expected.append(y))
    network(x)
    found = encode(network, x, torch.ones(2, *[2] * network.spatial_dims, dtype=torch.bool))
    for rows, y in zip(found, expected, strict=True):
        torch.testing.assert_close(rows, y.movedim(1, -1).flatten(0, -2), rtol=1e-8, atol=1e-10)


def test_a_sample_of_which_nothing_is_visible_changes_nothing_for_others():
    network, x = network_and_image("3D")
    visible = cells(2, 2, 2)
    visible[0] = False
    for found, alone in zip(encode(network, x, visible), encode(network, x[1:], visible[1:]), strict=True):
        torch.testing.assert_close(found, alone)
    visible[1] = False
    assert [tuple(rows.shape) for rows in encode(network, x, visible)] == [(0, 4 * 2**i) for i in range(5)]


def test_drop_path_drops_blocks_of_whole_samples():
    network = lively(tiny(drop_path_rate=0.999, blocks_down=4)).double()
    x, visible = torch.randn(3, 1, 32, 32, 32, dtype=torch.float64), cells(2, 2, 2, samples=3)
    ordinary = encode(network.eval(), x, visible)
    for block in network.modules():
        if isinstance(block, MedNeXtBlock):
            block.drop_path_rate = 0.0 if block.drop_path_rate == 0 else 1 - 1e-9
    dropped = encode(network.train(), x, visible)[0]  # of the first stage, only the first block is never dropped
    torch.testing.assert_close(dropped, encode(_first_block_of(network), x, visible)[0])
    assert not torch.allclose(dropped, ordinary[0])


def _first_block_of(network):
    for stage in network.encoder:
        del stage[1:]
    return network


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_as_near_as_its_rounding_allows(dtype):
    network = lively(tiny(blocks_down=2)).float()
    x, visible = image(3, batch=2), cells(2, 2, 2)
    expected = encode(network, x, visible)
    with torch.autocast("cpu", dtype):
        found = encode(network, x, visible)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        assert (a - b).norm() < (3e-2 if dtype == torch.bfloat16 else 1e-2) * b.norm()


def test_the_order_of_samples_does_not_matter():
    network, x = network_and_image("3D")
    visible = cells(2, 2, 2)
    counts = visible.flatten(1).sum(1).tolist()
    assert counts[0] != counts[1]
    found, turned = encode(network, x, visible), encode(network, x.flip(0), visible.flip(0))
    for level, (a, b) in enumerate(zip(found, turned, strict=True)):
        first = counts[0] * 16**3 // 8**level
        torch.testing.assert_close(torch.cat([b[-first:], b[:-first]]), a)
