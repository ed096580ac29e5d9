"""The rank of this process among several that train together."""

import torch.distributed as dist


def process_rank() -> int:
    """Return the rank of this process under `torch.distributed`, or 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main_process() -> bool:
    """Say whether this process writes files and progress: rank 0, or the only one."""
    return process_rank() == 0
