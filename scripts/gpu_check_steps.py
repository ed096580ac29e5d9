"""Whole steps of networks on a GPU, for `gpu_check.py`: eager, as CUDA graphs, compiled; ours and a peer, in turns.

Every row has a separate process, so that a failed row is shown with its error. All rows are prepared in parallel, since
compiling needs only the processor, except for a lock: two large networks at once may not fit into memory. Then they
take turns, and ratios are computed within a turn.
"""

import contextlib
import fcntl
import functools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmark_measure import PeakMemory
from benchmark_models import CLASSES, Case, Stepper, synchronize
from benchmark_processes import PRELOAD
from benchmark_report import one_line

from mednextv2.data import LabelScheme
from mednextv2.ops import hold_weights
from mednextv2.training import SegmentationLoss

# recorded: the network's passes are CUDA graphs, as in our trainings; graph: the whole step with the optimizer is one
MODES = ("eager", "recorded", "graph", "compiled")


class Row(NamedTuple):
    """The subject of a measurement.

    Attributes:
        competitor: `ours`, `monai` or `resenc_l`.
        what: `train` or `inference`.
        mode: One of `MODES`.
        variant: A key of `mednextv2.nets.VARIANTS`.
        patch: The edge of the patch in voxels.
        batch: The number of samples.
        device: `cuda`, or `cpu` in a dry run: there, no graph is recorded, and the compiler is a stand-in.
    """

    competitor: str
    what: str
    mode: str
    variant: str
    patch: int
    batch: int
    device: str


class Subject(Stepper):
    """A network with its step, as in `benchmark_models.py`, but with the loss of our recipe for every network."""

    def __init__(self, row: Row) -> None:
        super().__init__(
            Case(
                row.competitor, "bf16", row.what, row.variant, (row.patch,) * 3, row.batch, 3, row.device, None, ""
            )
        )  # fmt: skip
        self.row = row
        self.loss = SegmentationLoss(LabelScheme(["background", *(f"class {i}" for i in range(1, CLASSES))]))
        for group in self.optimizer.param_groups:
            group["capturable"] = row.mode == "graph" and row.device == "cuda"
        if row.mode == "recorded":
            from mednextv2.nets import CudaGraphs

            self.net = functools.partial(CudaGraphs(), self.net)
        elif row.mode == "compiled":
            self.net = torch.compile(self.net, backend="inductor" if row.device == "cuda" else "eager")
        if row.competitor == "ours" and row.what == "inference":  # like a sliding window
            self._held = contextlib.ExitStack()
            self._held.enter_context(hold_weights())
        self.run: Callable[[], None] = self.step

    def record(self) -> None:
        """Record a step as a CUDA graph, which runs from now on."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.rest()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.run = graph.replay

    def measure(self, seconds: float) -> dict[str, Any]:
        """Run for some seconds; return the seconds of a step and until it is submitted, and the peak memory."""
        memory = PeakMemory(self.device)
        memory.reset()
        if self.row.mode == "graph" and self.device.type == "cuda":
            self.record()
        self.run()
        times: list[float] = []
        submitted: list[float] = []
        while len(times) < 3 or sum(times) < seconds:
            synchronize(self.device)
            start = time.perf_counter()
            self.run()
            submitted.append(time.perf_counter() - start)
            synchronize(self.device)
            times.append(time.perf_counter() - start)
        peak = memory.peak()
        self.run = self.step
        self.rest()
        return {"seconds": times, "submitted": submitted, "peak_bytes": peak}


def run_row(connection: Connection, row: Row, log: str, lock: str, seconds: float) -> None:
    """Prepare a row, then measure whenever asked; this runs in the row's process."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    try:
        start = time.perf_counter()
        subject = Subject(row)
        with open(lock, "w", encoding="ascii") as file, contextlib.ExitStack() as stack:
            if row.mode != "compiled":
                fcntl.flock(file, fcntl.LOCK_EX)
                stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
            for _ in range(3):
                subject.step()
            synchronize(subject.device)
            subject.rest()
        connection.send({"ready_seconds": time.perf_counter() - start})
        while connection.recv():
            connection.send(subject.measure(seconds))
    except EOFError:
        pass
    except Exception as error:
        print(repr(error), file=sys.stderr)
        connection.send({"error": one_line(error)})


