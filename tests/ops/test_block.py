import pytest
import torch
from op_helpers import TOLERANCE, available_paths, errors, exact, mlp_case, mlp_of, nan_filled

from mednextv2 import ops
from mednextv2.nets import MedNeXt
from mednextv2.ops import memory_layout
from mednextv2.ops.block import block_backward_op, block_op

SPACES = [(5, 6, 7), (1, 1, 1), (2, 2, 2), (9, 8, 7), (12, 11), (1, 1)]


def case(seed, dtype, **fixed):
    """Random arguments, as leaves that want gradients, and settings."""
    generator = torch.Generator().manual_seed(seed)
    pick = torch.randint(1000, (4,), generator=generator).tolist()
    fixed = {"space": SPACES[pick[0] % len(SPACES)], "out": 1, "residual": False, "mean": 0} | fixed
    kernel_size, bias = fixed.pop("kernel", (3, 5, 7)[pick[1] % 3]), fixed.pop("bias", pick[2] % 4 > 0)
    values, settings = mlp_case(seed, dtype, **fixed)
    x = values.pop("y")
    values.pop("residual")
    parameter = {"dtype": values["w1"].dtype, "requires_grad": True}
    kernel = torch.randn(x.shape[1], 1, *[kernel_size] * (x.dim() - 2), **parameter)
    bias = torch.randn(x.shape[1], **parameter) if bias else None
    return {"x": x, "weight": kernel, "bias": bias, **values}, settings


def run(values, settings=None):
    """Apply a block with the residual connection."""
    convolution = ops.Convolution(values["weight"], values["bias"])
    return ops.block(values["x"], convolution, mlp_of(values), values["x"], settings)


def definition(values, settings):
    y = ops.depthwise_reference(values["x"], ops.Convolution(values["weight"], values["bias"]))
    return ops.folded_mlp_reference(y, mlp_of(values), values["x"], settings)


def compare(values, settings, path):
    copies = exact(values)
    with nan_filled(), ops.use(path):
        out = run(values, settings)
        return errors(out, definition(copies, settings), values, copies)


@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(24))
def test_output_and_all_gradients_equal_the_definition(path, dtype, seed):
    values, settings = case(seed, dtype)
    found = compare(values, settings, path)
    found.pop("bias", None)  # the norm takes the bias out again: its gradient is nothing but rounding, in all paths
    # where a dtype itself cannot do better (a norm of few, rounded values), the definition in it is the measure
    plain, copies = case(seed, dtype)[0], exact(values)
    own = errors(definition_in(plain, settings), definition(copies, settings), plain, copies)
    assert {k: v for k, v in found.items() if v > max(TOLERANCE[dtype], 3 * own[k])} == {}


def definition_in(values, settings):
    """The definition in the dtype of the features, as PyTorch computes it."""
    dtype = values["x"].dtype
    return definition({name: v if v is None else v.to(dtype) for name, v in values.items()}, settings)


def test_gradcheck():
    values, settings = case(2, torch.float64, batch=2, channels=2, space=(2, 3, 4), kernel=3, ratio=2, bias=True)
    assert torch.autograd.gradcheck(lambda *v: run(dict(zip(values, v, strict=True)), settings), tuple(values.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("grn", [True, False])
def test_opcheck(dtype, grn):
    values, _ = case(3, dtype, batch=2, channels=8, space=(4, 6, 8), kernel=3, grn=grn, bias=grn)
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
    values, _ = case(8, torch.float32, channels=8, space=(5, 6, 7), bias=True)
    leaves = [v for name, v in values.items() if name != "x" and v is not None]
    wanted = torch.autograd.grad(run(values).square().sum(), leaves)
    found = torch.autograd.grad(run({**values, "x": values["x"].detach()}).square().sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", ops.Mlp._fields)
def test_a_parameter_that_is_too_short_is_refused(name):
    values, settings = case(5, torch.float32, channels=16, grn=True)
    values = {k: v if v is None else v.detach() for k, v in values.items()}
    values[name] = values[name][:, :-1] if values[name].dim() > 1 else values[name][:-1]
    with pytest.raises(ValueError, match=f"{name} has the shape"):
        run(values, settings)
    with pytest.raises(ValueError, match=f"{name} has the shape"):
        ops.folded_mlp(values["x"], mlp_of(values), settings=settings)


def test_what_does_not_fit_the_residual_is_refused():
    values, _ = case(6, torch.float32, channels=8, space=(4, 4, 4), grn=True)
    with pytest.raises(ValueError, match="residual has the shape"):
        run({**values, "w2": values["w2"][:4], "b2": values["b2"][:4]})
    x, mlp = values["x"], mlp_of(values)
    with pytest.raises(ValueError, match="residual has the shape"):
        ops.folded_mlp(x, mlp, torch.ones(1, 8, 1, 1, 1))
    with pytest.raises(ValueError, match="statistics: variance has the shape"):
        ops.folded_mlp(x, mlp, statistics=ops.Statistics(torch.zeros(x.shape[:2]), torch.ones(1)))


@pytest.mark.parametrize("path", ["auto", "reference"])
@pytest.mark.parametrize("missing", ["gamma", "beta"])
def test_half_of_grn_is_refused(missing, path):
    values, _ = case(7, torch.float32, grn=True)
    values[missing] = None
    with ops.use(path):
        with pytest.raises(ValueError, match="both or not at all"):
            run(values)
        with pytest.raises(ValueError, match="both or not at all"):
            ops.folded_mlp(values["x"], mlp_of(values))


@pytest.mark.parametrize("name", ["block", "depthwise", "folded_mlp", "upsample_merge"])
def test_a_second_derivative_is_refused_with_the_way_to_have_it(name):
    values, settings = case(9, torch.float64, batch=1, channels=2, space=(3, 4), kernel=3, ratio=2, bias=True, grn=True)
    x, convolution, mlp = values["x"], ops.Convolution(values["weight"], values["bias"]), mlp_of(values)

    def apply():
        if name == "block":
            return run(values, settings)
        if name == "depthwise":
            return ops.depthwise(x, convolution)[0]
        if name == "folded_mlp":
            return ops.folded_mlp(x, mlp)
        return ops.upsample_merge(x, None, None)

    (first,) = torch.autograd.grad(apply().square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=rf"ops.{name} has first derivatives only.*use\('reference'\)"):
        first.square().sum().backward()
    with ops.use("reference"):
        (first,) = torch.autograd.grad(apply().square().sum(), x, create_graph=True)
        first.square().sum().backward()


def test_what_is_no_tensor_is_refused():
    values, _ = case(10, torch.float32, channels=8)
    convolution, mlp = ops.Convolution(values["weight"], values["bias"]), mlp_of(values)
    for call in (
        lambda: ops.block([1, 2], convolution, mlp),
        lambda: ops.depthwise([1, 2], convolution),
        lambda: ops.folded_mlp([1, 2], mlp),
    ):
        with pytest.raises(ValueError, match=r"[xy] is a tensor, not a list"):
            call()


def test_shapes_can_be_asked_for_on_the_meta_device():
    values, _ = case(11, torch.float32, channels=8, space=(5, 6, 7), grn=True, bias=True)
    x, weight, bias, *mlp = (v.to("meta") for v in values.values())
    assert ops.block(x, ops.Convolution(weight, bias, 2), ops.Mlp(*mlp)).shape == (*x.shape[:2], 3, 3, 4)
