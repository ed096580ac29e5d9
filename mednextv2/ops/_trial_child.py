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
from mednextv2.ops.problems import Problem


def main(device: str, runner: str) -> None:
    """Try what is asked for.

    Args:
        device: Such as `cuda:0`.
        runner: The module that has `prepare` and `compare`.
    """
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no message

    def tell(**message: object) -> None:
        print(json.dumps(message), file=pipe, flush=True)

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
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in own[0]:
        return store.Verdict(store.MEMORY, "could not be tried, since there was no memory left for that")
    if "OutOfResources" in names:  # more shared memory than there is
        return store.Verdict(store.COMPILE, f"could not be compiled: {own[0].split('. ')[0]}")
    if names & {"TritonError", "CompilationError"} or "PassManager" in own[0]:
        last = _lines(error.__cause__ or error)[-1]  # below lines of the kernel
        return store.Verdict(store.COMPILE, f"could not be compiled: {last}")
    return store.Verdict(store.ENDED, f"ended their process: {own[0]}")


def _lines(error: BaseException) -> list[str]:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^")]
    return lines or [type(error).__name__]
