"""The choice of an operator's implementation on the device at hand: the one place that decides and gives reasons."""

import torch

from mednextv2.ops import implementations
from mednextv2.ops.problem_sizes import Problem


def choose_for(problem: Problem, device: torch.device) -> implementations.Choice:
    """Decide for one class of blocks on a device: on CUDA by the verdict on its kernels: see :mod:`.trial`.

    A problem without a verdict is tried, which takes seconds; an existing verdict is looked up, without waiting for the
    GPU.
    """
    if implementations.by_verdict(device):
        from mednextv2.ops import trial  # imported here, since a CPU does not need it

        return trial.choice(problem, device)
    return implementations.of_kind(problem, device.type)
