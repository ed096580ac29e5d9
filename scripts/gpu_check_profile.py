"""The time of each kernel in a whole step, for `gpu_check.py`."""

from collections.abc import Callable
from typing import Any

import torch
from gpu_check_steps import Row, Subject
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

COLUMNS = ("part", "kernel", "times a step", "ms a step", "share")
STEPS = 3
SHOWN = 40  # number of kernels of a part that are shown; the others are one row
LONGEST = 90  # most characters of a kernel's name, since those of templates fill pages


def profile_rows(rows: list[Row], save: Callable[..., None]) -> None:
    """Profile steps; `save` is called with the table's rows, its notes and the raw numbers after each."""
    cells: list[list[Any]] = []
    notes: list[str] = []
    raw: list[dict[str, Any]] = []
    for row in rows:
        found = profile_step(Subject(row))
        part = f"{row.what}, batch {row.batch}, {row.mode}"
        raw += [{"part": part, "kernel": name, "times": times, "ms": ms} for name, times, ms in found]
        total = sum(ms for _, _, ms in found)
        cells += [[part, name[:LONGEST], times, ms, ms / total] for name, times, ms in found[:SHOWN]]
        if rest := found[SHOWN:]:
            times, ms = (sum(each[i] for each in rest) for i in (1, 2))
            cells.append([part, f"{len(rest)} others", times, ms, ms / total])
        launched = sum(times for _, times, _ in found)
        notes.append(f"{part}: {launched:.0f} kernels and copies, which take {total:.2f} ms.")
        save(cells, notes, raw)


def profile_step(subject: Subject) -> list[tuple[str, float, float]]:
    """Return name, launches and milliseconds per step of each kernel, the longest first; on a CPU, of operators."""
    for _ in range(4):  # the third is recorded
        subject.step()
    gpu = subject.device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as found:
        for _ in range(STEPS):
            subject.step()
        if gpu:
            torch.cuda.synchronize()
    wanted = DeviceType.CUDA if gpu else DeviceType.CPU
    events = [event for event in found.key_averages() if event.device_type == wanted]
    times = [(e.key, e.count, e.self_device_time_total if gpu else e.self_cpu_time_total) for e in events]
    each = [(name, count / STEPS, microseconds / 1e3 / STEPS) for name, count, microseconds in times if microseconds]
    return sorted(each, key=lambda row: -row[2])
