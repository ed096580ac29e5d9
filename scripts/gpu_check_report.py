"""The tables of `gpu_check.py` and their numbers, in two files that may also contain stages of an earlier run."""

import json
from pathlib import Path
from typing import Any

from benchmark_report import scrub
from gpu_check_stages import STAGES

from mednextv2.errors import InputError
from mednextv2.paths import writing

NAME = "gpu_check"
MOMENTARY = ("clocks.sm", "clocks.mem", "power.limit", "temperature.gpu")  # these change over time on the same GPU
DAMAGED = (ValueError, TypeError, KeyError, AttributeError)  # errors when reading a file that is not a report


def format_cell(value: Any) -> str:
    """Return a cell as text: a dash for None, and three digits of a fraction."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return scrub(str(value)).replace("|", "\\|")


def format_report(dry: bool, stages: list[dict[str, Any]]) -> str:
    """Return everything as Markdown; :meth:`Report.add` describes the content of a stage."""
    lines = ["# Check on a GPU", ""]
    if dry:
        lines += ["**A dry run on a CPU at tiny sizes: no number says anything about a GPU.**", ""]
    lines += ["| stage | status | seconds | network | run of |", "|---|---|---:|---|---|"]
    for found in stages:
        text = found["status"] if found["well"] or found["status"] != "done" else "done, with failures"
        text += f": {found['error']}" if found["error"] else ""
        cells = [found["stage"], text, f"{found['seconds']:.0f}", f"{found['variant']}, {found['patch']}³"]
        lines.append("| " + " | ".join(map(format_cell, [*cells, found["started"]])) + " |")
    for found in stages:
        lines += ["", f"## {found['stage']}", ""]
        if found["rows"]:
            lines += ["| " + " | ".join(found["columns"]) + " |", "|---" * len(found["columns"]) + "|"]
            lines += ["| " + " | ".join(map(format_cell, row)) + " |" for row in found["rows"]]
            lines.append("")
        if "predicted (ms)" in found["columns"]:
            lines += ["Predicted: from compiled code, not measured; see `docs/gpu.md`.", ""]
        notes = [*found["notes"], *_tell_earlier(found, stages[0])]
        lines += [f"- {scrub(note)}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def _tell_earlier(found: dict[str, Any], latest: dict[str, Any]) -> list[str]:
    """Return a note on a stage from an earlier run, and on how the GPU's state differed then."""
    if found["started"] == latest["started"]:
        return []
    then, now = found["environment"], latest["environment"]
    changed = [f"{name} {value} (now {now.get(name)})" for name, value in then.items() if now.get(name) != value]
    state = f", when the GPU had {', '.join(changed)}" if changed else ""
    return [f"This stage is of an earlier run, {found['started']}{state}."]


class Report:
    """The results in a folder: of the stages of this run, and of those of an earlier run that it did not repeat.

    Args:
        folder: The folder for the report.
        dry: Whether there is no GPU.

    Attributes:
        written: Whether anything has been written.
        ran: The stages of this run.
    """

    def __init__(self, folder: Path, dry: bool) -> None:
        self.folder, self.dry = folder, dry
        self.written = False
        self.ran: list[dict[str, Any]] = []
        self._kept: list[dict[str, Any]] = []

    def __str__(self) -> str:
        return f"{self.folder / NAME}.md and .json"

    def take_over(self, environment: dict[str, Any]) -> str | None:
        """Keep the stages of an existing report, or rename it.

        Args:
            environment: The environment of this run, by name. Stages of other machines or versions are not mixed with
                ours.

        Returns:
            A sentence about a report that has another name now, or None.

        Raises:
            InputError: If the report cannot be read or renamed.
        """
        file = self.folder / f"{NAME}.json"
        try:
            if not file.exists() and not file.with_suffix(".md").exists():
                return None
            try:
                stages = _read(file)
                reason = next((r for r in (_compare(s["environment"], environment) for s in stages) if r), None)
            except FileNotFoundError:
                reason = f"has no {NAME}.json beside it"
            except DAMAGED:
                reason = "is damaged, or of another version of this script"
            if reason is None:
                self._kept = stages
                return None
            return f"The report of an earlier run in {self.folder} {reason}; it is kept as {_set_aside(file)}."
        except OSError as error:
            raise InputError(
                f"{file}: cannot be read or renamed ({error.strerror or error}); choose another folder with --output"
            ) from error

    def add(self, found: dict[str, Any]) -> None:
        """Add a stage, and write both files.

        Args:
            found: The stage's `stage`, `status`, `error`, `seconds`, `started`, `variant`, `patch` and `environment`;
                its table as `columns`, `rows` and `notes`; and `well`, whether everything is as it should be.

        Raises:
            InputError: If the files cannot be written.
        """
        self.ran.append(found)
        stages = {s["stage"]: s for s in self._kept}
        # a result is not replaced by the note that there is none this time
        stages |= {s["stage"]: s for s in self.ran if s["status"] != "left out" or s["stage"] not in stages}
        ordered = [stages[name] for name in STAGES if name in stages]
        report = {"dry": self.dry, "stages": ordered}
        texts = {
            f"{NAME}.json": json.dumps(report, indent=1, ensure_ascii=False) + "\n",
            f"{NAME}.md": format_report(self.dry, ordered),
        }
        for name, text in texts.items():
            with writing(self.folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        self.written = True


def _read(file: Path) -> list[dict[str, Any]]:
    """Return the stages of a report; raise OSError, or one of `DAMAGED` if the file is not a report."""
    report = json.loads(file.read_text(encoding="utf-8"))
    stages = report["stages"]
    format_report(report["dry"], stages)  # which fails if anything is missing
    if not all(s["stage"] in STAGES and isinstance(s["environment"], dict) for s in stages):
        raise ValueError(f"{file}: no report")
    return stages


def _compare(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return the reason why results of two environments cannot be compared, or None."""
    if not then or not now:
        return "does not tell from which machine it is" if now else "cannot be compared with this machine"
    names = [name for name in {**then, **now} if name not in MOMENTARY and then.get(name) != now.get(name)]
    if not names:
        return None
    shown = "; ".join(f"{name}: {then.get(name)} there, {now.get(name)} here" for name in names[:3])
    return f"is of another machine or version ({shown}{'; …' if len(names) > 3 else ''})"


def _set_aside(file: Path) -> str:
    """Rename the report's files to a name that no file has yet, and return it."""
    number = 1
    while any(file.with_name(f"{NAME}-earlier-{number}{ending}").exists() for ending in (".json", ".md")):
        number += 1
    moved = [file.with_suffix(ending) for ending in (".json", ".md") if file.with_suffix(ending).exists()]
    for each in moved:
        each.rename(file.with_name(f"{NAME}-earlier-{number}{each.suffix}"))
    return " and ".join(f"{NAME}-earlier-{number}{each.suffix}" for each in moved)
