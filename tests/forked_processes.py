"""Processes that start with everything imported, which takes a new Python seconds each time.

They are forks of a server that only imports, and has computed nothing. A fork of the tests' own process would have the
locks of its threads, but not the threads. A program is run as by `python -m` or `-c`, with a working directory, an
environment and an output of its own. What Python itself does at its start has tests of its own, with real processes.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

WAIT = timedelta(seconds=240)
IMPORTED = [
    "monai.bundle", "mednextv2.bundle.run", "mednextv2.data", "mednextv2.inference", "mednextv2.nets",
    "mednextv2.predict_files", "mednextv2.report", "mednextv2.training", "torch.utils.tensorboard",
]  # fmt: skip
multiprocessing.set_forkserver_preload(IMPORTED)


# ------------------------------------------------------------------------------------------------------- a program


def run_module(module: str, *arguments: Any, cwd=None, timeout=300, **environment) -> subprocess.CompletedProcess:
    """Do what `python -m MODULE ARGUMENTS` does, in a process of its own, and return its exit status and output."""
    return _run(_module, [module, *map(str, arguments)], cwd, timeout, environment)


def run_code(code: str, *arguments: Any, cwd=None, timeout=300, **environment) -> subprocess.CompletedProcess:
    """Do the same as `python -c CODE ARGUMENTS`."""
    return _run(_code, [code, *map(str, arguments)], cwd, timeout, environment)


def _module(module: str) -> None:
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _code(code: str) -> None:
    sys.argv[0] = "-c"
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def _run(main: Callable, words: list[str], cwd, timeout, environment) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        given = (main, words, os.fspath(cwd or os.getcwd()), {**os.environ, **environment}, files)
        process = multiprocessing.get_context("forkserver").Process(target=_be_program, args=given)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(words, process.exitcode, *(file.read_text("utf-8") for file in files))


def _be_program(main: Callable, words: list[str], folder: str, environment: dict[str, str], files: list[Path]) -> None:
    for descriptor, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, folder)
    if threads := environment.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    sys.argv = list(words)
    try:
        main(words[0])
    except SystemExit as e:  # as Python ends then, but with what was registered for the end
        status = 0 if e.code is None else e.code
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    else:
        status = 0
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# ------------------------------------------------------------------------------------------------- a training of two


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
