import pytest
import torch
import torch.nn.functional as F
from net_helpers import V1, V2, image, lively, tiny
from torch import nn

from mednextv2.nets.blocks import GlobalResponseNorm, MedNeXtBlock, MedNeXtDownBlock, MedNeXtUpBlock

# ------------------------------------------------------------------------------------------------ GRN


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_grn_is_in_every_block_of_v2_and_in_none_of_v1(spatial_dims):
    for version, kind in ((V1, nn.Identity), (V2, GlobalResponseNorm)):
        blocks = [m for m in tiny(spatial_dims=spatial_dims, **version).modules() if isinstance(m, MedNeXtBlock)]
        assert len(blocks) == 9 + 4 + 4
        assert sum(type(b) is MedNeXtDownBlock for b in blocks) == sum(type(b) is MedNeXtUpBlock for b in blocks) == 4
        assert {type(b.grn) for b in blocks} == {kind}
        assert all(kind is nn.Identity or b.grn.gamma.shape == (b.expand.out_channels,) for b in blocks)


def test_grn_can_be_left_out_of_the_first_down_block_alone():
    full, without = tiny().state_dict(), tiny(grn_in_first_down=False).state_dict()
    assert set(full) - set(without) == {"down.0.grn.gamma", "down.0.grn.beta"}
    assert set(without) <= set(full)


def test_a_new_v2_network_computes_what_v1_with_its_weights_does():
    v2, v1 = tiny(**V2), tiny(**V1)
    v1.load_state_dict({k: v for k, v in v2.state_dict().items() if ".grn." not in k})
    x = image(3, 16)
    torch.testing.assert_close(v2(x), v1(x))


def test_the_denominator_reaches_every_block():
    network = tiny(grn_denominator="sum")
    assert {m.denominator for m in network.modules() if isinstance(m, GlobalResponseNorm)} == {"sum"}


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_no_convolution_of_kernel_1_is_strided(spatial_dims):
    # The backward pass of oneDNN 3.12's writes outside its memory in 2D, channels-last, for fewer than 8 channels on
    # AVX2: the process dies, now and then.
    for name, module in tiny(spatial_dims=spatial_dims).named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and set(module.kernel_size) == {1}:
            assert set(module.stride) == {1}, name


# -------------------------------------------------- the mathematics, once more, slowly and in float64


def plain_linear(x, weight, bias):
    """Apply a convolution of kernel 1 as a matrix product."""
    y = torch.einsum("nc...,oc->no...", x, weight.flatten(1))
    return y + bias.reshape(1, -1, *[1] * (x.dim() - 2))


