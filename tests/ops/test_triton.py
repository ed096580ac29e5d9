"""The Triton kernels against the plain definitions: on a GPU where there is one, else by Triton's interpreter.

The interpreter has to be chosen before Triton is imported, and other tests import it through `torch.compile`: so
`test_the_interpreter_agrees` runs this file again, in a process of its own.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from mednextv2.ops import depthwise, folded_mlp, paths, residual_block
from mednextv2.ops.depthwise import depthwise_reference
from mednextv2.ops.folded_mlp import folded_mlp_reference, moments

if not sys.platform.startswith("linux") and importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is for Linux", allow_module_level=True)  # there the tests' requirements bring it

import triton

from mednextv2.ops import _depthwise_triton, _folded_mlp_kernels, _folded_mlp_triton, _triton_configs

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if GPU else "cpu"

pytestmark = [pytest.mark.gpu] if GPU else []
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-2}
DTYPES = list(TOLERANCE)
CONV, STRIDED, TRANSPOSED = (1, False), (2, False), (2, True)


@pytest.fixture(autouse=True)
def _kernels_and_dirty_memory(request):
    """Skip where the kernels cannot run; fill memory that nothing was written to with NaN."""
    here = (test_the_interpreter_agrees, test_the_kernels_compile_for_hopper)
    if not (GPU or INTERPRETED) and request.function not in here:
        pytest.skip("runs inside test_the_interpreter_agrees")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=GPU)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def small_launches(monkeypatch):
    """Let a small problem need many tiles, and every program several of them."""
    for name in ("mlp_norms", "mlp_output", "mlp_w2", "mlp_w1", "mlp_input"):
        monkeypatch.setitem(_triton_configs.TRIAL, name, _triton_configs.Config((16, 16), 4, 2, programs=8))
    monkeypatch.setitem(_triton_configs.TRIAL, "depthwise_gather", _triton_configs.Config((2, 32), 2, 1))
    monkeypatch.setitem(_triton_configs.TRIAL, "depthwise_weight", _triton_configs.Config((2, 32), 2, 1, programs=16))


@pytest.mark.skipif(GPU or INTERPRETED, reason="the kernels run in this process")
def test_the_interpreter_agrees():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes the compiler's place")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name", ["norms", "output", "w2", "w1", "input", "convolution", "transposed", "weight", "strided_weight"]
)
def test_the_kernels_compile_for_hopper(name, dtype):
    # without a GPU; the compiler refuses things that the interpreter accepts
    if name in ("norms", "output", "w2", "w1", "input"):
        kernel = getattr(_folded_mlp_kernels, f"{name}_kernel")
        launch = _folded_mlp_triton._Launch(
            torch.empty(1, 24, 8, 8, dtype=dtype), torch.empty(96, 24), torch.empty(32, 96)
        )
        _, constants = launch._constants(f"mlp_{name}", {"HAS_RESIDUAL": True, "PER_SAMPLE": 1})
    else:
        kernel = _depthwise_triton._gather_kernel
        constants = {"C": 24, "KZ": 3, "K": 3, "SZ": 1, "S": 1, "BLOCK_Y": 4, "BLOCK_X": 8, "BLOCK_C": 32}
        constants |= {"TAPS_X": 3, "TRANSPOSED": False, "HAS_BIAS": True, "MOMENTS": True, "PLANES": 4, "num_warps": 4}
        if name in ("transposed", "strided_weight"):
            constants |= {"SZ": 2, "S": 2, "TRANSPOSED": True}
        if "weight" in name:
            kernel = _depthwise_triton._weight_kernel
    options = {"num_warps": constants["num_warps"], "enable_fp_fusion": True}
    signature = {a: "constexpr" if a.isupper() else "i32" for a in kernel.arg_names}
    pointers = {a for a in kernel.arg_names if not a.isupper()} - set(kernel.do_not_specialize)
    own = {"x", "y", "a", "b", "grad", "w1", "w2", "residual", "out", "dy"}  # the others are in single precision
    short = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}[dtype]
    signature |= {a: short if a in own else "*fp32" for a in pointers}
    constants = {a: constants[a] for a in kernel.arg_names if a.isupper()}
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=triton.backends.compiler.GPUTarget("cuda", 90, 32), options=options)
    assert compiled.metadata.shared < 99 * 1024


def random(*shape, dtype=torch.float32, scale=1.0, shift=0.0):
    x = torch.randn(*shape, dtype=torch.float64) * scale + shift
    return x.to(device=DEVICE, dtype=dtype)


def image(*shape, **how):
    return paths.channels_last(random(*shape, **how))


def check(got, wanted, dtype, names, floor=1e-3):
    """Compare tensors by norms; the error may be that of a tensor whose norm is `floor`, where all cancels."""
    for name, a, b in zip(names, got, wanted, strict=True):
        assert a.shape == b.shape, name
        error, size = torch.linalg.vector_norm(a.double() - b), torch.linalg.vector_norm(b)
        assert error <= TOLERANCE[dtype] * size.clamp_min(floor), f"{name}: {error:.2e} of {size:.2e}"


MLP_NAMES = ["out", "y", "norm_weight", "norm_bias", "w1", "b1", "gamma", "beta", "w2", "b2"]


def mlp_problem(samples, channels, expanded, out, space, dtype, with_grn=True, gain=1.0, mean=0.0):
    """Return `y` and the parameters, as `folded_mlp_reference` takes them."""
    y = image(samples, channels, *space, dtype=dtype, scale=0.7, shift=mean)
    grn = (random(expanded, scale=gain), random(expanded)) if with_grn else (None, None)
    w1, w2 = random(expanded, channels, scale=channels**-0.5), random(out, expanded, scale=expanded**-0.5)
    return [y, random(channels, shift=1.0), random(channels), w1, random(expanded), *grn, w2, random(out)]


def check_mlp(problem, residual=False, denominator="mean", floor=1e-3):
    y, gamma, out = problem[0], problem[5], problem[7].shape[0]
    added = image(y.shape[0], out, *y.shape[2:], dtype=y.dtype) if residual else None
    settings = (1e-5, 1e-6, denominator == "sum")
    inputs = (y, *moments(y), *problem[1:])
    result, g = _folded_mlp_triton.forward(*inputs, added, *settings)
    assert result.dtype == y.dtype
    grad = image(*result.shape, dtype=y.dtype)
    gradients = _folded_mlp_triton.backward(grad, *inputs, g, *settings)
    for gradient, p in zip(gradients, problem, strict=True):
        assert gradient.dtype == (problem[3] if p is None else p).dtype

    exact = [None if p is None else p.detach().double().requires_grad_() for p in problem]
    wanted = folded_mlp_reference(*exact, None if added is None else added.double(), 1e-5, 1e-6, denominator)
    leaves = [p for p in exact if p is not None]
    wanted = [wanted, *torch.autograd.grad(wanted, leaves, grad.double())]
    given = [True] + [p is not None for p in problem]
    got = [a for a, present in zip((result, *gradients), given, strict=True) if present]
    names = [a for a, present in zip(MLP_NAMES, given, strict=True) if present]
    check(got, wanted, y.dtype, names, floor)
    if gamma is None:
        assert g.numel() == gradients[5].numel() == gradients[6].numel() == 0
    return result, g, gradients


@pytest.mark.parametrize(
    ("dtype", "denominator"),
    [(DTYPES[0], "mean"), (DTYPES[0], "sum"), (DTYPES[1], "mean"), (DTYPES[2], "sum")],
    ids=str,
)
@pytest.mark.parametrize(
    ("shape", "space"), [((1, 4, 8, 4), (5, 7)), ((2, 5, 11, 7), (3, 4, 5)), ((3, 24, 72, 24), (2, 3, 3))], ids=str
)
def test_the_mlp_agrees_with_its_definition(shape, space, dtype, denominator):
    check_mlp(mlp_problem(*shape, space, dtype), residual=len(space) == 3, denominator=denominator)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_grn", [True, False])
def test_the_mlp_sums_over_many_tiles(dtype, with_grn, small_launches):
    check_mlp(mlp_problem(2, 6, 35, 9, (3, 5, 7), dtype, with_grn), residual=True)


@pytest.mark.parametrize("with_grn", [True, False])
def test_a_wide_mlp_takes_its_channels_in_blocks(with_grn):
    check_mlp(mlp_problem(2, 130, 33, 140, (3, 7), torch.bfloat16, with_grn))


def test_a_wide_mlp_in_single_precision_takes_its_channels_in_blocks(monkeypatch):
    monkeypatch.setattr(_folded_mlp_triton, "_too_wide", lambda y, w2: False)
    check_mlp(mlp_problem(1, 150, 20, 131, (3, 5), torch.float32))


def test_a_very_wide_mlp_is_left_to_pytorch():
    problem = mlp_problem(2, 257, 20, 5, (2, 3), torch.float32)
    assert _folded_mlp_triton._too_wide(problem[0], problem[7])
    check_mlp(problem, residual=True)


@pytest.mark.parametrize("denominator", ["mean", "sum"])
def test_the_mlp_without_grn_at_its_start_and_far_from_it(denominator):
    check_mlp(mlp_problem(2, 4, 8, 5, (3, 3, 3), torch.float32, with_grn=False), residual=True)
    check_mlp(mlp_problem(2, 4, 8, 5, (3, 3, 3), torch.float32, gain=0.0), denominator=denominator)
    check_mlp(mlp_problem(2, 4, 8, 5, (3, 3, 3), torch.float32, gain=20.0), denominator=denominator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_mlp_with_channels_of_zeros(dtype):
    problem = mlp_problem(2, 5, 9, 4, (3, 4, 2), dtype)
    problem[0][:, 1] = 0  # a channel without variance
    problem[3][2], problem[4][2] = 0, 0  # an expanded channel that is zero: its norm is zero
    problem[3][3], problem[4][3] = 0, -50  # and one that GELU makes zero
    _, g, _ = check_mlp(problem, residual=True)
    assert (g[:, 2:4] == 0).all()


def test_the_mlp_on_one_voxel():
    for space in [(1, 1), (1, 1, 1)]:  # without variance: what cancels is as large as 1 / sqrt(eps)
        check_mlp(mlp_problem(2, 5, 9, 4, space, torch.float32), floor=316)


def test_a_mean_far_from_zero_costs_the_mlp_no_digits():
    check_mlp(mlp_problem(2, 8, 24, 8, (4, 5, 6), torch.float32, mean=70.0), residual=True)


def test_the_mlp_gives_the_same_bits_twice():
    problem = mlp_problem(2, 8, 24, 8, (2, 5, 6), torch.float32)
    inputs = (problem[0], *moments(problem[0]), *problem[1:])
    first, second = (_folded_mlp_triton.forward(*inputs, None, 1e-5, 1e-6, False) for _ in range(2))
    grad = image(*first[0].shape)
    first += _folded_mlp_triton.backward(grad, *inputs, first[1], 1e-5, 1e-6, False)
    second += _folded_mlp_triton.backward(grad, *inputs, second[1], 1e-5, 1e-6, False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def check_depthwise(shape, size, stride, transposed, dtype, mean=0.0, with_bias=True):
    x = image(*shape, dtype=dtype, shift=mean)
    weight = random(shape[1], 1, *[size] * (len(shape) - 2), scale=size**-1.0)
    bias = random(shape[1]) if with_bias else None
    y, *statistics = _depthwise_triton.forward(x, weight, bias, stride, transposed)
    assert y.dtype == dtype
    assert paths.channels_last(y).data_ptr() == y.data_ptr()
    rows = paths.rows(y).double()
    check(statistics, [rows.mean(1), rows.var(1, correction=0)], torch.float32, ["mean", "variance"])
    grad = image(*y.shape, dtype=dtype)
    gradients = _depthwise_triton.backward(grad, x, weight, stride, transposed, True)

    exact = [None if p is None else p.double().requires_grad_() for p in (x, weight, bias)]
    wanted = depthwise_reference(*exact, stride, transposed)
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
    absent, *others = _depthwise_triton.backward(grad, x, weight, 1, False, False)
    assert absent.numel() == 0
    _, *again = _depthwise_triton.backward(grad, x, weight, 1, False, True)
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
    y, mean, variance = _depthwise_triton.forward(x, weight, None, 1, False)
    rows = paths.rows(x).double()
    check([y, mean, variance], [x.double(), rows.mean(1), rows.var(1, correction=0)], torch.float32, "ymv")
    check_depthwise((1, 4, 3, 3, 3), 3, 1, False, torch.float32, mean=100.0)


@pytest.mark.parametrize(("dtype", "joined"), [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)])
def test_a_block_is_differentiated_through_both_operators(dtype, joined, monkeypatch):
    monkeypatch.setattr(paths, "choose", lambda *_: paths.Path(paths.TRITON, "the test"))
    x = image(2, 4, 3, 4, 2, dtype=dtype)
    weight, bias = random(4, 1, 3, 3, 3, scale=0.3), random(4)
    parameters = mlp_problem(2, 4, 12, 4, (1, 1, 1), dtype)[1:]
    inputs = [x, weight, bias, *parameters]
    leaves = [p.clone().requires_grad_() for p in inputs]
    if joined:
        result = residual_block(*leaves)
    else:
        y, statistics = depthwise(*leaves[:3])
        result = folded_mlp(y, *leaves[3:], leaves[0], statistics=statistics)
    grad = image(*result.shape, dtype=dtype)
    got = [result, *torch.autograd.grad(result, leaves, grad)]

    exact = [p.double().requires_grad_() for p in inputs]
    wanted = folded_mlp_reference(depthwise_reference(*exact[:3]), *exact[3:], exact[0])
    wanted = [wanted, *torch.autograd.grad(wanted, exact, grad.double())]
    # the gradient of the bias vanishes, since the norm removes it: what is left is rounding
    assert got.pop(3).abs().max() < (1e-4 if dtype == torch.float32 else 1)
    del wanted[3]
    check(got, wanted, dtype, ["out", "x", "weight", *MLP_NAMES[2:]])


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_products_in_single_precision_are_exact_or_nearly(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert _triton_configs.precision() == {"highest": "ieee", "high": "tf32x3"}[precision]
        check_mlp(mlp_problem(2, 8, 24, 8, (4, 5, 6), torch.float32))
    finally:
        torch.set_float32_matmul_precision(before)
