"""The Triton kernels of the convolution and of whole blocks: see triton_helpers.py."""

import importlib.util
import sys

import pytest
import torch
from masked_helpers import plain_block, seen_positions
from net_helpers import lively
from triton_helpers import DEVICE, GPU, MLP_NAMES, check, image, interpret, mlp_problem, not_in_this_process, random

from mednextv2.nets.blocks import MedNeXtBlock, MedNeXtDownBlock
from mednextv2.nets.sparse_mednext import run_block
from mednextv2.nets.visible_cells import plan_level
from mednextv2.ops import (
    Convolution,
    Mlp,
    Settings,
    block,
    block_reference,
    depthwise,
    folded_mlp,
    hold_weights,
    implementation_choice,
    implementations,
    memory_layout,
)
from mednextv2.ops.block import block_backward_op, block_op
from mednextv2.ops.depthwise import depthwise_reference
from mednextv2.ops.folded_mlp import folded_mlp_reference

if not sys.platform.startswith("linux") and importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is for Linux", allow_module_level=True)  # there the tests' requirements bring it

from mednextv2.ops import _depthwise_triton, _folded_mlp_triton, _triton_configs

pytestmark = [pytest.mark.usefixtures("kernels_and_dirty_memory"), *([pytest.mark.gpu] if GPU else [])]
CONV, STRIDED, TRANSPOSED = (1, False), (2, False), (2, True)
# which run in one precision only unless -m slow is given, and which then only
LONG = ("joined_block_agrees",)
LONGEST = (
    "opcheck", "many_tiles and (2-True or 1-False)", "large_kernel and (7- or 5-2)", "any_way and wide",
    "small_depthwise and (24-2-True or 0-5-2 or 8-1 or 8-2-False or 24-1)", "compiled_training_step",
    "joined_block_agrees and (False or (wide and not standard))", "visible_positions and float32",
    "both_operators and float32",
)  # fmt: skip


@not_in_this_process
def test_the_interpreter_agrees():
    interpret(__file__, LONG, LONGEST)


@pytest.mark.slow
@not_in_this_process
def test_the_interpreter_agrees_in_every_precision():
    interpret(__file__)


def check_depthwise(shape, size, stride, transposed, dtype, mean=0.0, with_bias=True):
    x = image(*shape, dtype=dtype, shift=mean)
    weight = random(shape[1], 1, *[size] * (len(shape) - 2), scale=size**-1.0)
    bias = random(shape[1]) if with_bias else None
    convolution = Convolution(weight, bias, stride, transposed)
    y, statistics = _depthwise_triton.forward(x, convolution)
    assert y.dtype == dtype
    assert memory_layout.channels_last(y).data_ptr() == y.data_ptr()
    rows = memory_layout.rows(y).double()
    check(statistics, [rows.mean(1), rows.var(1, correction=0)], torch.float32, ["mean", "variance"])
    grad = image(*y.shape, dtype=dtype)
    gradients = _depthwise_triton.backward(grad, x, convolution, True)
    assert gradients[1].is_contiguous()

    exact = [None if p is None else p.double().requires_grad_() for p in (x, weight, bias)]
    wanted = depthwise_reference(exact[0], Convolution(*exact[1:], stride, transposed))
    leaves = [p for p in exact if p is not None]
    wanted = [wanted, *torch.autograd.grad(wanted, leaves, grad.double())]
    check((y, *gradients)[: len(wanted)], wanted, dtype, ["y", "x", "weight", "bias"][: len(wanted)])


@pytest.mark.parametrize(("stride", "transposed"), [CONV, STRIDED, TRANSPOSED])
@pytest.mark.parametrize(("dtype", "channels"), [(torch.float32, 5), (torch.bfloat16, 8), (torch.float16, 24)])
def test_a_small_depthwise_convolution_agrees_with_its_definition(stride, transposed, dtype, channels):
    check_depthwise((1, channels, 3, 4, 5), 3, stride, transposed, dtype)
    check_depthwise((2, channels, 7, 6), 3, stride, transposed, dtype, with_bias=False)


