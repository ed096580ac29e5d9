import importlib
import random
from types import SimpleNamespace

import pytest
import torch
from op_helpers import TOLERANCE, available_paths, errors, exact, nan_filled, relative

from mednextv2 import ops
from mednextv2.ops import implementations, memory_layout
from mednextv2.ops.depthwise import depthwise_backward_op, depthwise_op

MODULE = importlib.import_module("mednextv2.ops.depthwise")  # mednextv2.ops.depthwise is the function
KINDS = [(1, False), (2, False), (2, True)]


def case(seed, dtype, **fixed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    pick = {
        "batch": rng.choice([1, 2, 3]),
        "channels": rng.choice([1, 4, 8, 16, 24, 32, 40, 64]),
        "space": rng.choice([(5, 6, 7), (1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 5, 27), (8, 10, 16), (12, 11), (1, 9)]),
        "kernel": rng.choice([3, 3, 5, 7]),
        "mean": 0,
        "bias": rng.random() < 0.8,
    } | fixed
    parameter_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.randn(pick["batch"], pick["channels"], *pick["space"], dtype=torch.float64) + pick["mean"]
    kernel = [pick["kernel"]] * len(pick["space"])
    return {
        "x": x.to(dtype).requires_grad_(),
        "weight": torch.randn(pick["channels"], 1, *kernel, dtype=parameter_dtype).requires_grad_(),
        "bias": torch.randn(pick["channels"], dtype=parameter_dtype).requires_grad_() if pick["bias"] else None,
    }


def run(values, stride=1, transposed=False):
    return ops.depthwise(values["x"], ops.Convolution(values["weight"], values["bias"], stride, transposed))


def definition(values, stride=1, transposed=False):
    return ops.depthwise_reference(values["x"], ops.Convolution(values["weight"], values["bias"], stride, transposed))


@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("stride", "transposed"), KINDS)
@pytest.mark.parametrize("seed", range(14))
def test_result_moments_and_gradients_equal_the_definition(path, dtype, stride, transposed, seed):
    values = case(seed, dtype)
    copies = exact(values)
    with nan_filled(), ops.use(path):
        y, (mean, variance) = run(values, stride, transposed)
        found = errors(y, definition(copies, stride, transposed), values, copies)
    flat = y.detach().double().flatten(2)
    scale = flat.std().item() if flat.numel() > 1 else 1.0
    found["mean"] = (mean.double() - flat.mean(2)).abs().max().item() / max(scale, 1e-3)
    found["variance"] = (variance.double() - flat.var(2, correction=0)).abs().max().item() / max(scale, 1e-3) ** 2
    assert {k: v for k, v in found.items() if v > TOLERANCE[dtype]} == {}
    assert memory_layout.channels_last(y) is y
    assert mean.dtype == variance.dtype == torch.float32


@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize(("stride", "transposed"), KINDS)
def test_the_variance_stands_a_large_mean(path, stride, transposed):
    values = case(1, torch.float32, channels=24, space=(12, 16, 20), kernel=3)
    values["bias"] = torch.full((24,), 1000.0)
    with ops.use(path):
        y, (mean, variance) = run(values, stride, transposed)
    flat = y.detach().double().flatten(2)
    assert relative(mean, flat.mean(2)) < 1e-6
    assert relative(variance, flat.var(2, correction=0)) < 1e-5


