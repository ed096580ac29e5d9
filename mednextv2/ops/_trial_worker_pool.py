"""The parallel processes that try kernels: starting them, reading their messages, and ending them if they hang."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import IO, NamedTuple

from mednextv2.machine import usable_cpus
from mednextv2.ops import _trial_store as store
from mednextv2.ops._trial_store import Verdict
from mednextv2.ops.implementations import SETTING, TRITON
from mednextv2.ops.problem_sizes import Problem

LIMIT_S = 120.0  # limit without a sign of life; one comes after each step, which may compile half a dozen kernels
START_S = 120.0  # limit until a process is ready, since it imports PyTorch, perhaps from a slow disk
MOST = 8  # most processes; each needs a core while it compiles
MEMORY_GIB = 3  # GPU memory for each process, of which CUDA takes half a GiB
RUNNER = "mednextv2.ops._trial_kernels_against_torch"

# This process's own search path, so that the child imports the very same packages
_START = (
    "import os; output = os.dup(1); os.dup2(2, 1); "  # before any imported module prints
    "import sys, json; device, runner, sys.path[:] = json.loads(sys.argv[1]); "
    "from mednextv2.ops import _trial_worker; _trial_worker.main(device, runner, output)"
)
_HINTS = {
    "Failed to find C compiler": "there is no C compiler, which Triton needs (Debian: apt install gcc)",
    "Python.h": "Python's headers are missing, which Triton needs (Debian: apt install python3-dev)",
    "busy or unavailable": "the GPU takes one process at a time; run `mednextv2 doctor` before it is in use",
}


class Job(NamedTuple):
    """Where to try: the device, such as `cuda:0`, and the GPU's name, by which a child recognises it."""

    device: str
    gpu: str