def test_the_gradient_of_the_input_is_left_out_where_nobody_needs_it():
    x, weight, grad = image(2, 4, 5, 6), random(4, 1, 3, 3), image(2, 4, 5, 6)
    absent, *others = _depthwise_triton.backward(grad, x, Convolution(weight, None), False)
    assert absent.numel() == 0
    _, *again = _depthwise_triton.backward(grad, x, Convolution(weight, None), True)
    assert all(torch.equal(a, b) for a, b in zip(others, again, strict=True))  # to the bit, too


@pytest.mark.parametrize(("stride", "transposed"), [CONV, STRIDED, TRANSPOSED])
@pytest.mark.parametrize("size", [5, 7])
def test_a_large_kernel_agrees_with_its_definition(stride, transposed, size, small_launches):
    check_depthwise((1, 3, 3, 7), size, stride, transposed, torch.float32)
    _triton_configs.TRIAL["depthwise_gather"] = _triton_configs.Config((2, 64), 2, 1)
    _triton_configs.TRIAL["depthwise_weight"] = _triton_configs.Config((4, 64), 2, 1)
    check_depthwise((1, 1, 2, 2, 3), size, stride, transposed, torch.float32)


@pytest.mark.parametrize(("stride", "transposed"), [CONV, STRIDED, TRANSPOSED])
def test_a_depthwise_convolution_of_many_tiles(stride, transposed, small_launches):
    check_depthwise((1, 2, 3, 2, 5), 3, stride, transposed, torch.float32)
    check_depthwise((2, 18, 2, 5), 3, stride, transposed, torch.bfloat16)


@pytest.mark.parametrize(("stride", "transposed"), [CONV, STRIDED, TRANSPOSED])
def test_a_depthwise_convolution_of_one_voxel(stride, transposed):
    check_depthwise((2, 4, 1, 1, 1), 3, stride, transposed, torch.float32)
    check_depthwise((1, 1, 1, 1), 5, stride, transposed, torch.float32)


def test_moments_keep_their_digits_where_the_mean_is_far_from_zero(small_launches):
    x = image(2, 3, 6, 7, shift=100.0)
    weight = torch.zeros(3, 1, 3, 3, device=DEVICE)
    weight[:, :, 1, 1] = 1  # the image itself, whose mean is a hundred times its deviation
    y, (mean, variance) = _depthwise_triton.forward(x, Convolution(weight, None))
    rows = memory_layout.rows(x).double()
    check([y, mean, variance], [x.double(), rows.mean(1), rows.var(1, correction=0)], torch.float32, "ymv")
    check_depthwise((1, 4, 3, 3, 3), 3, 1, False, torch.float32, mean=100.0)


# of the input's channels, those of the output; stride; transposed; residual
KINDS = {"standard": (1, 1, False, "own"), "plain": (1, 1, False, None), "down": (1.5, 2, False, "given"),
         "up": (0.5, 2, True, None)}  # fmt: skip