@pytest.mark.parametrize(("stride", "transposed"), KINDS)
@pytest.mark.parametrize("space", [(2, 3, 4), (4, 3)])
def test_gradcheck(stride, transposed, space):
    values = case(2, torch.float64, batch=2, channels=2, space=space, kernel=3, bias=True)
    assert torch.autograd.gradcheck(
        lambda *v: run(dict(zip(values, v, strict=True)), stride, transposed)[0], tuple(values.values())
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("stride", "transposed"), KINDS)
def test_opcheck(dtype, stride, transposed):
    values = case(3, dtype, batch=2, channels=8, space=(4, 6, 8), kernel=3, bias=True)
    x = memory_layout.channels_last(values["x"].detach()).requires_grad_()
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float64: 1e-9}[dtype]
    inputs = (x, values["weight"], values["bias"], stride, transposed)
    torch.library.opcheck(depthwise_op, inputs, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        y = depthwise_op(*inputs)[0]
        inputs = (y, x.detach(), values["weight"].detach(), stride, transposed)
        for need_x in (True, False):
            torch.library.opcheck(depthwise_backward_op, (*inputs, need_x), rtol=tolerance, atol=tolerance)


def test_the_gradient_of_the_input_is_left_out_where_nobody_wants_it(monkeypatch):
    asked = []
    implementation = MODULE.choose

    def spy(*arguments):
        module = implementation(*arguments)
        return SimpleNamespace(
            forward=module.forward, backward=lambda *a: asked.append(a[-1]) or module.backward(*a)
        )  # fmt: skip

    monkeypatch.setattr(MODULE, "choose", spy)
    values = case(4, torch.float32)
    run({**values, "x": values["x"].detach()})[0].sum().backward()
    run(values)[0].sum().backward()
    assert asked == [False, True]


def test_other_kernel_sizes_take_pytorch_s_operator_and_say_so():
    values = case(5, torch.float32, channels=4, space=(6, 6, 6), kernel=1)
    copies = exact(values)
    y, _ = run(values)
    assert max(errors(y, definition(copies), values, copies).values()) < 1e-5
    if "auto" in available_paths():
        assert implementations.choose("cpu", torch.float32, 1) == implementations.Choice(
            "torch", "the CPU kernels take kernel sizes 3, 5 and 7, not 1"
        )


@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize("index", range(3))
def test_an_error_of_a_thousandth_in_any_gradient_is_found(path, index, monkeypatch):
    implementation = MODULE.choose

    def wrong(*arguments):
        module = implementation(*arguments)
        return SimpleNamespace(
            forward=module.forward,
            backward=lambda *a: tuple(g * 1.001 if i == index else g for i, g in enumerate(module.backward(*a))),
        )

    monkeypatch.setattr(MODULE, "choose", wrong)
    values = case(6, torch.float32, channels=8, space=(5, 6, 7), kernel=3, bias=True)
    copies = exact(values)
    with ops.use(path):
        y, _ = run(values)
        found = errors(y, definition(copies), values, copies)
    assert [name for name, error in found.items() if error > 5e-4] == [list(values)[index]]


@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_transposed_convolution_of_stride_1_has_the_right_gradients(path, dtype):
    values = case(7, dtype, channels=8, space=(5, 6, 7), kernel=3, bias=True)
    copies = exact(values)
    with ops.use(path):
        y, _ = run(values, 1, True)
        found = errors(y, definition(copies, 1, True), values, copies)
    assert max(found.values()) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("x", "weight", "bias", "stride", "message"),
    [
        ((1, 8, 6, 6, 6), (7, 1, 3, 3, 3), None, 1, r"weight has the shape \(8, 1, k, k, k\) with odd k .* \(7, 1, 3"),
        ((1, 8, 6, 6, 6), (8, 8, 3, 3, 3), None, 1, "weight has the shape"),
        ((1, 8, 6, 6, 6), (8, 1, 3, 3), None, 1, "weight has the shape"),
        ((1, 8, 6, 6, 6), (8, 1, 2, 2, 2), None, 1, "with odd k"),
        ((1, 8, 6, 6, 6), (8, 1, 0, 3, 3), None, 1, "with odd k"),
        ((1, 8, 6, 6, 6), (8, 1, 3, 3, 3), (0,), 1, r"bias has the shape \(8,\), not \(0,\) of float32"),
        ((1, 8, 6, 6, 6), (8, 1, 3, 3, 3), None, 0, "stride is 1 or 2, not 0"),
        ((1, 8, 6, 6, 6), (8, 1, 3, 3, 3), None, 3, "stride is 1 or 2, not 3"),
        ((8, 6, 6), (8, 1, 3, 3, 3), None, 1, "two or three dimensions"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(x, weight, bias, stride, message):
    with pytest.raises(ValueError, match=message):
        run({"x": torch.ones(x), "weight": torch.ones(weight), "bias": bias and torch.ones(bias)}, stride)


def test_integers_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        run({"x": torch.ones(1, 8, 4, 4, dtype=torch.int64), "weight": torch.ones(8, 1, 3, 3), "bias": None})
