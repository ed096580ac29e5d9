"""The table of a comparison, as CSV for programs and as Markdown for people."""

import math
from collections.abc import Sequence
from typing import Any

from mednextv2.comparison.results import Result
from mednextv2.report.number_format import NONE, mean_sd, number
from mednextv2.training.time_estimate import duration

_HEADER = (
    "rank", "network", "parameters", "Dice", "surface Dice (1 mm)", "difference from the best (95 % interval)",
    "time per step", "steps", "epochs", "training", "memory", "runs",
)  # fmt: skip
_GAIN_HEADER = (
    "network", "Dice from scratch", "Dice from these weights", "gain (95 % interval)", "runs with a higher Dice",
)  # fmt: skip

#: The columns of the table of runs: what identifies a run, its scores, and what its process reports.
RUN_COLUMNS = (
    "network", "initial", "pretrained", "fold", "seed", "dice", "surface_dice_1mm", "parameters", "epochs",
    "planned_epochs", "steps", "step_seconds", "training_seconds", "stopped", "peak_memory", "memory_of",
)  # fmt: skip


def table_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one row for each network, with numbers in units that their names tell."""
    return [
        {
            "rank": "" if r.rank is None else r.rank,
            "network": r.entry.network,
            "initial": r.entry.start,
            "pretrained": r.entry.pretrained or "",
            "parameters": _whole(r.mean("parameters")),
            "dice_mean": r.mean("dice"),
            "dice_sd": r.deviation("dice"),
            "surface_dice_1mm_mean": r.mean("surface_dice"),
            "surface_dice_1mm_sd": r.deviation("surface_dice"),
            "difference_from_best": "" if r.difference is None else r.difference,
            "difference_low": "" if r.interval is None else r.interval[0],
            "difference_high": "" if r.interval is None else r.interval[1],
            "gain_over_scratch": "" if r.gain is None else r.gain,
            "gain_low": "" if r.gain_interval is None else r.gain_interval[0],
            "gain_high": "" if r.gain_interval is None else r.gain_interval[1],
            "step_seconds": r.mean("step_seconds"),
            "steps": _whole(r.mean("steps")),
            "epochs": _whole(r.mean("epochs")),
            "training_seconds": r.mean("training_seconds"),
            "peak_memory_mib": r.mean("peak_memory") / 2**20,
            "memory_of": _memory_of(r),
            "runs_done": len(r.runs),
            "runs_planned": r.planned,
            "reason": r.reason,
        }
        for r in results
    ]


def run_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one row for each run that is done."""
    return [
        {
            "network": r.entry.network,
            "initial": r.entry.start,
            "pretrained": r.entry.pretrained or "",
            "fold": scores.run.fold,
            "seed": scores.run.seed,
            "dice": scores.dice,
            "surface_dice_1mm": scores.surface_dice,
            **{k: v for k, v in scores.outcome.items() if k != "status"},
        }
        for r in results
        for scores in r.runs
    ]


def markdown(results: Sequence[Result], facts: Sequence[str]) -> str:
    """Return the table for people, and below it what it is about.

    Args:
        results: The results, in the order of the rows.
        facts: Sentences about the data, the budget and the machine.
    """
    lines = [_line(_HEADER), _line(["---"] * len(_HEADER)), *(_line(_cells(r)) for r in results)]
    tuned = [r for r in results if r.scratch is not None]
    if tuned:
        lines += ["", "Weights to start from, compared with the same network from scratch:", ""]
        lines += [_line(_GAIN_HEADER), _line(["---"] * len(_GAIN_HEADER)), *(_line(_gain_cells(r)) for r in tuned)]
    failed = [r for r in results if r.reason]
    if failed:
        lines += ["", "Networks without a complete result:", "", *(f"- {r.entry.name}: {r.reason}" for r in failed)]
    return "\n".join(["# Comparison of networks", "", *lines, "", *(f"- {fact}" for fact in facts), ""])


def _cells(r: Result) -> list[str]:
    seconds = r.mean("step_seconds")
    return [
        NONE if r.rank is None else str(r.rank),
        r.entry.name,
        NONE if math.isnan(r.mean("parameters")) else f"{r.mean('parameters') / 1e6:.1f} M",
        _score(r, "dice"),
        _score(r, "surface_dice"),
        _difference(r),
        NONE if math.isnan(seconds) else f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s",
        number(r.mean("steps"), 0),
        number(r.mean("epochs"), 0),
        duration(r.mean("training_seconds")) if r.runs else NONE,
        f"{r.mean('peak_memory') / 2**30:.1f} GiB ({_memory_of(r)})" if r.runs else NONE,
        f"{len(r.runs)} of {r.planned}",
    ]


def _gain_cells(r: Result) -> list[str]:
    assert r.scratch is not None
    shown = _signed(r.gain, r.gain_interval)
    return [r.entry.name, _score(r.scratch, "dice"), _score(r, "dice"), shown, f"{r.better_runs()} of {len(r.runs)}"]


def _score(r: Result, name: str) -> str:
    mean, deviation = r.mean(name), r.deviation(name)
    return number(mean) if math.isnan(deviation) else mean_sd(number(mean), number(deviation))


def _difference(r: Result) -> str:
    if r.rank == 1 and r.difference is None:
        return "best"
    return _signed(r.difference, r.interval)


def _signed(difference: float | None, interval: tuple[float, float] | None) -> str:
    if difference is None or interval is None:
        return NONE
    low, high = interval
    return f"{difference:+.3f}" if math.isnan(low) else f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"


def _memory_of(r: Result) -> str:
    return ", ".join(sorted({str(scores.outcome.get("memory_of", "")) for scores in r.runs}))


def _whole(value: float) -> Any:
    return "" if math.isnan(value) else round(value)


def _line(cells: Sequence[str]) -> str:
    """Join cells; a vertical line in a name would begin another cell."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
