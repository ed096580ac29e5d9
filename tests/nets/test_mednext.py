import inspect
import itertools
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import nn

from mednextv2.nets import VARIANTS, MedNeXt, create_mednext
from mednextv2.nets.blocks import GlobalResponseNorm, MedNeXtBlock, MedNeXtDownBlock, MedNeXtUpBlock

# One input channel, three classes, no deep supervision. v1 was counted on the authors' code.
COUNTS = {
    ("v1_s", 3): 5_550_947,
    ("v1_b", 3): 10_526_339,
    ("v1_m", 3): 17_548_995,
    ("v1_l", 3): 61_779_299,
    ("v1_s", 5): 5_980_579,
    ("v1_b", 5): 10_955_971,
    ("v1_m", 5): 18_260_867,
    ("v1_l", 5): 62_992_931,
    ("v2_base", 3): 61_969_507,
    ("v2_wide", 3): 246_536_387,
}
RANGES = {"v2_tiny": (1_000_000, 2_000_000), "v2_small": (5_000_000, 7_000_000)}
V1, V2 = {"global_resp_norm": False}, {"global_resp_norm": True}


def tiny(**kwargs):
    settings = {"init_filters": 4, "blocks_down": 1, "blocks_bottleneck": 1, "blocks_up": 1}
    return MedNeXt(**{**settings, **kwargs})


