"""Making of the runs: one process after the other, of which none can end the comparison."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from tqdm import tqdm

from mednextv2.comparison.runs import LOG, OUTCOME, PROGRESS, Job, Run
from mednextv2.comparison.watch import read_progress
from mednextv2.errors import InputError
from mednextv2.training.time_estimate import duration

_POLL_S, _PATIENCE_S = 0.5, 10.0


def make_runs(runs: Sequence[Run], job_of: Callable[[Run], Job], describe: Callable[[Run], str]) -> dict[str, str]:
    """Make all runs that are not done yet, and print a line about each to stderr.

    Args:
        runs: The runs, in their order.
        job_of: Returns what the process of a run is told.
        describe: Returns the result of a run that is done, for its line.

    Returns:
        Why runs failed, by the name of the network; a network whose run failed is not tried again in this call.

    Raises:
        KeyboardInterrupt: After Ctrl-C, when the process has ended.
    """
    failed: dict[str, str] = {}
    started, made = time.monotonic(), 0
    left = [run for run in runs if not run.done]
    interval = 1 if sys.stderr.isatty() else 20
    with tqdm(
        total=len(runs), initial=len(runs) - len(left), desc="comparing", unit="run", mininterval=interval,
        dynamic_ncols=True,
    ) as bar:  # fmt: skip
        for number, run in enumerate(left, len(runs) - len(left) + 1):
            begin = time.monotonic()
            if run.entry.name in failed:
                text = "not started, since another run of this network failed"
            elif reason := make_run(run, job_of(run), partial(_show, bar, run.name)):
                failed[run.entry.name] = reason
                text = f"failed: {reason}"
            else:
                text = describe(run)
                made += 1
            now = time.monotonic()
            line = f"run {number} of {len(runs)}: {run.name}: {text}; {duration(now - begin)}"
            if rest := len(runs) - number:
                each = (now - started) / max(1, made)
                line += f" ({duration(now - started)} elapsed, about {duration(each * rest)} left)"
            bar.write(line, file=sys.stderr)
            bar.update(1)
    return failed


def _show(bar: tqdm, name: str, text: str) -> None:
    bar.set_postfix_str(f"{name}: {text}", refresh=sys.stderr.isatty())


def make_run(run: Run, job: Job, report: Callable[[str], object] = str) -> str:
    """Make a run in a process of its own.

    Args:
        run: The run.
        job: What its process is told.
        report: Called with what the process is doing.

    Returns:
        Why it failed, or an empty text.
    """
    file = job.write()
    (run.folder / OUTCOME).unlink(missing_ok=True)
    with (run.folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mednextv2.comparison.child", str(file)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(),
        )  # fmt: skip
        try:
            while _runs(process):
                report(_state(run))
        except BaseException:
            _end(process)
            raise
    outcome = run.outcome()
    if outcome.get("status") == "done":
        return ""
    return str(outcome.get("reason") or _cause_of(process.returncode, run.folder / LOG))


def _environment() -> dict[str, str]:
    """Return the environment of a run, whose process imports this copy of the package."""
    package = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([package, before] if before else [package])}


def _runs(process: subprocess.Popen) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(_POLL_S)
    return process.poll() is None


def _state(run: Run) -> str:
    try:
        progress = read_progress(run.folder / PROGRESS)
    except (InputError, TypeError):  # of a file from elsewhere; the process itself will say what is wrong
        return "running"
    if progress.finished:
        return "evaluating"
    return f"epoch {len(progress.seconds)} of {progress.epochs}" if progress.epochs else "starting"


def _end(process: subprocess.Popen) -> None:
    """End a process; a terminal has sent it Ctrl-C, too, which it may be working on."""
    with suppress(subprocess.TimeoutExpired, OSError):
        process.send_signal(signal.SIGINT)
        process.wait(_PATIENCE_S)
    if process.poll() is None:
        process.kill()
        process.wait()


def _cause_of(status: int, log: Path) -> str:
    if status == -signal.SIGKILL:
        return f"its process was killed by the system, probably for lack of memory; {log} has its last lines"
    if status < 0:
        return f"its process ended with {signal.Signals(-status).name}; {log} has its last lines"
    return f"its process ended with status {status} before it was done; {log} has its last lines"
