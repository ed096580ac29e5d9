"""The processes of `benchmark.py`: one for each row, and one that writes the file that a row may need."""

import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark_measure import run_case, run_export
from benchmark_models import Case

# modules that take seconds to import are imported once, in the process from which the others are forked
PRELOAD = [
    "torch",
    "torch._dynamo",
    "torch.utils.flop_counter",
    "monai.losses",
    "monai.networks.nets",
    "mednextv2.nets",
    "mednextv2.training.loss",
]


class Worker:
    """A process that answers one message at a time with a dict; once it has failed, `error` says why."""

    def __init__(self, function: Callable[..., None], argument: Any, log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.error: str | None = None
        self.connection, other = context.Pipe()
        self.process = context.Process(target=function, args=(other, str(log), argument))
        self.process.start()
        other.close()

    def answer(self, message: Any = None) -> dict[str, Any]:
        """Send a message, if there is one, and return the answer: `{"error": …}` also if the process has ended."""
        try:
            if message is not None:
                self.connection.send(message)
            while not self.connection.poll(1.0):  # a child of a process that crashed may hold its end of the pipe open
                if not self.process.is_alive() and not self.connection.poll():
                    raise EOFError
            reply = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(10)
            reply = {"error": self._how_it_ended()}
        self.error = reply.get("error")
        return reply

    def _how_it_ended(self) -> str:
        code = self.process.exitcode or 0
        if code >= 0:
            return f"the process ended with status {code}"
        name = signal.Signals(-code).name
        return f"the process was ended by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def start(case: Case, log: Path) -> tuple[Worker, dict[str, Any]]:
    """Start the process of a row, after another has written the file that it may need; return its first answer."""
    if case.competitor == "onnxruntime":
        worker = Worker(run_export, case, log)
        answer = worker.answer()
        if worker.error:
            return worker, answer
        worker.close()
    worker = Worker(run_case, case, log)
    return worker, worker.answer()
