"""Commands in separate processes, which are stopped with everything that they started."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PATIENCE = 8  # seconds between asking a process to stop and killing it, since it may have to stop others, too


class Ran(NamedTuple):
    """The end of a command.

    Attributes:
        status: Its exit status, or None if it was stopped.
        output: The text that it printed.
        seconds: The time that it took.
    """

    status: int | None
    output: str
    seconds: float

    @property
    def last_line(self) -> str:
        """The last line that is not empty."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


def run(command: list[str], limit: float, **environment: str) -> Ran:
    """Run a command in the project's folder; after `limit` seconds, it is stopped with everything that it started."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        try:
            status: int | None = process.wait(max(1.0, limit))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            stop(process, PATIENCE / 2)  # before this process is itself ended by the one that stops it
        output.seek(0)
        return Ran(status, output.read(), time.monotonic() - start)


def stop(process: subprocess.Popen, patience: float = PATIENCE) -> None:
    """End a process that was started as the first of its session, and everything that it started in the session.

    Args:
        process: The process.
        patience: The seconds between asking it to stop and killing it.
    """
    try:
        _send(process, signal.SIGTERM, patience)
    finally:  # also after a second Ctrl-C
        _send(process, signal.SIGKILL, patience)


def _send(process: subprocess.Popen, sign: signal.Signals, patience: float) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, sign)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
