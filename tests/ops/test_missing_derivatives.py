"""Operators that have first derivatives only say so, and what to do."""

import pytest
import torch
from op_helpers import block_case, mlp_of, run_block

from mednextv2 import ops
from mednextv2.ops.missing_derivatives import first_only


@pytest.mark.parametrize("name", ["block", "depthwise", "folded_mlp", "upsample_merge"])
def test_a_second_derivative_is_refused_with_the_way_to_have_it(name):
    values, settings = block_case(
        9, torch.float64, batch=1, channels=2, space=(3, 4), kernel=3, ratio=2, bias=True, grn=True
    )
    x, convolution, mlp = values["x"], ops.Convolution(values["weight"], values["bias"]), mlp_of(values)

    def apply():
        if name == "block":
            return run_block(values, settings)
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


@torch.library.custom_op("mednextv2_tests::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    """An operator that is differentiated once."""
    return x**3


@torch.library.custom_op("mednextv2_tests::cube_backward", mutates_args=())
def cube_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Its backward pass."""
    return 3 * x**2 * grad


cube.register_autograd(
    lambda ctx, grad: cube_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
first_only(cube_backward, "cube")


def test_first_derivatives_are_left_as_they_are():
    x = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    for create_graph in (False, True):
        (first,) = torch.autograd.grad(cube(x).sum(), x, create_graph=create_graph)
        assert first.tolist() == [3, 12, 27]


@pytest.mark.parametrize("of", ["grad", "x"])
def test_the_reason_comes_with_the_second_derivative_by_whatever_it_is(of):
    x, grad = torch.tensor([2.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    (first,) = torch.autograd.grad(cube(x), x, grad, create_graph=True)
    wanted = {"grad": grad, "x": x}[of]
    with pytest.raises(RuntimeError, match=r"^mednextv2\.ops\.cube has first derivatives only; .*use\('reference'\)"):
        torch.autograd.grad(first, wanted)


def test_nothing_is_raised_before_a_second_derivative_is_wanted():
    x = torch.tensor([2.0], requires_grad=True)
    (first,) = torch.autograd.grad(cube(x), x, create_graph=True)
    assert first.requires_grad
    assert (first.detach() + 1).item() == 13