def workers(memory: int) -> int:
    """Return how many processes to start on a GPU of this many bytes of memory."""
    return max(1, min(MOST, usable_cpus(), memory // (MEMORY_GIB * 2**30)))


def try_all(cases: Sequence[Problem], job: Job, number: int) -> Generator[tuple[Problem, Verdict], None, None]:
    """Try cases in several processes; yield each with its verdict as it arrives.

    A case that ended a process, hung or found no memory while others ran is tried once more alone.

    Args:
        cases: The cases to try.
        job: The device and the GPU's name.
        number: The number of processes.
    """
    if reason := _no_python():
        yield from ((case, Verdict(store.UNABLE, reason)) for case in cases)
        return
    number = min(number, len(cases))
    first, again = _Round(cases, job, number), []
    for case, verdict in first.run():
        if number > 1 and verdict.kind in (store.ENDED, store.HUNG, store.MEMORY, store.UNABLE):
            again.append(case)
        else:
            yield case, verdict
    again += first.waiting
    if number > 1 and again:
        first = _Round(again, job, 1)
        yield from first.run()
        again = list(first.waiting)
    yield from ((case, Verdict(store.UNABLE, f"could not be tried: {first.unable}")) for case in again)


def _no_python() -> str | None:
    """Say why no child can be started from this process, or return None."""
    if not sys.executable or getattr(sys, "frozen", False):
        return "could not be tried: this program is no Python that can be started once more"
    return None


class _Round:
    """Several processes that share the waiting cases.

    Attributes:
        waiting: The cases that are still to be tried; after :meth:`run`, those that could not be.
        unable: Why a process could not start; then no other process is started.
    """

    def __init__(self, cases: Sequence[Problem], job: Job, number: int) -> None:
        self.waiting, self.job, self.number, self.unable = deque(cases), job, number, ""
        self.children: list[_Child] = []

    def run(self) -> Iterator[tuple[Problem, Verdict]]:
        """Yield each case with its verdict."""
        try:
            while self.waiting or self.children:
                self._start()
                if not self.children:
                    return
                for child in _ready(self.children):
                    yield from self._hear(child)
        finally:
            for child in self.children:
                child.end()

    def _start(self) -> None:
        idle = sum(child.case is None for child in self.children)  # each of these will take one case
        while not self.unable and len(self.children) < self.number and idle < len(self.waiting):
            try:
                self.children.append(_Child(self.job))
            except OSError as e:
                self.unable = f"{sys.executable} cannot be started ({e.strerror or e})"
            idle += 1

    def _hear(self, child: "_Child") -> Iterator[tuple[Problem, Verdict]]:
        """Handle the messages or the end of a child; give it the next case, or end it."""
        for message in child.messages():
            if "ready" in message and message["ready"] != self.job.gpu:
                self._lost(child, f"{self.job.device} is {message['ready']} in a process of its own")
            elif "ready" in message:
                self._give(child)
            elif "kind" in message:
                case, child.case = child.case, None
                if case is None:
                    self._lost(child, message["reason"].removeprefix("ended their process: "))
                    continue
                verdict = Verdict(message["kind"], message["reason"])
                if verdict.kind in (store.PASSED, store.WRONG):
                    self._give(child)
                else:  # it has ended itself
                    self._release(child)
                yield case, verdict
        hung = time.monotonic() >= child.deadline
        if child not in self.children or not (child.closed or hung):
            return
        if child.closed:
            child.end()
            words, verdict = f"ended ({child.how()})", child.verdict()
        else:
            words = f"was not ready within {START_S:.0f} s"
            verdict = Verdict(store.HUNG, f"did not end within {LIMIT_S:.0f} s")
        if child.case is None:
            self._lost(child, f"the process for that {words}")
        else:
            self._release(child)
            yield child.case, verdict

    def _give(self, child: "_Child") -> None:
        if self.waiting:
            child.give(self.waiting.popleft())
        else:
            self._release(child)

    def _lost(self, child: "_Child", reason: str) -> None:
        """Record that a child could not start."""
        self._release(child)
        text = reason + child.errors
        self.unable = next((hint for sign, hint in _HINTS.items() if sign in text), reason)

    def _release(self, child: "_Child") -> None:
        child.end()
        self.children.remove(child)


class _Child:
    """One process; `case` is the one that it is trying, or None before it is ready and between cases."""

    def __init__(self, job: Job) -> None:
        self.case: Problem | None = None
        self.closed = False
        self._line = b""
        # CUBLAS sums in a fixed order; with the setting, the trial itself asks for no verdict
        environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", SETTING: TRITON}
        arguments = json.dumps([job.device, RUNNER, [str(place) for place in sys.path]])
        with tempfile.TemporaryFile() as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, env=environment, start_new_session=True,
            )  # fmt: skip
            self._errors: int | None = os.dup(errors.fileno())
        self._input, self.output = _pipes(self.process)
        self.errors = ""  # the end of its standard error, once it has ended
        self.deadline = time.monotonic() + START_S

    def give(self, case: Problem) -> None:
        """Let the process try a case."""
        self.case, self.deadline = case, time.monotonic() + LIMIT_S
        with contextlib.suppress(OSError):  # it has died, as its other pipe will show
            self._input.write(json.dumps(store.to_json(case)).encode() + b"\n")
            self._input.flush()

    def messages(self) -> list[dict]:
        """Return the new messages; each is a sign of life."""
        if not _readable([self], 0):
            return []
        piece = os.read(self.output.fileno(), 1 << 16)
        self.closed = not piece
        *lines, self._line = (self._line + piece).split(b"\n")
        if lines:
            self.deadline = time.monotonic() + LIMIT_S
        return [message for message in map(_message, lines) if message is not None]

    def end(self) -> None:
        """End the process and everything that it has started."""
        if self._errors is None:
            return
        if self.closed:
            self.process.wait()  # it has ended itself
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)  # including the compilers that it has started
        self.process.wait()
        for pipe in (self._input, self.output):
            with contextlib.suppress(OSError):
                pipe.close()
        size = os.fstat(self._errors).st_size
        self.errors = os.pread(self._errors, 10_000, max(0, size - 10_000)).decode(errors="replace")
        os.close(self._errors)
        self._errors = None

    def verdict(self) -> Verdict:
        """Return what its end says about the kernels: nothing if it was killed from outside, as for lack of memory."""
        if -self.process.returncode in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            return Verdict(
                store.UNABLE, f"could not be tried: the process for that was ended from outside ({self.how()})"
            )
        return Verdict(store.ENDED, f"ended their process: {self.how()}")

    def how(self) -> str:
        """Tell how the process ended: its signal or exit code, and its last output."""
        code = self.process.returncode
        if -code in set(signal.Signals) and -code != signal.SIGABRT:  # at once, without a message
            return signal.Signals(-code).name
        name = "SIGABRT" if code < 0 else f"exit code {code}"
        return ": ".join([name, *self.errors.strip().splitlines()[-1:]])


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Return both pipes of a process: the one to its input, and the one from its output."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process was started without pipes")
    return process.stdin, process.stdout


def _message(line: bytes) -> dict | None:
    """Return the message in a line, or None if it is not from the trial: Python's start may print, too."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _ready(children: Sequence[_Child]) -> list[_Child]:
    """Wait until a child has sent something or is out of time; return these children."""
    ready = _readable(children, max(0.0, min(child.deadline for child in children) - time.monotonic()))
    return ready + [child for child in children if child not in ready and time.monotonic() >= child.deadline]


def _readable(children: Sequence[_Child], timeout: float) -> list[_Child]:
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child.output, selectors.EVENT_READ, child)
        return [key.data for key, _ in selector.select(timeout)]
