import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from net_helpers import V1, V2, gradients, image, lively, tiny

from mednextv2.nets.blocks import MedNeXtBlock

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
    wanted = f"{'sizes are' if len(legal) > 1 else 'size is'} {' and '.join(map(str, legal))}"
    with pytest.raises(ValueError, match=f"axis {axis} has {size} voxels.*{wanted}$"):
        network(torch.zeros(1, 1, *space))


def test_an_input_with_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"takes 1 channel, not 2: got \(1, 2, 16, 16, 16\)"):
        tiny()(torch.zeros(1, 2, 16, 16, 16))


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

            def counted(*inputs, name=name, whole=block.whole):
                calls[name] = calls.get(name, 0) + 1
                return whole(*inputs)

            block.whole = counted
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
