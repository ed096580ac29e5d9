import pytest
import torch
from op_helpers import TOLERANCE, available_paths, block_case, errors, exact, mlp_of, nan_filled, run_block

from mednextv2 import ops
from mednextv2.nets import MedNeXt
from mednextv2.ops import memory_layout
from mednextv2.ops.block import block_backward_op, block_op


def definition(values, settings):
    y = ops.depthwise_reference(values["x"], ops.Convolution(values["weight"], values["bias"]))
    return ops.folded_mlp_reference(y, mlp_of(values), values["x"], settings)


def compare(values, settings, path):
    copies = exact(values)
    with nan_filled(), ops.use(path):
        out = run_block(values, settings)
        return errors(out, definition(copies, settings), values, copies)


@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(24))
def test_output_and_all_gradients_equal_the_definition(path, dtype, seed):
    values, settings = block_case(seed, dtype)
    found = compare(values, settings, path)
    found.pop("bias", None)  # the norm takes the bias out again: its gradient is nothing but rounding, in all paths
    # where a dtype itself cannot do better (a norm of few, rounded values), the definition in it is the measure
    plain, copies = block_case(seed, dtype)[0], exact(values)
    own = errors(definition_in(plain, settings), definition(copies, settings), plain, copies)
    assert {k: v for k, v in found.items() if v > max(TOLERANCE[dtype], 3 * own[k])} == {}


def definition_in(values, settings):
    """The definition in the dtype of the features, as PyTorch computes it."""
    dtype = values["x"].dtype
    return definition({name: v if v is None else v.to(dtype) for name, v in values.items()}, settings)


def test_gradcheck():
    values, settings = block_case(2, torch.float64, batch=2, channels=2, space=(2, 3, 4), kernel=3, ratio=2, bias=True)
    assert torch.autograd.gradcheck(
        lambda *v: run_block(dict(zip(values, v, strict=True)), settings), tuple(values.values())
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("grn", [True, False])
def test_opcheck(dtype, grn):
    values, _ = block_case(3, dtype, batch=2, channels=8, space=(4, 6, 8), kernel=3, grn=grn, bias=grn)
    x = memory_layout.channels_last(values.pop("x").detach()).requires_grad_()
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float64: 1e-9}[dtype]
    weight, bias, *mlp = values.values()
    inputs = (x, weight, bias, 1, False, *mlp, None, True, False, *ops.Settings())
    torch.library.opcheck(block_op, inputs, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        out, *saved = block_op(*inputs)
        plain = [None if p is None else p.detach() for p in mlp]
        inputs = (out, x.detach(), weight.detach(), 1, False, *plain, *saved, True, True, *ops.Settings())
        torch.library.opcheck(block_backward_op, inputs, rtol=tolerance, atol=tolerance)


def test_blocks_are_one_operator_and_no_gradient_is_added_by_a_pass_of_its_own():
    network = MedNeXt(init_filters=8)  # two blocks in each of nine stages
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        network(x).sum().backward()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["mednextv2::block"] == 26
    assert calls["mednextv2::block_backward"] == 26
    assert "mednextv2::depthwise" not in calls


def test_the_gradient_of_the_input_is_left_out_where_nobody_wants_it():
    values, _ = block_case(8, torch.float32, channels=8, space=(5, 6, 7), bias=True)
    leaves = [v for name, v in values.items() if name != "x" and v is not None]
    wanted = torch.autograd.grad(run_block(values).square().sum(), leaves)
    found = torch.autograd.grad(run_block({**values, "x": values["x"].detach()}).square().sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_shapes_can_be_asked_for_on_the_meta_device():
    values, _ = block_case(11, torch.float32, channels=8, space=(5, 6, 7), grn=True, bias=True)
    x, weight, bias, *mlp = (v.to("meta") for v in values.values())
    assert ops.block(x, ops.Convolution(weight, bias, 2), ops.Mlp(*mlp)).shape == (*x.shape[:2], 3, 3, 4)
