"""The table of a plan: what the decisions are based on, the decisions, and their reasons."""

import statistics
import textwrap
from collections.abc import Sequence
from typing import Any, TypeAlias

from mednextv2.data.cases import CollectedCase, DatasetFolder
from mednextv2.data.fingerprint import Fingerprint
from mednextv2.wording import count

Row: TypeAlias = tuple[str, str, str]
_WIDEST_VALUE, _WIDEST_REASON = 44, 60  # characters


def table(rows: Sequence[Row]) -> str:
    """Return rows of a name, a value and a reason as text in three columns."""
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    widths[1] = min(widths[1], _WIDEST_VALUE)
    lines = []
    for name, value, reason in rows:
        values = textwrap.wrap(value, widths[1]) or [""]
        # a path stays whole
        reasons = textwrap.wrap(reason, _WIDEST_REASON, break_long_words=False, break_on_hyphens=False) or [""]
        for i in range(max(len(values), len(reasons))):
            cells = [
                name if i == 0 else "",
                *(column[i] if i < len(column) else "" for column in (values, reasons)),
            ]
            lines.append(f"{cells[0]:<{widths[0]}}  {cells[1]:<{widths[1]}}  {cells[2]}".rstrip())
    return "\n".join(lines)


def facts_about(dataset: DatasetFolder, fingerprint: Fingerprint) -> list[Row]:
    """Return what the decisions are based on: sizes, spacings and intensities.

    Args:
        dataset: The data set, or collection of data sets.
        fingerprint: Its fingerprint.
    """
    volumes = len(fingerprint.shapes[0]) == 3
    rows = [
        ("cases", str(fingerprint.cases), str(dataset.path)),
        (
            "median spacing",
            show(_median(fingerprint.spacings)),
            "of the files, mm: " + ("right, anterior, superior" if volumes else "along the plane's two axes"),
        ),
        (
            "median size",
            show(_median(fingerprint.shapes)),
            "of the files, without a border of zeros, voxels",
        ),
        *_parts(dataset, fingerprint),
    ]
    for name, channel in zip(dataset.channels or ["image"], fingerprint.channels, strict=True):
        rows.append(
            (
                f"intensities {name}",
                f"{channel.percentile_0_5:.5g} to {channel.percentile_99_5:.5g}",
                f"percentiles 0.5 and 99.5 of the foreground; mean {channel.mean:.6g}, deviation {channel.std:.6g}",
            )
        )
    return rows


def _parts(dataset: DatasetFolder, fingerprint: Fingerprint) -> list[Row]:
    """Show how the data sets of a collection differ, since the medians over all cases follow the largest of them."""
    rows = []
    for part in dataset.parts:
        of_part = [i for i, c in enumerate(dataset.cases) if isinstance(c, CollectedCase) and c.dataset == part.name]
        spacing, shape = (
            show(_median([values[i] for i in of_part])) for values in (fingerprint.spacings, fingerprint.shapes)
        )
        rows.append((f"data set {part.name}", count(len(of_part), "case"), f"median spacing {spacing}, size {shape}"))
    return rows


def _median(rows: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def show(value: Any, name: str = "") -> str:
    """Return a value of a decision as a short text; the name is that of the decision."""
    if name == "mirror_axes":
        return str(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, (int, float)) for v in value):
        return " × ".join(f"{v:.6g}" for v in value)
    if isinstance(value, (list, tuple)):
        return "; ".join(show(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(str(v) if k == "scheme" else f"{k} {show(v)}" for k, v in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
