"""The page about masked autoencoding: curves of its training, and pictures of reconstructions."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mednextv2.errors import InputError
from mednextv2.report.curves import Curves, curves
from mednextv2.report.number_format import number
from mednextv2.report.rendering import render_page
from mednextv2.report.score_reading import read_log
from mednextv2.report.tables import Row, Table
from mednextv2.scores.csv_tables import read_csv
from mednextv2.scores.results_json import LOG_NAME
from mednextv2.text_files import read_json
from mednextv2.training.reconstruction_pictures import COLUMNS, ROWS, pictures_of
from mednextv2.training.reconstruction_table import TABLE_NAME
from mednextv2.version import __version__
from mednextv2.wording import brief, count

_EARLIER = 6  # most pictures of earlier epochs
_AGAIN = "run the training or evaluation again"
_LARGEST = 20 * 2**20  # bytes of a picture


@dataclass(frozen=True)
class Chart:
    """Curves with a title."""

    title: str
    curves: Curves


@dataclass(frozen=True)
class Picture:
    """A picture: its title, the `data:` URI, and what is said below it."""

    title: str
    image: str
    facts: str


@dataclass(frozen=True)
class Section:
    """Pictures under a title."""

    title: str
    pictures: list[Picture]


def has_reconstructions(folder: Path) -> bool:
    """Tell whether a folder has results of masked autoencoding."""
    return pictures_of(folder).is_file()


def reconstruction_page(folder: Path) -> str:
    """Build the page about a training or an evaluation of masked autoencoding.

    Args:
        folder: Its `output_dir`, with `pictures`, and `training_log.csv` or `cases.csv`.

    Returns:
        An HTML document that needs no other file.

    Raises:
        InputError: If a file is missing or damaged.
    """
    title, entries = _read_list(pictures_of(folder))
    log = read_log(folder / LOG_NAME) if (folder / LOG_NAME).is_file() else None
    table = _table(folder / TABLE_NAME) if (folder / TABLE_NAME).is_file() else None
    facts = [count(len(log["epoch"]), "epoch")] if log is not None else []
    facts += [count(len(table.rows), "image")] if table is not None else []
    return render_page(
        "reconstructions.html.j2",
        title=title,
        facts=[*facts, f"report by mednextv2 {__version__}"],
        means=_means(log, table),
        charts=_charts(log) if log is not None else [],
        rows=[name for name, _ in ROWS],
        columns=COLUMNS,
        sections=_sections(pictures_of(folder).parent, entries),
        table=table,
    )


def _read_list(file: Path) -> tuple[str, list[Mapping[str, Any]]]:
    content = read_json(file, _AGAIN)
    title, entries = (content.get("title"), content.get("pictures")) if isinstance(content, dict) else (None, None)
    if not isinstance(title, str) or not isinstance(entries, list):
        raise InputError(f"{file}: should have a title and a list of pictures; {_AGAIN}")
    for entry in entries:
        texts = isinstance(entry, Mapping) and all(isinstance(entry.get(key), str) for key in ("case", "file"))
        values = [entry.get(key) for key in ("error", "explained")] + [entry.get("epoch", 0)] if texts else [None]
        if not all(isinstance(value, (int, float)) for value in values) or Path(entry["file"]).name != entry["file"]:
            raise InputError(f"{file}: the entry {brief(entry)} should name a case, a picture and its error; {_AGAIN}")
    return title, entries


def _charts(log: Mapping[str, np.ndarray]) -> list[Chart]:
    epochs = log["epoch"]
    losses = [("training", log["train_loss"])]
    if "val_loss" in log and np.isfinite(log["val_loss"]).any():
        losses.insert(0, ("validation", log["val_loss"]))
    found = [Chart("Loss", curves(f"loss over {count(len(epochs), 'epoch')}", epochs, losses))]
    if "learning_rate" in log:
        name = f"learning rate over {count(len(epochs), 'epoch')}"
        found.append(Chart("Learning rate", curves(name, epochs, [("learning rate", log["learning_rate"])])))
    return found


def _means(log: Mapping[str, np.ndarray] | None, table: Table | None) -> list[tuple[str, str]]:
    means = []
    if log is not None and "val_loss" in log and np.isfinite(log["val_loss"]).any():
        best = int(np.nanargmin(log["val_loss"]))
        means.append(("Lowest validation loss", number(float(log["val_loss"][best]), 3)))
        if "val_explained" in log:
            means.append(("Explained there", number(float(log["val_explained"][best]), 3)))
        means.append(("Its epoch", f"{log['epoch'][best]:.0f}"))
    if table is not None and table.foot is not None:
        means += [("Mean squared error", table.foot.cells[1]), ("Explained", table.foot.cells[2])]
    return means


def _sections(folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return the pictures of the last epoch, and some of the first patch in earlier epochs."""
    last = max((entry.get("epoch", 0) for entry in entries), default=0)
    newest = [entry for entry in entries if entry.get("epoch", 0) == last]
    title = f"Reconstructions in epoch {last}" if last else "Reconstructions"
    found = [Section(title, [_picture(folder, entry, entry["case"]) for entry in newest])] if newest else []
    first: dict[int, Mapping[str, Any]] = {}
    for entry in entries:
        first.setdefault(entry.get("epoch", 0), entry)
    earlier = [entry for epoch, entry in sorted(first.items()) if epoch < last]
    if len(earlier) > _EARLIER:
        earlier = [earlier[i] for i in np.linspace(0, len(earlier) - 1, _EARLIER).round().astype(int)]
    if earlier:
        pictures = [_picture(folder, entry, f"{entry['case']}, epoch {entry['epoch']}") for entry in earlier]
        found.append(Section("The first of these in earlier epochs", pictures))
    return found


def _picture(folder: Path, entry: Mapping[str, Any], title: str) -> Picture:
    file = folder / entry["file"]
    try:
        content = file.read_bytes() if file.stat().st_size <= _LARGEST else b""
    except OSError as e:
        raise InputError(f"{file}: cannot be read ({e.strerror or e}); {_AGAIN}") from e
    if not content.startswith(b"\x89PNG"):
        raise InputError(f"{file}: is no PNG picture; {_AGAIN}")
    facts = f"mean squared error {number(entry['error'], 3)}, explained {number(entry['explained'], 3)}"
    return Picture(title, "data:image/png;base64," + base64.b64encode(content).decode("ascii"), facts)


def _table(file: Path) -> Table:
    names = ("patches", "mean_squared_error", "explained")
    try:
        rows = read_csv(file)
        values = [[float(row[name]) for name in names] for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{file}: cannot be read as the table of an evaluation ({e}); {_AGAIN}") from e
    body = [
        Row(row["case"], [f"{patches:.0f}", number(error, 4), number(explained, 4)])
        for row, (patches, error, explained) in zip(rows, values, strict=True)
    ]
    means = [math.fsum(column) / len(column) for column in zip(*values, strict=True)] if values else []
    foot = Row("mean", ["", number(means[1], 4), number(means[2], 4)]) if means else None
    groups = [("", [title]) for title in ("Image", "Patches", "Mean squared error", "Explained")]
    return Table("The error of each image in its hidden voxels", groups, body, foot)
