"""The Triton kernels of a block's inside, between its convolution and its output: see triton_helpers.py."""

import importlib.util
import sys

import pytest
import torch
from triton_helpers import DTYPES, GPU, MLP_NAMES, check, image, interpret, mlp_problem, not_in_this_process

from mednextv2.ops import Mlp, Settings
from mednextv2.ops.channel_statistics import moments
from mednextv2.ops.folded_mlp import folded_mlp_reference

if not sys.platform.startswith("linux") and importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is for Linux", allow_module_level=True)  # there the tests' requirements bring it

from mednextv2.ops import _folded_mlp_launch, _folded_mlp_triton, _triton_configs, _triton_parts

pytestmark = [pytest.mark.usefixtures("kernels_and_dirty_memory"), *([pytest.mark.gpu] if GPU else [])]
# which run in one precision only unless -m slow is given, and which then only
LONG = ("mlp_agrees", "mlp_sums_over_many_tiles")
LONGEST = (
    "mlp_agrees and 72", "mlp_sums and False", "channels_in_blocks and False", "padding_in_part and False",
    "without_grn and sum", "same_bits and thin",
)  # fmt: skip


@not_in_this_process
def test_the_interpreter_agrees():
    interpret(__file__, LONG, LONGEST)


@pytest.mark.slow
@not_in_this_process
def test_the_interpreter_agrees_in_every_precision():
    interpret(__file__)


def check_mlp(problem, residual=False, denominator="mean", floor=1e-3, tolerance=None):
    y, mlp = problem[0], Mlp(*problem[1:])
    added = image(y.shape[0], mlp.w2.shape[0], *y.shape[2:], dtype=y.dtype) if residual else None
    settings = Settings(grn_sum=denominator == "sum")
    result, g = _folded_mlp_triton.forward(y, moments(y), mlp, added, settings)
    assert result.dtype == y.dtype
    grad = image(*result.shape, dtype=y.dtype)
    dy, gradients = _folded_mlp_triton.backward(grad, y, moments(y), mlp, g, settings)
    gradients = (dy, *gradients)
    for gradient, p in zip(gradients, problem, strict=True):
        assert gradient.dtype == (problem[3] if p is None else p).dtype

    exact = [None if p is None else p.detach().double().requires_grad_() for p in problem]
    double = None if added is None else added.double()
    wanted = folded_mlp_reference(exact[0], Mlp(*exact[1:]), double, settings)
    leaves = [p for p in exact if p is not None]
    wanted = [wanted, *torch.autograd.grad(wanted, leaves, grad.double())]
    given = [True] + [p is not None for p in problem]
    got = [a for a, present in zip((result, *gradients), given, strict=True) if present]
    names = [a for a, present in zip(MLP_NAMES, given, strict=True) if present]
    check(got, wanted, y.dtype, names, floor, tolerance)
    if mlp.gamma is None:
        assert g.numel() == gradients[5].numel() == gradients[6].numel() == 0
    return result, g, gradients


def test_thin_blocks_are_those_whose_weights_and_sums_fit_into_a_multiprocessor():
    thin = [(32, 96, 32), (64, 256, 64), (16, 32, 32), (64, 192, 32), (24, 72, 24)]
    assert all(_folded_mlp_launch.is_thin(*sizes, (9, 0)) for sizes in thin)
    wide = [(128, 1024, 128), (64, 512, 128), (128, 512, 64), (64, 260, 64)]
    assert not any(_folded_mlp_launch.is_thin(*sizes, (9, 0)) for sizes in wide)
    for gpu in [(8, 0), (8, 6), (10, 0), (12, 0)]:
        assert all(_folded_mlp_launch.is_thin(*sizes, gpu) == (max(sizes[0], sizes[2]) <= 32) for sizes in thin)


def test_gelu_of_half_precision_is_off_by_less_than_its_rounding():
    u = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    square = u.square().clamp(max=_triton_parts.LIMIT.value)
    p0, p1, p2 = (p.value for p in (_triton_parts.P0, _triton_parts.P1, _triton_parts.P2))
    found = 0.5 * u * (1 + torch.tanh(u * (p0 + square * (p1 + square * p2))))
    exact = torch.nn.functional.gelu(u)
    assert (found - exact).abs().max() < 5e-5
    rounding = exact.abs().clamp_min(0.02) * 2**-9
    assert ((found - exact).abs() < rounding).all()


