"""One trial: kernels are compared with the PyTorch path in double precision, in the output and every gradient.

Memory is filled with NaN first, so that reads beyond the tensors of a kernel and elements that it does not write are
noticed.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mednextv2.ops import implementations, memory_layout
from mednextv2.ops.block import block
from mednextv2.ops.depthwise import depthwise
from mednextv2.ops.folded_mlp import folded_mlp
from mednextv2.ops.parameters import Convolution, Mlp, Settings
from mednextv2.ops.problem_sizes import Problem

# Relative errors of norms, as in the operators' tests; a little more in float32, since the sums here are over more
# voxels. The paths in PyTorch and C++ stay below 4e-6 and 1e-2; broken kernels have far larger errors.
TOLERANCE = {torch.float32: 3e-5, torch.float16: 2e-2, torch.bfloat16: 2e-2}
# Number of expanded elements of a sample, for which every program of a kernel has several tiles, products use their
# large tiles (see `_folded_mlp_triton`; at the tiny size, they use the small ones), and everything takes milliseconds.
WORK = 2e7
_TINY = {2: (7, 5), 3: (3, 5, 7)}  # voxels inside the block


class Size(NamedTuple):
    """The number of samples, and of voxels inside the block, between the depthwise convolution and the output."""

    samples: int
    space: tuple[int, ...]


def prepare(device: str) -> str:
    """Run a one-line kernel; return the GPU's name, or raise the error that keeps any kernel from running."""
    from mednextv2.ops._trial_kernel import add_one

    torch.cuda.set_device(device)
    x = torch.arange(8.0, device=device)
    add_one[1,](x, 8)
    if not torch.equal(x.cpu(), torch.arange(1.0, 9.0)):
        raise RuntimeError("a kernel that adds one gave another sum")
    return torch.cuda.get_device_name(device)


def compare(problem: Problem, device: str, alive: Callable[[], None], work: float = WORK) -> str | None:
    """Try the kernels for a problem.

    Args:
        problem: The problem to try.
        device: The device, such as `cuda:0`.
        alive: A function that is called after each step, which may have compiled kernels.
        work: Number of expanded elements of a sample of the larger images.

    Returns:
        The text that says what is wrong, or None.
    """
    torch.manual_seed(0)
    for size in sizes(problem, work):
        fault = _compare(problem, size, device, alive)
        if fault:
            return f"{fault} (for {size.samples} × {'×'.join(map(str, size.space))} voxels)"
    return None


def sizes(problem: Problem, work: float) -> list[Size]:
    """Return a tiny odd size, one with odd edges for `work`, and one that is divisible by 16, as patches are."""
    dims, width = problem.spatial_dims, problem.expanded or 4 * problem.channels
    edge = max(6, round((work / width) ** (1 / dims)))
    odd = tuple((edge + shift) | 1 for shift in (-4, 0, 4)[:dims])
    whole = (max(1, round(edge / 16)) * 16,) * dims
    return [Size(1, _TINY[dims]), Size(2, odd), Size(2, whole)]


def run(problem: Problem, x: dict[str, Tensor]) -> dict[str, Tensor]:
    """Apply the operators of a problem to its inputs by name; return the outputs by name.

    A single sample, as in the smallest size, uses GRN's other denominator, so that both are tried.
    """
    mlp, settings = Mlp._make(map(x.get, Mlp._fields)), Settings(grn_sum=x["x"].shape[0] == 1)
    if not problem.kernel_size:
        return {"output": folded_mlp(x["x"], mlp, x.get("residual"), settings)}
    convolution = Convolution(x["weight"], x["bias"], problem.stride, problem.transposed)
    if not problem.expanded:
        y, statistics = depthwise(x["x"], convolution)
        if statistics is None:
            raise RuntimeError("the plain definition was run, which gives no moments to compare")
        return {"output": y, **statistics._asdict()}
    own = problem.residual and (problem.stride, problem.transposed) == (1, False)
    return {"output": block(x["x"], convolution, mlp, x["x"] if own else x.get("residual"), settings)}