def plain_transform(block, x, depthwise, **how):
    """Depthwise, norm, expand, GELU, GRN, compress."""
    weight, bias = block.depthwise.weight, block.depthwise.bias
    y = depthwise(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1], **how)
    flat = y.flatten(2)
    flat = (flat - flat.mean(2, keepdim=True)) / (flat.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    y = (flat * block.norm.weight[:, None] + block.norm.bias[:, None]).reshape(y.shape)
    y = plain_linear(y, block.expand.weight, block.expand.bias)
    y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
    if not isinstance(block.grn, nn.Identity):
        norms = y.flatten(2).square().sum(2).sqrt()
        relative = norms / (norms.mean(1, keepdim=True) + 1e-6)
        z = y.flatten(2) * relative[..., None] * block.grn.gamma[:, None] + block.grn.beta[:, None]
        y = y + z.reshape(y.shape)
    return plain_linear(y, block.compress.weight, block.compress.bias)


def plain_block(block, x):
    residual = block.residual
    convolve = {4: (F.conv2d, F.conv_transpose2d), 5: (F.conv3d, F.conv_transpose3d)}[x.dim()]
    if isinstance(block, MedNeXtDownBlock):
        y = plain_transform(block, x, convolve[0], stride=2)
        every_second = x[(..., *[slice(None, None, 2)] * (x.dim() - 2))]
        return y + plain_linear(every_second, block.shortcut.weight, block.shortcut.bias) if residual else y
    if isinstance(block, MedNeXtUpBlock):
        y = plain_transform(block, x, convolve[1], stride=2)
        if residual:
            spread = x.new_zeros(*x.shape[:2], *[2 * s - 1 for s in x.shape[2:]])
            spread[(..., *[slice(None, None, 2)] * (x.dim() - 2))] = x
            y = y + plain_linear(spread, block.shortcut.weight.transpose(0, 1), block.shortcut.bias)
        padded = y.new_zeros(*y.shape[:2], *[s + 1 for s in y.shape[2:]])
        padded[(..., *[slice(1, None)] * (x.dim() - 2))] = y
        return padded
    y = plain_transform(block, x, convolve[0])
    return x + y if residual else y


def plain_network(network, x):
    x = plain_linear(x, network.stem.weight, network.stem.bias)
    skips = []
    for stage, down in zip(network.encoder, network.down, strict=True):
        for block in stage:
            x = plain_block(block, x)
        skips.append(x)
        x = plain_block(down, x)
    for block in network.bottleneck:
        x = plain_block(block, x)
    features = [x]
    for level in (3, 2, 1, 0):
        x = plain_block(network.up[3 - level], x) + skips[level]
        for block in network.decoder[3 - level]:
            x = plain_block(block, x)
        features.insert(0, x)
    return [plain_linear(f, h.weight, h.bias) for f, h in zip(features, network.heads, strict=True)]


@pytest.mark.parametrize("kind", [MedNeXtBlock, MedNeXtDownBlock, MedNeXtUpBlock])
@pytest.mark.parametrize("space", [(6, 4), (4, 6, 2), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("grn", [None, "mean"])
@pytest.mark.parametrize("residual", [True, False])
def test_a_block_computes_what_its_definition_does(kind, space, kernel_size, grn, residual):
    out_channels = {MedNeXtBlock: 4, MedNeXtDownBlock: 8, MedNeXtUpBlock: 2}[kind]
    block = lively(kind(len(space), 4, out_channels, 3, kernel_size, residual, grn)).double()
    x = torch.randn(2, 4, *space, dtype=torch.float64, requires_grad=True)
    y, expected = block(x), plain_block(block, x)
    size = {MedNeXtBlock: lambda s: s, MedNeXtDownBlock: lambda s: (s + 1) // 2, MedNeXtUpBlock: lambda s: 2 * s}[kind]
    assert y.shape == (2, out_channels, *map(size, space))
    torch.testing.assert_close(y, expected)
    direction = torch.randn_like(y)
    (actual,) = torch.autograd.grad((y * direction).sum(), x)
    torch.testing.assert_close(actual, torch.autograd.grad((expected * direction).sum(), x)[0])


class Replaced(nn.Module):
    """A module in the place of another, as of a library that adapts or quantises weights."""

    def __init__(self, module):
        super().__init__()
        self.weight, self.bias = module.weight, module.bias


def test_what_takes_the_place_of_an_up_block_s_shortcut_is_not_left_out():
    block = lively(MedNeXtUpBlock(3, 4, 2, 3, 3, grn="mean"))
    x = torch.randn(1, 4, 4, 4, 4)
    expected = block(x)
    block.shortcut = Replaced(block.shortcut)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("residual", [True, False])
def test_the_network_computes_what_its_definition_does(spatial_dims, residual):
    network = tiny(
        spatial_dims=spatial_dims,
        in_channels=2,
        out_channels=3,
        blocks_down=(2, 1, 1, 1),
        blocks_up=(1, 1, 1, 2),
        encoder_expansion_ratio=(2, 1, 3, 2),
        decoder_expansion_ratio=(1, 2, 3, 2),
        deep_supervision=True,
        use_residual_connection=residual,
    )
    assert {m.residual for m in network.modules() if isinstance(m, MedNeXtBlock)} == {residual}
    lively(network).double()
    x = torch.randn(2, 2, *(32, 16, 48)[:spatial_dims], dtype=torch.float64)
    for actual, expected in zip(network(x), plain_network(network, x), strict=True):
        torch.testing.assert_close(actual, expected)


# --------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize(("spatial_dims", "layout"), [(2, torch.channels_last), (3, torch.channels_last_3d)])
def test_features_inside_are_channels_last_whatever_the_input(spatial_dims, layout):
    network = tiny(spatial_dims=spatial_dims, deep_supervision=True)
    seen = {}

    def look(name):
        return lambda module, inputs, output: seen.update({name: output})

    for name, block in network.named_modules():
        if isinstance(block, MedNeXtBlock):
            block.register_forward_hook(look(name))
    x = torch.randn(2, 1, *(32, 16, 16)[:spatial_dims])
    for given in (x, x.contiguous(memory_format=layout)):
        seen.clear()
        with torch.no_grad():
            network(given)
        assert len(seen) == 17
        wrong = [n for n, y in seen.items() if not y.is_contiguous(memory_format=layout)]
        assert wrong == []


@pytest.mark.parametrize(("spatial_dims", "layout"), [(2, torch.channels_last), (3, torch.channels_last_3d)])
def test_the_layout_of_the_input_does_not_change_the_result(spatial_dims, layout):
    network = lively(tiny(spatial_dims=spatial_dims, in_channels=3))
    x = image(spatial_dims, batch=2, channels=3)
    other = x.contiguous(memory_format=layout)
    sliced = torch.cat([x, x], 1)[:, 3:]
    expected = network(x)
    for given in (other, sliced):
        assert not given.is_contiguous()
        assert torch.equal(given, x)
        assert (network(given) - expected).norm() < 1e-5 * expected.norm()
