"""A function that runs in two processes at once, as in a training on two GPUs."""

import contextlib
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

WAIT = timedelta(seconds=240)
# the second process is a fork of a server that has imported what takes seconds, and has computed nothing: a fork of the
# tests' own process would have its threads' locks, but not its threads
multiprocessing.set_forkserver_preload(["torch.distributed", "torch.multiprocessing", "mednextv2.training"])


@contextlib.contextmanager
def joined(rank: int, folder: Path):
    """Join the two processes, which meet in a file of the folder; each waits for the other at the end."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=WAIT)
    yield
    dist.barrier()
    dist.destroy_process_group()


def in_two_processes(function: Callable, folder: Path, *given: Any) -> list[Any]:
    """Return what `function(rank, folder, *given)` returns in this process, rank 0, and in another, rank 1."""
    other = torch.multiprocessing.start_processes(
        _second, (function, folder, given), nprocs=1, join=False, start_method="forkserver"
    )
    first = function(0, folder, *given)
    assert other.join()
    return [first, torch.load(folder / "second.pt", weights_only=True)]


def _second(index: int, function: Callable, folder: Path, given: tuple) -> None:
    torch.save(function(index + 1, folder, *given), folder / "second.pt")