def inputs(problem: Problem, size: Size, device: str) -> dict[str, Tensor]:
    """Draw random inputs by name: features in the problem's dtype, parameters in single precision, for gradients."""
    c, e, o, k = problem.channels, problem.expanded, problem.out_channels, problem.kernel_size

    def draw(*shape: int, scale: float = 1.0, shift: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
        value = torch.randn(shape, device=device) * scale + shift
        value = value.to(dtype)
        return (
            memory_layout.channels_last(value) if len(shape) == problem.spatial_dims + 2 else value
        ).requires_grad_()

    space = size.space
    if problem.stride == 2:
        space = tuple((n + 1) // 2 if problem.transposed else 2 * n - n % 2 for n in space)
    found = {"x": draw(size.samples, c, *space, dtype=problem.dtype)}
    if k:
        taps = (k,) * problem.spatial_dims
        found |= {"weight": draw(c, 1, *taps, scale=math.prod(taps) ** -0.5), "bias": draw(c)}
    if e:
        found |= {"norm_weight": draw(c, shift=1.0), "norm_bias": draw(c), "w1": draw(e, c, scale=c**-0.5),
                  "b1": draw(e), "w2": draw(o, e, scale=e**-0.5), "b2": draw(o)}  # fmt: skip
        if problem.grn:
            found |= {"gamma": draw(e), "beta": draw(e)}
        own = bool(k) and problem.stride == 1 and not problem.transposed  # the input itself
        if problem.residual and not own:
            inside = size.space
            if problem.transposed:
                inside = tuple(2 * n - 1 for n in space)
            found["residual"] = draw(size.samples, o, *inside, dtype=problem.dtype)
    return found


def _compare(problem: Problem, size: Size, device: str, alive: Callable[[], None]) -> str | None:
    given = inputs(problem, size, device)
    before = {name: value.detach().double().requires_grad_() for name, value in given.items()}
    with implementations.use(implementations.TRITON), _dirty_memory(device):
        with torch.inference_mode():
            alone = run(problem, given)
        alive()
        grad = torch.randn_like(alone["output"])
        first = _with_gradients(problem, given, grad)
        alive()
        second = _with_gradients(problem, given, grad)
    alive()
    with implementations.use(implementations.TORCH):
        exact = _with_gradients(problem, before, grad.double())
    for name, value in given.items():
        if not torch.equal(value.detach().double(), before[name].detach()):
            return f"changed their input {name}"
    for name, value in first.items():
        wanted = exact[name]
        if value.shape != wanted.shape:
            return f"gave the {name} in the shape {tuple(value.shape)}, not {tuple(wanted.shape)}"
        if not value.isfinite().all():
            return f"gave NaN or infinity in the {name}"
        for found in (value, alone.get(name, value)):
            error = _error(found, wanted, _floor(name, exact, problem))
            if not error <= TOLERANCE[problem.dtype]:
                return f"gave other numbers than PyTorch: {name} differs by {error:.0e}"
        if not torch.equal(value, second[name]):
            return f"gave other numbers the second time: {name}"
    alive()
    return None


def _with_gradients(problem: Problem, given: dict[str, Tensor], grad: Tensor) -> dict[str, Tensor]:
    found = run(problem, given)
    gradients = torch.autograd.grad(found["output"], list(given.values()), grad)
    named = {f"gradient of {name}": value for name, value in zip(given, gradients, strict=True)}
    return {name: value.detach() for name, value in (found | named).items()}


def _error(value: Tensor, wanted: Tensor, floor: float) -> float:
    """Return the norm of the difference over that of the wanted value, or over `floor` if that is larger."""
    difference = torch.linalg.vector_norm(value.double() - wanted).item()
    return difference / max(torch.linalg.vector_norm(wanted).item(), floor)


def _floor(name: str, exact: dict[str, Tensor], problem: Problem) -> float:
    """Return the norm that a tensor would have if nothing cancelled.

    The norm removes the mean, so the gradient of the bias of a convolution before it is zero except for rounding. It is
    a sum over all voxels of the result, like the gradient of a tap of the weight; in a transposed convolution, a tap
    sees only some of them.
    """
    if name != "gradient of bias" or not problem.expanded:
        return 1e-3
    weight = exact["gradient of weight"]
    more = problem.stride**problem.spatial_dims if problem.transposed else 1
    return torch.linalg.vector_norm(weight).item() * math.sqrt(more / weight[0].numel())


@contextlib.contextmanager
def _dirty_memory(device: str) -> Iterator[None]:
    """Fill tensors that PyTorch leaves uninitialised, and the memory around them, with NaN."""
    torch.full((2**24,), math.nan, device=device)  # the allocator keeps the memory, and serves tensors from it
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # fill_uninitialized_memory works only with this
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