def lively(network):
    """Give every parameter a value that matters; GRN's are zero at first and would hide a mistake."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return network


def image(spatial_dims, size=32, batch=1, channels=1):
    return torch.randn(batch, channels, *[size] * spatial_dims)


def gradients(network, x):
    network.zero_grad()
    outputs = network(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum() for y in outputs).backward()
    return {k: p.grad.clone() for k, p in network.named_parameters()}


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.fixture
def no_initialisation(monkeypatch):
    """Leave convolutions uninitialised: the large sizes are built without touching their memory."""
    monkeypatch.setattr(nn.modules.conv._ConvNd, "reset_parameters", lambda self: None)


# ---------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("variant", "kernel_size"), COUNTS, ids=str)
@pytest.mark.usefixtures("no_initialisation")
def test_a_variant_has_exactly_the_published_parameters(variant, kernel_size):
    network = create_mednext(variant, out_channels=3, kernel_size=kernel_size)
    assert count(network) == COUNTS[variant, kernel_size]


@pytest.mark.parametrize("variant", RANGES)
@pytest.mark.usefixtures("no_initialisation")
def test_a_small_variant_is_small(variant):
    low, high = RANGES[variant]
    assert low < count(create_mednext(variant, out_channels=3)) < high


def test_every_variant_is_counted():
    assert {v for v, k in COUNTS if k == 3} | set(RANGES) == set(VARIANTS)
    assert {v for v, k in COUNTS if k == 5} == {v for v in VARIANTS if v.startswith("v1")}


@pytest.mark.usefixtures("no_initialisation")
def test_deep_supervision_adds_four_heads_of_the_published_size():
    assert count(create_mednext("v1_s", out_channels=3, deep_supervision=True)) == COUNTS["v1_s", 3] + 2892


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.startswith("v2")])
@pytest.mark.usefixtures("no_initialisation")
def test_v2_is_v1_plus_two_numbers_a_hidden_channel(variant):
    with_grn = create_mednext(variant)
    without = create_mednext(variant, global_resp_norm=False)
    hidden = sum(m.expand.out_channels for m in with_grn.modules() if isinstance(m, MedNeXtBlock))
    assert count(with_grn) == count(without) + 2 * hidden


def test_the_network_can_be_built_on_the_meta_device():
    with torch.device("meta"):
        assert count(create_mednext("v2_wide", out_channels=3)) == COUNTS["v2_wide", 3]


def test_arguments_win_over_those_of_the_variant():
    network = create_mednext("v2_tiny", 2, in_channels=3, out_channels=4, kernel_size=5, init_filters=2, blocks_down=1)
    assert network.stem.weight.shape == (2, 3, 1, 1)
    assert network.heads[0].weight.shape == (4, 2, 1, 1)
    assert [len(stage) for stage in network.encoder] == [1] * 4
    assert [len(stage) for stage in network.decoder] == [2] * 4
    assert network.bottleneck[0].depthwise.kernel_size == (5, 5)


@pytest.mark.usefixtures("no_initialisation")
def test_a_resampling_block_takes_the_ratio_of_the_stage_it_leads_to():
    network = create_mednext("v1_b")
    ratios = {
        n: b.expand.out_channels // b.expand.in_channels for n, b in network.named_modules() if hasattr(b, "expand")
    }
    assert [ratios[f"encoder.{i}.0"] for i in range(4)] == [2, 3, 4, 4]
    assert [ratios[f"down.{i}"] for i in range(4)] == [3, 4, 4, 4]
    assert ratios["bottleneck.0"] == 4
    assert [ratios[f"up.{i}"] for i in range(4)] == [4, 4, 3, 2]
    assert [ratios[f"decoder.{i}.0"] for i in range(4)] == [4, 4, 3, 2]


@pytest.mark.usefixtures("no_initialisation")
@pytest.mark.parametrize("variant", VARIANTS)
def test_activation_checkpointing_is_on_where_the_authors_use_it(variant):
    flags = {m.activation_checkpointing for m in create_mednext(variant).modules() if isinstance(m, MedNeXtBlock)}
    assert flags == {variant in ("v1_m", "v1_l")}


# --------------------------------------------------------------------------------- inputs and outputs


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_the_output_has_the_shape_of_the_input_and_a_channel_a_class(spatial_dims, kernel_size):
    network = tiny(spatial_dims=spatial_dims, in_channels=2, out_channels=5, kernel_size=kernel_size)
    space = (16, 32, 48)[:spatial_dims]
    for training in (True, False):
        y = network.train(training)(torch.randn(2, 2, *space))
        assert y.shape == (2, 5, *space)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_deep_supervision_gives_five_scales_in_training_and_one_tensor_in_evaluation(spatial_dims):
    network = tiny(spatial_dims=spatial_dims, out_channels=3, deep_supervision=True)
    space = (16, 32, 48)[:spatial_dims]
    x = torch.randn(2, 1, *space)
    outputs = network.train()(x)
    assert isinstance(outputs, list)
    assert [tuple(y.shape) for y in outputs] == [(2, 3, *[s // 2**i for s in space]) for i in range(5)]
    evaluated = network.eval()(x)
    assert isinstance(evaluated, torch.Tensor)
    torch.testing.assert_close(evaluated, outputs[0])


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("version", [V1, V2], ids=["v1", "v2"])
def test_every_parameter_gets_a_gradient(spatial_dims, version):
    network = lively(tiny(spatial_dims=spatial_dims, deep_supervision=True, **version))
    x = image(spatial_dims, batch=2)
    for name, grad in gradients(network, x).items():
        assert grad.isfinite().all(), name
        if not name.endswith("depthwise.bias"):  # the norm that follows takes a shift away
            assert grad.abs().max() > 1e-4, name


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_an_input_of_16_voxels_has_finite_gradients(spatial_dims, deep_supervision):
    network = tiny(spatial_dims=spatial_dims, deep_supervision=deep_supervision)
    bottleneck = []
    network.bottleneck[0].register_forward_hook(lambda module, inputs, output: bottleneck.append(output.shape[2:]))
    x = image(spatial_dims, 16, batch=2).requires_grad_()
    grads = gradients(network, x)
    assert bottleneck == [(1,) * spatial_dims]
    assert all(g.isfinite().all() for g in grads.values())
    assert x.grad.isfinite().all()


def test_a_constant_input_has_finite_gradients():  # padding, an empty patch
    grads = gradients(tiny(deep_supervision=True), torch.zeros(1, 1, 16, 16, 16))
    assert all(g.isfinite().all() for g in grads.values())


@pytest.mark.parametrize(
    ("space", "axis", "size", "legal"),
    [
        ((40, 32, 32), 0, 40, (32, 48)),
        ((32, 17, 32), 1, 17, (16, 32)),
        ((32, 32, 100), 2, 100, (96, 112)),
        ((8, 32, 32), 0, 8, (16,)),
        ((32, 33), 1, 33, (32, 48)),
    ],
)
def test_a_size_that_is_no_multiple_of_16_is_refused_with_axis_size_and_legal_sizes(space, axis, size, legal):
    network = tiny(spatial_dims=len(space))
    with pytest.raises(ValueError, match=f"axis {axis} has {size} voxels.*sizes are {' and '.join(map(str, legal))}$"):
        network(torch.zeros(1, 1, *space))


@pytest.mark.parametrize(
    ("spatial_dims", "shape"), [(3, (1, 1, 32, 32)), (2, (1, 1, 32, 32, 32)), (3, (1, 32, 32, 32))]
)
def test_an_input_with_another_number_of_axes_is_refused(spatial_dims, shape):
    with pytest.raises(ValueError, match=r"\(N, C, X, Y(, Z)?\).*" + ", ".join(map(str, shape))):
        tiny(spatial_dims=spatial_dims)(torch.zeros(shape))


@pytest.mark.parametrize("training", [True, False])
def test_a_meta_tensor_gives_the_result_of_a_plain_tensor_as_a_plain_tensor(training):
    network = tiny(deep_supervision=True).train(training)
    x = image(3)
    expected, actual = network(x), network(MetaTensor(x, affine=torch.eye(4)))
    pairs = zip(expected, actual, strict=True) if training else [(expected, actual)]
    for a, b in pairs:
        assert type(b) is torch.Tensor
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"spatial_dims": 1}, "spatial_dims"),
        ({"spatial_dims": 4}, "spatial_dims"),
        ({"kernel_size": 4}, "kernel_size"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": -3}, "kernel_size"),
        ({"kernel_size": 3.0}, "kernel_size"),
        ({"blocks_down": (2, 2, 2)}, "blocks_down"),
        ({"blocks_up": (2, 2, 2, 0)}, "blocks_up"),
        ({"encoder_expansion_ratio": (2, 2, 2, 2, 2)}, "encoder_expansion_ratio"),
        ({"decoder_expansion_ratio": 0}, "decoder_expansion_ratio"),
        ({"decoder_expansion_ratio": (2, 2, 2, 2.5)}, "decoder_expansion_ratio"),
        ({"activation_checkpointing": [True] * 4}, "activation_checkpointing"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"drop_path_rate": -0.1}, "drop_path_rate"),
        ({"drop_path_rate": float("nan")}, "drop_path_rate"),
        ({"grn_denominator": "max"}, "grn_denominator"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_by_name(wrong, word):
    with pytest.raises(ValueError, match=word):
        tiny(**wrong)


@pytest.mark.parametrize("wrong", [{"blocks_bottleneck": -1}, {"bottleneck_expansion_ratio": 0}], ids=str)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_bad_settings_of_the_bottleneck_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        tiny(**wrong)


def test_an_unknown_variant_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"v3_huge.*v1_s.*v2_wide"):
        create_mednext("v3_huge")


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

    blocks = {n: m for n, m in network.named_modules() if isinstance(m, MedNeXtBlock)}
    for name, block in blocks.items():
        block.register_forward_hook(look(name))
        for part in ("depthwise", "norm", "expand", "grn", "compress"):
            getattr(block, part).register_forward_hook(look(f"{name}.{part}"))
    # For batches below 16 on a single thread, or of one small map, PyTorch computes 3D convolutions of kernel 1 on a
    # CPU by a loop that gives the layout up.
    x = torch.randn(16, 1, *(32, 16, 16)[:spatial_dims])
    for given in (x, x.contiguous(memory_format=layout)):
        seen.clear()
        with torch.no_grad():
            network(given)
        assert len(seen) == 17 * 6
        wrong = [n for n, y in seen.items() if not y.is_contiguous(memory_format=layout) or y.is_contiguous()]
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


# -------------------------------------------------------------------------- checkpointing, drop path


def in_use(flags):
    """Names of the blocks that a list of flags means, from full resolution to bottleneck."""
    names = []
    for level, flag in enumerate(flags[:4]):
        names += [f"encoder.{level}.0", f"down.{level}", f"decoder.{3 - level}.0", f"up.{3 - level}"] if flag else []
    return {*names, *(["bottleneck.0"] if flags[4] else [])}


@pytest.mark.parametrize(
    "setting", [True, [True, False, False, False, False], [False, True, False, True, False], (False,) * 4 + (True,)]
)
@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
def test_activation_checkpointing_recomputes_and_changes_nothing_else(setting, drop_path_rate):
    settings = {"spatial_dims": 2, "deep_supervision": True, "drop_path_rate": drop_path_rate}
    plain, saving = tiny(**settings), tiny(**settings, activation_checkpointing=setting)
    saving.load_state_dict(lively(plain).state_dict())
    calls, saved = {}, {plain: 0, saving: 0}
    for name, block in saving.named_modules():
        if isinstance(block, MedNeXtBlock):
            block.depthwise.register_forward_hook(
                lambda module, inputs, output, name=name: calls.update({name: calls.get(name, 0) + 1})
            )
    x, results = image(2, batch=4), []
    for network in (plain, saving):

        def pack(t, network=network):
            saved[network] += t.nbytes
            return t

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            outputs = network(x)
            sum((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() for y in outputs).backward()
        results.append((outputs, {k: p.grad for k, p in network.named_parameters()}))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    expected = in_use([True] * 5 if setting is True else setting)
    assert {name for name, number in calls.items() if number == 2} == expected
    assert {name for name, number in calls.items() if number == 1} == set(calls) - expected
    assert saved[saving] < saved[plain]


def test_activation_checkpointing_is_idle_without_gradients():
    network = tiny(spatial_dims=2, activation_checkpointing=True)
    x = image(2)
    with torch.no_grad():
        y = network(x)
    assert not y.requires_grad
    torch.testing.assert_close(y, network(x).detach())


def test_drop_path_is_off_by_default():
    network = tiny(spatial_dims=2, deep_supervision=True)
    x = image(2)
    for a, b in zip(network(x), network(x), strict=True):
        assert torch.equal(a, b)


def test_drop_path_is_active_in_training_only():
    network, plain = tiny(spatial_dims=2, drop_path_rate=0.5), tiny(spatial_dims=2)
    plain.load_state_dict(network.state_dict())
    x = image(2, batch=8)
    assert not torch.allclose(network(x), network(x))
    assert torch.equal(network.eval()(x), plain.eval()(x))
    assert torch.equal(network(x), network(x))


def test_drop_path_zeroes_whole_samples_and_keeps_the_mean():
    block = MedNeXtBlock(2, 2, 2, 2, 3, drop_path_rate=0.25)
    y = block.drop_path(torch.ones(4000, 2, 3, 3))
    values = y.flatten(1)
    assert (values == values[:, :1]).all()  # one draw a sample
    assert torch.equal(values.unique(), torch.tensor([0, 1 / 0.75]))
    assert values.mean() == pytest.approx(1, abs=0.03)
    assert block.eval().drop_path(y) is y


def test_drop_path_grows_linearly_with_depth():
    network = tiny(blocks_down=(2, 1, 1, 1), drop_path_rate=0.9)
    stages = [*network.encoder, network.bottleneck, *network.decoder]
    rates = [block.drop_path_rate for block in itertools.chain(*stages)]
    assert rates == pytest.approx(np.linspace(0, 0.9, 10))
    assert {block.drop_path_rate for block in [*network.down, *network.up]} == {0}


# ------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("version", [V1, V2], ids=["v1", "v2"])
def test_autocast_to_bfloat16_gives_the_logits_of_float32_but_for_rounding(version):
    network = lively(tiny(init_filters=4, **version)).eval()
    x = image(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(x)
        network.train()
        grads = gradients(network, x)
    assert half.dtype == torch.bfloat16
    exact = network(x)
    assert (half.float() - exact).norm() < 0.03 * exact.norm()
    assert all(g.isfinite().all() and g.dtype == torch.float32 for g in grads.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_can_be_cast(dtype):
    network = lively(tiny(spatial_dims=2)).eval()
    x = image(2)
    exact, cast = network(x), network.to(dtype)(x.to(dtype))
    assert cast.dtype == dtype
    assert (cast.double() - exact).norm() < 0.05 * exact.norm()


# ----------------------------------------------------------------------------- compilation and export


def test_it_compiles_whole_in_training_and_evaluation():
    network = lively(tiny(deep_supervision=True))
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = image(3)
    expected, actual = gradients(network, x), gradients_of_compiled(compiled, network, x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x))


def gradients_of_compiled(compiled, network, x):
    grads = gradients(compiled, x)
    return {k: grads[f"_orig_mod.{k}"] for k, _ in network.named_parameters()}


def test_it_can_be_exported_for_any_batch_and_size():
    network = lively(tiny(spatial_dims=2)).eval()
    axes = {0: torch.export.Dim("batch"), 2: 16 * torch.export.Dim("rows"), 3: 16 * torch.export.Dim("columns")}
    exported = torch.export.export(network, (image(2, batch=2),), dynamic_shapes=(axes,)).module()
    for shape in ((1, 1, 48, 32), (3, 1, 32, 64)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported(x), network(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_it_can_be_traced_and_run_at_another_size(spatial_dims):
    network = lively(tiny(spatial_dims=spatial_dims, deep_supervision=True)).eval()
    traced = torch.jit.trace(network, image(spatial_dims, 16))
    for shape in ((1, 1, 16, 16, 16), (2, 1, 32, 16, 48)):
        x = torch.randn(shape[: spatial_dims + 2])
        torch.testing.assert_close(traced(x), network(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize(
    ("spatial_dims", "settings"),
    [
        (3, {**V1}),
        (3, {**V2, "deep_supervision": True, "activation_checkpointing": True}),
        (2, {**V1, "deep_supervision": True, "use_residual_connection": False}),
        (2, {**V2, "grn_denominator": "sum", "drop_path_rate": 0.5}),
    ],
    ids=["v1 3D", "v2 3D deep", "v1 2D deep", "v2 2D"],
)
def test_it_can_be_scripted_saved_and_loaded(spatial_dims, settings, tmp_path):
    network = lively(tiny(spatial_dims=spatial_dims, **settings))
    torch.jit.script(network).save(tmp_path / "net.ts")
    scripted = torch.jit.load(tmp_path / "net.ts")
    for size in (16, 32):
        x = image(spatial_dims, size, batch=2)
        torch.manual_seed(1)
        expected = network.train()(x)
        torch.manual_seed(1)
        torch.testing.assert_close(scripted.train()(x), expected)
        torch.testing.assert_close(scripted.eval()(x), network.eval()(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_it_can_be_exported_and_converted_to_onnx(tmp_path):
    import onnxruntime

    network = lively(tiny(out_channels=3, deep_supervision=True)).eval()
    x = image(3)
    expected = network(x).detach()
    exported = torch.export.export(network, (x,))
    torch.testing.assert_close(exported.module()(x), expected)
    torch.onnx.export(exported, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------------------------- distributed


def one_process_of_two(rank, folder):
    """Train on one sample of the two; write the gradients that DDP leaves on this process."""
    where = f"file://{folder}/rendezvous"
    wait = timedelta(seconds=120)
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2, timeout=wait)
    data = torch.load(folder / "data.pt", weights_only=True)
    network = tiny(spatial_dims=2, deep_supervision=True).double()
    network.load_state_dict(data["model"])
    network = nn.parallel.DistributedDataParallel(network)
    loss_of(network, data["x"][rank : rank + 1]).backward()
    torch.save([p.grad for p in network.parameters()], folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def the_other_process(index, folder):
    one_process_of_two(index + 1, folder)


def loss_of(network, x):
    """Mean over samples; every instance is normalised for itself, so samples do not mix."""
    return sum((y - 1).square().mean() for y in network(x))


def test_two_processes_have_the_gradients_of_one_with_both_samples(tmp_path):
    network, x = lively(tiny(spatial_dims=2, deep_supervision=True)).double(), image(2, batch=2).double()
    torch.save({"model": network.state_dict(), "x": x}, tmp_path / "data.pt")
    other = torch.multiprocessing.spawn(the_other_process, args=(tmp_path,), nprocs=1, join=False)
    one_process_of_two(0, tmp_path)
    assert other.join()
    loss_of(network, x).backward()
    expected = [p.grad for p in network.parameters()]
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected)


def test_every_argument_of_the_network_is_documented():
    documentation = inspect.getdoc(MedNeXt)
    assert [n for n in inspect.signature(MedNeXt).parameters if f"\n    {n}: " not in documentation] == []