def block_problem(kind, dtype, channels=4, space=(3, 4, 2), with_grn=True):
    """Return input, convolution, MLP and residual (`"own"`: the input) of a block."""
    wide, stride, transposed, residual = KINDS[kind]
    out = int(wide * channels)
    x = image(2, channels, *space, dtype=dtype)
    weight = random(channels, 1, *[3] * len(space), scale=0.3)
    mlp = mlp_problem(1, channels, 12, out, (1, 1, 1), dtype, with_grn)[1:]
    if residual == "given":
        residual = image(2, out, *[(n + 1) // 2 for n in space], dtype=dtype)
    return x, Convolution(weight, random(channels), stride, transposed), Mlp(*mlp), residual


def differentiate(function, problem, grad=None):
    """Return the result, and the gradients of all tensors of a problem (those of the convolution's bias apart)."""
    x, convolution, mlp, residual = problem
    given = None if not isinstance(residual, torch.Tensor) else residual
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in (x, *convolution[:2], *mlp, given)]
    convolution, mlp = Convolution(*leaves[1:3], *convolution[2:]), Mlp(*leaves[3:11])
    result = function(leaves[0], convolution, mlp, leaves[0] if isinstance(residual, str) else leaves[11])
    grad = image(*result.shape, dtype=x.dtype) if grad is None else grad
    gradients = torch.autograd.grad(result, [t for t in leaves if t is not None], grad)
    return grad, [result, *gradients[:2], *gradients[3:]], gradients[2]


@pytest.fixture
def kernels_chosen(monkeypatch):
    monkeypatch.setattr(
        implementation_choice, "choose_for", lambda *_: implementations.Choice(implementations.TRITON, "the test")
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("with_grn", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_joined_block_agrees_with_its_definition(kind, with_grn, dtype, width, kernels_chosen):
    problem = block_problem(kind, dtype, with_grn=with_grn)
    grad, got, d_bias = differentiate(block, problem)
    double = [None if t is None else t.double() if isinstance(t, torch.Tensor) else t for t in problem]
    double[1:3] = [
        type(p)(*(t.double() if isinstance(t, torch.Tensor) else t for t in p)) for p in problem[1:3]
    ]  # fmt: skip
    _, wanted, _ = differentiate(block_reference, double, grad.double())
    check(got, wanted, dtype, [str(i) for i in range(len(got))])
    assert (d_bias == 0).all()  # the norm takes the bias out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_block_is_differentiated_through_both_operators(dtype, kernels_chosen):
    x = image(2, 4, 3, 4, 2, dtype=dtype)
    weight, bias = random(4, 1, 3, 3, 3, scale=0.3), random(4)
    parameters = mlp_problem(2, 4, 12, 4, (1, 1, 1), dtype)[1:]
    inputs = [x, weight, bias, *parameters]
    leaves = [p.clone().requires_grad_() for p in inputs]
    y, statistics = depthwise(leaves[0], Convolution(*leaves[1:3]))
    result = folded_mlp(y, Mlp(*leaves[3:]), leaves[0], statistics=statistics)
    grad = image(*result.shape, dtype=dtype)
    got = [result, *torch.autograd.grad(result, leaves, grad)]

    exact = [p.double().requires_grad_() for p in inputs]
    wanted = depthwise_reference(exact[0], Convolution(*exact[1:3]))
    wanted = folded_mlp_reference(wanted, Mlp(*exact[3:]), exact[0])
    wanted = [wanted, *torch.autograd.grad(wanted, exact, grad.double())]
    # the gradient of the bias vanishes, since the norm removes it: what is left is rounding
    assert got.pop(3).abs().max() < (1e-4 if dtype == torch.float32 else 1)
    del wanted[3]
    check(got, wanted, dtype, ["out", "x", "weight", *MLP_NAMES[2:]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["standard", "down"])
def test_a_block_on_visible_positions_agrees(kind, dtype, kernels_chosen):
    block = {"standard": MedNeXtBlock(3, 4, 4, 3, 3, grn="mean"), "down": MedNeXtDownBlock(3, 4, 8, 3, 3, grn="mean")}
    block = lively(block[kind]).to(DEVICE)
    visible = torch.tensor([[[[True, False], [False, True]]], [[[False, True], [True, True]]]])  # other counts
    space, strides = (2, 4, 8), [[1] * 3, [2] * 3 if kind == "down" else [1] * 3]
    levels = [plan_level(visible, space, stride, torch.device(DEVICE)) for stride in strides]
    before, after = (seen_positions(visible, space, stride).to(DEVICE) for stride in strides)
    rows = random(int(before.sum()), 4, dtype=dtype).requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == torch.bfloat16):
        result = run_block(block, rows, *levels)
    grad = random(*result.shape, dtype=dtype)
    inputs = [rows, *(p for k, p in block.named_parameters() if k != "depthwise.bias")]  # which the norm removes
    got = [result, *torch.autograd.grad(result, inputs, grad)]

    block.double()
    exact = rows.detach().double().requires_grad_()
    samples = exact.split(before.flatten(1).sum(1).tolist())
    wanted = torch.cat([plain_block(block, *each) for each in zip(samples, before, after, strict=True)])
    inputs = [exact, *(p for k, p in block.named_parameters() if k != "depthwise.bias")]
    wanted = [wanted, *torch.autograd.grad(wanted, inputs, grad.double())]
    check(got, wanted, dtype, ["out", "rows", *(k for k, _ in block.named_parameters() if k != "depthwise.bias")])


def test_weights_are_folded_once_while_they_are_held_and_anew_afterwards(kernels_chosen, monkeypatch):
    x, convolution, mlp, _ = block_problem("standard", torch.bfloat16)
    folded, taps = [], []
    fold_weights, make_taps = _folded_mlp_triton.fold_weights, _depthwise_triton.taps
    monkeypatch.setattr(_folded_mlp_triton, "fold_weights", lambda *a: folded.append(1) or fold_weights(*a))
    monkeypatch.setattr(_depthwise_triton, "taps", lambda *a: taps.append(1) or make_taps(*a))
    weights = [*convolution[:2], *mlp]
    with torch.no_grad(), hold_weights():
        first = block(x, convolution, mlp, x)
        assert torch.equal(block(x, convolution, mlp, x), first)
        assert (len(folded), len(taps)) == (1, 1)
    for weight in weights:
        weight.requires_grad_().grad = torch.ones_like(weight)
    torch.optim.AdamW(weights, lr=0.1, fused=True).step()  # counts no changes in `Tensor._version`
    for held in (False, True):
        with torch.no_grad(), hold_weights(held):
            second = block(x, convolution, mlp, x)
        wanted = block_reference(x.double(), Convolution(*(t.double() for t in convolution[:2])),
                                 Mlp(*(t.double() for t in mlp)), x.double())  # fmt: skip
        check([second], [wanted.detach()], torch.bfloat16, ["out"])


def test_weights_may_lie_in_memory_in_any_way(width, kernels_chosen):
    x, convolution, mlp, _ = block_problem("standard", torch.bfloat16)

    def strided(weight):
        return torch.stack([weight, weight], 1)[:, 0] if weight.ndim == 1 else weight.t().contiguous().t()

    other = Mlp(*map(strided, mlp))
    assert not any(weight.is_contiguous() for weight in other)
    grad, wanted, _ = differentiate(block, (x, convolution, mlp, "own"))

    def on_strided(x, convolution, mlp, residual):
        return block(x, convolution._replace(bias=strided(convolution.bias)), Mlp(*map(strided, mlp)), residual)

    _, got, _ = differentiate(on_strided, (x, convolution, mlp, "own"), grad)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kind, kernels_chosen):
    x, convolution, mlp, residual = block_problem(kind, torch.bfloat16, channels=4, space=(2, 2, 2))
    own, residual = residual == "own", residual if isinstance(residual, torch.Tensor) else None
    inputs = [x, *convolution, *mlp, residual, own, False, *Settings()]
    inputs = [t.requires_grad_() if isinstance(t, torch.Tensor) else t for t in inputs]
    torch.library.opcheck(block_op, inputs, rtol=5e-2, atol=5e-2)
    with torch.no_grad():
        torch.library.opcheck(block_op, [*inputs[:15], True, *Settings()], rtol=5e-2, atol=5e-2)
        out, *saved = block_op(*inputs)
        plain = [t.detach() if isinstance(t, torch.Tensor) else t for t in inputs]
        arguments = (out, *plain[:2], *plain[3:13], *saved, own, True, *Settings())
        torch.library.opcheck(block_backward_op, arguments, rtol=5e-2, atol=5e-2)


def test_a_compiled_training_step_agrees(kernels_chosen):
    # the fake implementations have to know shapes and layouts of what the kernels return
    problem = block_problem("standard", torch.bfloat16, channels=8)
    grad, wanted, _ = differentiate(block, problem)
    _, got, _ = differentiate(torch.compile(block, backend="aot_eager"), problem, grad)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_autocast_does_not_reach_into_the_operator(kernels_chosen):
    x, convolution, mlp, _ = block_problem("standard", torch.bfloat16)
    grad, wanted, _ = differentiate(block, (x, convolution, mlp, "own"))
    with torch.autocast(DEVICE, torch.bfloat16):
        _, got, _ = differentiate(block, (x, convolution, mlp, "own"), grad)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
