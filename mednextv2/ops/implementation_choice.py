"""Which implementation an operator takes on the device at hand: the one place that decides, and that can tell why."""

import torch

from mednextv2.ops import implementations
from mednextv2.ops.problem_sizes import Problem


def choose_for(problem: Problem, device: torch.device) -> implementations.Choice:
    """Decide for one class of blocks on a device: on CUDA by the verdict on its kernels, see :mod:`.trial`.

    A problem without a verdict is tried, which takes seconds; where there is one, it is looked up, and nothing waits
    for the GPU.
    """
    if implementations.by_verdict(device):
        from mednextv2.ops import trial  # here, since a CPU needs none of it

        return trial.choice(problem, device)
    return implementations.of_kind(problem, device.type)
