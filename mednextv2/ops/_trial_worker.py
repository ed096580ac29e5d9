"""The process in which kernels are tried: it may die of them.

It reads cases from its standard input and writes what comes out, one JSON object a line each. It ends when its input
does, whatever the GPU is doing, so that it never outlives the process that started it.
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

# cuBLAS finds no memory for itself; the system ends Triton's assembler for want of memory
_NO_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "error code -9")


def main(device: str, runner: str, output: int) -> None:
    """Try what is asked for.

    Args:
        device: Such as `cuda:0`.
        runner: The module that has `prepare` and `compare`.
        output: File descriptor for messages. What libraries print goes elsewhere.
    """
    pipe = os.fdopen(output, "w", encoding="utf-8")

    def tell(**message: object) -> None:
        print("\n" + json.dumps(message), file=pipe, flush=True)  # what was printed before may not have ended its line

    cases: queue.SimpleQueue[Problem] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(cases,), daemon=True).start()
    try:
        trial = importlib.import_module(runner)
        tell(ready=trial.prepare(device))
        while True:
            fault = trial.compare(cases.get(), device, lambda: tell(alive=True))
            tell(kind=store.WRONG if fault else store.PASSED, reason=fault or "")
    except Exception as e:  # the GPU's context may be lost: what comes next needs a new process
        tell(**classify(e)._asdict())
    os._exit(1)  # no destructor: on a lost context they raise, or wait


def _listen(cases: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        cases.put(store.from_json(json.loads(line)))
    os._exit(0)


def classify(error: Exception) -> store.Verdict:
    """Say what an exception means for the kernels."""
    own, names = _lines(error), {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in _NO_MEMORY):
        return store.Verdict(store.MEMORY, "could not be tried, since there was no memory left for that")
    if isinstance(error, OSError):  # a full disk, say
        return store.Verdict(store.UNABLE, f"could not be tried: {own[0]}")
    if "OutOfResources" in names:  # more shared memory than there is
        return store.Verdict(store.COMPILE, f"could not be compiled: {own[0].split('. ')[0]}")
    if names & {"TritonError", "CompilationError"} or "PassManager" in own[0]:
        last = _lines(error.__cause__ or error)[-1]  # below lines of the kernel
        return store.Verdict(store.COMPILE, f"could not be compiled: {last}")
    return store.Verdict(store.ENDED, f"ended their process: {own[0]}")


def _lines(error: BaseException) -> list[str]:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^")]
    return lines or [type(error).__name__]
