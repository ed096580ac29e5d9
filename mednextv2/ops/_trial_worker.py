"""The process in which kernels are tried: the kernels may crash it.

It reads cases from its standard input and writes the results, one JSON object per line each. It ends when its input
ends, whatever the GPU is doing, so that it never outlives the process that started it.
"""

import importlib
import json
import os
import queue
import sys
import threading

import torch

from mednextv2.ops import _trial_store as store
from mednextv2.ops.problem_sizes import Problem

# messages when cuBLAS finds no memory, or the system kills Triton's assembler for lack of memory
_NO_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "error code -9")


def main(device: str, runner: str, output: int) -> None:
    """Try the cases that arrive.

    Args:
        device: The device, such as `cuda:0`.
        runner: The name of the module with `prepare` and `compare`.
        output: The file descriptor for messages; the output of libraries goes elsewhere.
    """
    pipe = os.fdopen(output, "w", encoding="utf-8")

    def tell(**message: object) -> None:
        print("\n" + json.dumps(message), file=pipe, flush=True)  # earlier output may not have ended its line

    cases: queue.SimpleQueue[Problem] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(cases,), daemon=True).start()
    try:
        trial = importlib.import_module(runner)
        tell(ready=trial.prepare(device))
        while True:
            fault = trial.compare(cases.get(), device, lambda: tell(alive=True))
            tell(kind=store.WRONG if fault else store.PASSED, reason=fault or "")
    except Exception as e:  # the GPU's context may be lost, so the next cases need a new process
        tell(**classify(e)._asdict())
    os._exit(1)  # no destructors: on a lost context, they raise or wait


def _listen(cases: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        cases.put(store.from_json(json.loads(line)))
    os._exit(0)


def classify(error: Exception) -> store.Verdict:
    """Say what an exception means for the kernels."""
    own, names = _lines(error), {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in _NO_MEMORY):
        return store.Verdict(store.MEMORY, "could not be tried, since there was no memory left for that")
    if isinstance(error, OSError):  # such as a full disk
        return store.Verdict(store.UNABLE, f"could not be tried: {own[0]}")
    if "OutOfResources" in names:  # needs more shared memory than there is
        return store.Verdict(store.COMPILE, f"could not be compiled: {own[0].split('. ')[0]}")
    if names & {"TritonError", "CompilationError"} or "PassManager" in own[0]:
        last = _lines(error.__cause__ or error)[-1]  # after lines of the kernel
        return store.Verdict(store.COMPILE, f"could not be compiled: {last}")
    return store.Verdict(store.ENDED, f"ended their process: {own[0]}")


def _lines(error: BaseException) -> list[str]:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^")]
    return lines or [type(error).__name__]
