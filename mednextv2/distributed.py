"""The rank of this process among several that train together, and sums over all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def process_rank() -> int:
    """Return the rank of this process under `torch.distributed`, or 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main_process() -> bool:
    """Say whether this process writes files and progress: rank 0, or the only one."""
    return process_rank() == 0


_staying = [False]  # whether the processes stay joined at the end of a training


def join_processes(backend: str) -> None:
    """Join this process with the others that torchrun started, unless it is joined already.

    Args:
        backend: `nccl` or `gloo`.
    """
    if not dist.is_initialized():
        dist.init_process_group(backend=backend)


def leave_processes() -> None:
    """Leave the other processes, except within :func:`staying_joined`."""
    if not _staying[0]:
        dist.destroy_process_group()


@contextmanager
def staying_joined() -> Iterator[None]:
    """Let the processes stay joined at the end of a training, since another one follows.

    Processes that torchrun started cannot be joined a second time: they would find each other's old addresses.
    """
    _staying[0] = True
    try:
        yield
    finally:
        _staying[0] = False


@torch.library.custom_op("mednextv2::sum_over_processes", mutates_args=())
def sum_over_processes(x: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes of `torch.distributed`, all of which must call this equally often.

    It is an operator, which compilers leave as it is: compiled by PyTorch 2.11, an `all_reduce` inside an autograd
    function has a wrong gradient. `torch.distributed.nn.functional` deprecates its own sum.

    Args:
        x: Of the same shape in all processes.

    Returns:
        A new tensor of that shape. Its gradient is the sum of the gradients that all processes have of theirs.
    """
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


@sum_over_processes.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    return sum_over_processes(grad)


sum_over_processes.register_autograd(_backward)