@pytest.mark.parametrize(
    ("dtype", "denominator"),
    [(DTYPES[0], "mean"), (DTYPES[0], "sum"), (DTYPES[1], "mean"), (DTYPES[2], "sum")],
    ids=str,
)
@pytest.mark.parametrize(
    ("shape", "space"), [((1, 4, 8, 4), (5, 7)), ((2, 5, 11, 7), (3, 4, 5)), ((3, 24, 72, 24), (2, 3, 3))], ids=str
)
def test_the_mlp_agrees_with_its_definition(shape, space, dtype, denominator, width):
    check_mlp(mlp_problem(*shape, space, dtype), residual=len(space) == 3, denominator=denominator)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_grn", [True, False])
def test_the_mlp_sums_over_many_tiles(dtype, with_grn, small_launches, width):
    check_mlp(mlp_problem(2, 6, 35, 9, (3, 5, 7), dtype, with_grn), residual=True)


@pytest.mark.parametrize("with_grn", [True, False])
def test_a_wide_mlp_takes_its_channels_in_blocks(with_grn):
    check_mlp(mlp_problem(2, 130, 140, 136, (3, 7), torch.bfloat16, with_grn))


def test_many_expanded_channels_are_taken_in_blocks():
    check_mlp(mlp_problem(1, 8, 1100, 8, (3, 5), torch.bfloat16), residual=True)


@pytest.mark.parametrize(("out", "with_grn"), [(40, True), (20, False)])
def test_expanded_channels_may_be_padding_in_part(out, with_grn):
    assert _triton_configs.UNTUNED["expansion", _triton_configs.HALF][64].whole
    check_mlp(mlp_problem(2, 40, 80, out, (3, 7), torch.bfloat16, with_grn), residual=out == 40)


def test_a_program_takes_fewer_rows_where_outputs_are_many():
    check_mlp(mlp_problem(1, 8, 22, 530, (3, 5), torch.bfloat16))


@pytest.mark.parametrize("denominator", ["mean", "sum"])
def test_the_mlp_without_grn_at_its_start_and_far_from_it(denominator, width):
    check_mlp(mlp_problem(2, 4, 8, 5, (3, 3, 3), torch.float32, with_grn=False), residual=True)
    check_mlp(mlp_problem(2, 4, 8, 5, (3, 3, 3), torch.float32, gain=0.0), denominator=denominator)
    check_mlp(mlp_problem(2, 4, 8, 5, (3, 3, 3), torch.float32, gain=20.0), denominator=denominator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_mlp_with_channels_of_zeros(dtype, width):
    problem = mlp_problem(2, 5, 9, 4, (3, 4, 2), dtype)
    problem[0][:, 1] = 0  # a channel without variance
    problem[3][2], problem[4][2] = 0, 0  # an expanded channel that is zero: its norm is zero
    problem[3][3], problem[4][3] = 0, -50  # and one that GELU makes zero
    _, g, _ = check_mlp(problem, residual=True)
    assert (g[:, 2:4] == 0).all()


def test_the_mlp_on_one_voxel(width):
    for space in [(1, 1), (1, 1, 1)]:  # without variance: the norm's output is its bias, and y has no gradient
        _, _, gradients = check_mlp(mlp_problem(2, 5, 9, 4, space, torch.float32))
        assert (gradients[0] == 0).all()


def test_a_mean_far_from_zero_costs_the_mlp_no_digits(width):
    # 100 deviations from zero: y itself and its mean are rounded to 100 * 2^-24 = 6e-6 of a deviation each, which
    # the gradients have twice
    problem = mlp_problem(2, 8, 24, 8, (4, 5, 6), torch.float32, mean=70.0)
    check_mlp(problem, residual=True, tolerance=2.5e-5)


def test_the_mlp_gives_the_same_bits_twice(width):
    y, *weights = mlp_problem(2, 8, 24, 8, (2, 5, 6), torch.float32)
    mlp, statistics, settings = Mlp(*weights), moments(y), Settings()
    grad = image(2, 8, 2, 5, 6)
    results = []
    for _ in range(2):
        out, g = _folded_mlp_triton.forward(y, statistics, mlp, None, settings)
        dy, gradients = _folded_mlp_triton.backward(grad, y, statistics, mlp, g, settings)
        results.append((out, g, dy, *gradients))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