class Worker:
    """The process of one row, which is asked with a time limit."""

    def __init__(self, row: Row, log: Path, lock: Path, seconds: float) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.row, self.turns, self.error, self.ready = row, [], None, None
        self.connection, other = context.Pipe()
        self.process = context.Process(target=run_row, args=(other, row, str(log), str(lock), seconds), daemon=True)
        self.process.start()
        other.close()

    def wait(self, seconds: float) -> dict[str, Any] | None:
        """Return an answer, or None if none came in time; an error is kept in `error`."""
        try:
            if not self.connection.poll(max(0.0, seconds)):
                return None
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            answer = {"error": f"its process ended with status {self.process.exitcode}"}
        self.error = answer.get("error")
        return None if self.error else answer

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def measure_rows(rows: list[Row], limit: float, save: Callable[..., None], rounds: int = 3) -> None:
    """Measure rows in turns.

    Args:
        rows: The rows. Times are relative to the first row with the same task.
        limit: The seconds for everything, of which preparation may take about two thirds.
        save: A function that is called with the table's rows, its notes and the raw numbers after every turn.
        rounds: The largest number of turns of each row.
    """
    end = time.monotonic() + limit
    with tempfile.TemporaryDirectory() as folder:
        log, lock = Path(folder, "log"), Path(folder, "lock")
        workers = [Worker(row, log, lock, min(1.0, limit / 60)) for row in rows]
        try:
            warm = time.monotonic() + limit * 0.65
            for worker in workers:
                worker.ready = worker.wait(warm - time.monotonic())
            for number in range(rounds):
                for i in range(len(workers)):
                    worker = workers[(i + number) % len(workers)]  # so that no row always follows the same one
                    _turn(worker, end)
                    raw = [{"row": w.row._asdict(), "turns": w.turns} for w in workers]
                    save([_cells(w, workers) for w in workers], [], raw)
        finally:
            for worker in workers:
                worker.close()


def _turn(worker: Worker, end: float) -> None:
    if worker.error is None and worker.ready is None:
        worker.ready = worker.wait(0)  # it may have become ready late
    left = end - time.monotonic()
    if worker.error is None and worker.ready is not None and left > 0:
        worker.connection.send(True)
        answer = worker.wait(left)
        if answer is not None:
            worker.turns.append(answer)
        elif worker.error is None:
            worker.error = "no time was left for its turn"


COLUMNS = ("network", "what", "how", "ms", "ms until submitted", "peak (GiB)", "relative", "ready after (s)", "note")


def _cells(worker: Worker, workers: list[Worker]) -> list[Any]:
    row = worker.row
    name = row.variant if row.competitor == "ours" else row.competitor
    cells: list[Any] = [name, f"{row.what}, batch {row.batch}", row.mode]
    note = worker.error or ("" if worker.ready else "was not ready in time")
    if not worker.turns:
        return [*cells, None, None, None, None, None, note]
    reference = next(w for w in workers if w.row.what == row.what)
    own, theirs = ([statistics.median(turn["seconds"]) for turn in w.turns] for w in (worker, reference))
    ratio = statistics.median(a / b for a, b in zip(own, theirs, strict=False)) if theirs else None
    submitted = statistics.median(statistics.median(turn["submitted"]) for turn in worker.turns)
    peak = max(turn["peak_bytes"] for turn in worker.turns) / 2**30
    ready = worker.ready["ready_seconds"] if worker.ready else None
    return [*cells, statistics.median(own) * 1e3, submitted * 1e3, peak, ratio, ready, note]
