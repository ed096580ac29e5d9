"""What the tests of the operators share."""

import contextlib
import random

import torch

from mednextv2 import ops
from mednextv2.ops import Mlp, Settings, native

MLP_ARGUMENTS = ("y", "norm_weight", "norm_bias", "w1", "b1", "gamma", "beta", "w2", "b2", "residual")
BLOCK_SPACES = [(5, 6, 7), (1, 1, 1), (2, 2, 2), (9, 8, 7), (12, 11), (1, 1)]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2, torch.float64: 1e-12}


@contextlib.contextmanager
def nan_filled():
    """Let every tensor that PyTorch leaves uninitialised hold NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fill_uninitialized_memory, on by default, works with this only
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def available_paths():
    """Paths of this machine's CPU; the C++ one must be there where there is a compiler."""
    return ["auto", "torch"] if native.load().loaded else ["torch"]


def mlp_case(seed, dtype, **fixed):
    """Random arguments of the folded MLP by name, as leaves that want gradients, and its settings."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    pick = {
        "batch": rng.choice([1, 2, 3]),
        "channels": rng.choice([1, 4, 8, 16, 24, 32, 40, 64]),
        "ratio": rng.choice([1, 2, 3, 8]),
        "out": rng.choice([0.5, 1, 2]),
        "space": rng.choice([(5, 6, 7), (1, 1, 1), (3, 3, 3), (9, 8, 7), (16, 10, 16), (12, 11), (1, 1)]),
        "grn": rng.random() < 0.75,
        "denominator": rng.choice(["mean", "sum"]),
        "mean": rng.choice([0, 0, 100]) if dtype in (torch.float32, torch.float64) else 0,
        "gamma": rng.choice([0.0, 1.0, 30.0]),
        "zero_channel": rng.random() < 0.3,
        "residual": rng.random() < 0.7,
    } | fixed
    n, c = pick["batch"], pick["channels"]
    e, o = c * pick["ratio"], max(1, int(c * pick["out"]))
    parameter_dtype = torch.float64 if dtype == torch.float64 else torch.float32

    def leaf(*shape, scale=1.0, dtype=parameter_dtype):
        return (torch.randn(*shape, dtype=torch.float64) * scale).to(dtype).requires_grad_()

    y = torch.randn(n, c, *pick["space"], dtype=torch.float64) + pick["mean"]
    if pick["zero_channel"]:
        y[:, 0] = 0
    values = {
        "y": y.to(dtype).requires_grad_(),
        "norm_weight": leaf(c),
        "norm_bias": leaf(c),
        "w1": leaf(e, c, scale=c**-0.5),
        "b1": leaf(e),
        "gamma": leaf(e, scale=pick["gamma"]) if pick["grn"] else None,
        "beta": leaf(e) if pick["grn"] else None,
        "w2": leaf(o, e, scale=e**-0.5),
        "b2": leaf(o),
        "residual": leaf(n, o, *pick["space"], dtype=dtype) if pick["residual"] else None,
    }
    return values, Settings(grn_sum=pick["denominator"] == "sum")


def exact(values):
    """Copy arguments to float64 leaves."""
    return {k: None if v is None else v.detach().double().requires_grad_() for k, v in values.items()}


def errors(actual, expected, actual_inputs, expected_inputs, seed=0):
    """Relative errors of an output and of the gradients of all inputs, by norms."""
    torch.manual_seed(seed)
    grad = torch.randn(expected.shape, dtype=torch.float64).to(actual.dtype)
    actual.backward(grad)
    expected.backward(grad.double())
    found = {"out": relative(actual, expected)}
    for name, a in actual_inputs.items():
        if a is not None:
            found[name] = relative(a.grad, expected_inputs[name].grad)
    return found


def relative(actual, expected):
    """Norm of the difference over that of the expected tensor; where that is zero, or as good as, the norm itself."""
    actual, expected = actual.detach().double(), expected.detach().double()
    assert actual.shape == expected.shape
    if actual.isnan().any():
        return float("inf")
    difference, size = (actual - expected).norm().item(), expected.norm().item()
    return difference / size if size > 1e-6 * expected.numel() ** 0.5 else difference


def run_mlp(values, settings, path=None):
    """Run on a path, or on that which is set already."""
    with ops.use(path) if path else contextlib.nullcontext():
        return apply_mlp(values, settings)


def apply_mlp(values, settings, **more):
    return ops.folded_mlp(values["y"], mlp_of(values), values["residual"], settings, **more)


def reference_mlp(values, settings):
    return ops.folded_mlp_reference(values["y"], mlp_of(values), values["residual"], settings)


def mlp_of(values):
    """Weights by name as the operators take them."""
    return Mlp(*map(values.get, Mlp._fields))


def block_case(seed, dtype, **fixed):
    """Random arguments of a block by name, as leaves that want gradients, and its settings."""
    generator = torch.Generator().manual_seed(seed)
    pick = torch.randint(1000, (4,), generator=generator).tolist()
    fixed = {"space": BLOCK_SPACES[pick[0] % len(BLOCK_SPACES)], "out": 1, "residual": False, "mean": 0} | fixed
    kernel_size, bias = fixed.pop("kernel", (3, 5, 7)[pick[1] % 3]), fixed.pop("bias", pick[2] % 4 > 0)
    values, settings = mlp_case(seed, dtype, **fixed)
    x = values.pop("y")
    values.pop("residual")
    parameter = {"dtype": values["w1"].dtype, "requires_grad": True}
    kernel = torch.randn(x.shape[1], 1, *[kernel_size] * (x.dim() - 2), **parameter)
    bias = torch.randn(x.shape[1], **parameter) if bias else None
    return {"x": x, "weight": kernel, "bias": bias, **values}, settings


def run_block(values, settings=None):
    """Apply a block with the residual connection."""
    convolution = ops.Convolution(values["weight"], values["bias"])
    return ops.block(values["x"], convolution, mlp_of(values), values["x"], settings)
