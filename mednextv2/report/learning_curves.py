"""A figure with the learning curves of several trainings, as SVG."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mednextv2.errors import InputError, UsageError
from mednextv2.paths import expand, prepare_folder, writing
from mednextv2.report.axis import Axis
from mednextv2.report.rendering import environment
from mednextv2.report.training_logs import TrainingCurve, read_training
from mednextv2.wording import count

#: What the curves can be drawn over: the column of the log, how many of it make a unit, and the unit's name.
OVER = {"steps": ("steps", 1.0, "training steps"), "hours": ("seconds", 3600.0, "hours of training")}
#: Okabe and Ito's colours for lines, which can be told apart with any colour vision.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("", "7 4", "2 3")  # when there are more trainings than colours
_LEFT, _WIDTH, _HEIGHT, _TOP, _GAP, _ENTRY = 64, 600, 240, 52, 56, 22
_PANELS = (
    # the moving average of a training that goes on from another one begins anew, so it is only the second choice
    ("Dice of the validation, on random patches", ("val_mean_dice", "val_ema_dice")),
    ("training loss", ("train_loss",)),
)


@dataclass(frozen=True)
class _Line:
    points: list[tuple[float, float]]
    colour: str
    dash: str
    joints: list[tuple[float, float, str]]


@dataclass(frozen=True)
class _Panel:
    title: str
    top: float
    bottom: float
    values: list[tuple[float, str]]
    lines: list[_Line]


def write_learning_curves(
    trainings: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    over: str = "steps",
    names: Sequence[str] | None = None,
) -> Path:
    """Draw the learning curves of several trainings into one SVG file.

    Args:
        trainings: The folders of the trainings, or their logs, as
            :func:`mednextv2.report.training_logs.read_training` takes them.
        output: The `.svg` file to write.
        over: A key of :data:`OVER`.
        names: The names of the trainings in the figure.

    Returns:
        The path of the file.

    Raises:
        InputError: If a log is missing or damaged or does not have what the curves are drawn over, or the file cannot
            be written.
    """
    output = expand(output)
    if output.suffix.lower() != ".svg" or output.is_dir():
        raise InputError(f"--output {output}: the figure's file name should end in .svg")
    if names is not None and len(names) != len(trainings):
        raise UsageError(
            f"--names: {count(len(names), 'name')} for {count(len(trainings), 'training')}; give one for each"
        )
    read = [read_training(place, None if names is None else names[n]) for n, place in enumerate(trainings)]
    figure = draw_learning_curves(read, over)
    prepare_folder(output.parent, "output")
    with writing(output) as temporary:
        temporary.write_text(figure, encoding="utf-8")
    return output


def draw_learning_curves(trainings: Sequence[TrainingCurve], over: str = "steps", standalone: bool = True) -> str:
    """Return a figure with two panels, validation Dice and training loss, and one line for each training.

    A line begins with the first training where it goes on from another one, and a dot marks where the next began. The
    axis counts all of its steps, or the time of all.

    Args:
        trainings: The trainings.
        over: A key of :data:`OVER`.
        standalone: Whether the text is a file of its own, or a part of a page.

    Raises:
        InputError: If a training has not logged what the curves are drawn over.
    """
    if over not in OVER:
        raise UsageError(f"--over {over}: should be one of {', '.join(OVER)}")
    column, unit, title = OVER[over]
    across = [training.log[column] / unit for training in trainings]
    for training, x in zip(trainings, across, strict=True):
        if not np.isfinite(x).any():
            others = [name for name in OVER if np.isfinite(training.log[OVER[name][0]]).any()]
            hint = f"; give --over {others[0]}" if others else ", since a version before this one wrote it"
            raise InputError(f"{training.name}: its log has no {column}{hint}")
    axis = Axis(0.0, max(float(np.nanmax(x)) for x in across) or 1.0, _LEFT, _LEFT + _WIDTH)
    panels, top = [], float(_TOP)
    for name, columns in _PANELS:
        panel = _panel(name, columns, trainings, across, axis, top)
        if panel is not None:
            panels.append(panel)
            top = panel.bottom + _GAP
    legend = [(top + _ENTRY * n, *_style(n), _legend(training)) for n, training in enumerate(trainings)]
    return environment().get_template("learning_curves.svg.j2").render(
        standalone=standalone, width=_LEFT + _WIDTH + 24, height=top + _ENTRY * len(trainings) + 8, left=_LEFT,
        right=_LEFT + _WIDTH, panels=panels, legend=legend, over=title,
        ticks=[(axis.at(tick), f"{tick:,.6g}") for tick in axis.ticks()],
    )  # fmt: skip


def _panel(
    name: str,
    columns: Sequence[str],
    trainings: Sequence[TrainingCurve],
    across: Sequence[np.ndarray],
    axis: Axis,
    top: float,
) -> _Panel | None:
    """Lay out a panel; None if no training has any of the columns."""
    chosen = [next((training.log[c] for c in columns if c in training.log), None) for training in trainings]
    known = [y[np.isfinite(y)] for y in chosen if y is not None]
    values = np.concatenate(known) if known else np.array([])
    if not values.size:
        return None
    pad = 0.05 * float(values.max() - values.min()) or 0.05
    up = Axis(float(values.min()) - pad, float(values.max()) + pad, top + _HEIGHT, top)
    lines = []
    for n, (training, x, y) in enumerate(zip(trainings, across, chosen, strict=True)):
        if y is None:
            continue
        there = np.isfinite(x) & np.isfinite(y)
        places = {int(i): (axis.at(float(x[i])), up.at(float(y[i]))) for i in np.flatnonzero(there)}
        joints = [
            (*places[max(known)], text)
            for epochs, text in training.joints
            if (known := [i for i in places if i < epochs])
        ]
        lines.append(_Line([*places.values()], *_style(n), joints))
    ticks = [(up.at(tick), f"{tick:.6g}") for tick in up.ticks()]
    return _Panel(name, top, top + _HEIGHT, ticks, lines)


def _style(n: int) -> tuple[str, str]:
    return _COLOURS[n % len(_COLOURS)], _DASHES[n // len(_COLOURS) % len(_DASHES)]


def _legend(training: TrainingCurve) -> str:
    """Return the name of a training, and the best Dice of its validations."""
    found = next((training.log[c] for c in _PANELS[0][1] if c in training.log), None)
    best = f", best {np.nanmax(found):.3f}" if found is not None and np.isfinite(found).any() else ""
    joined = "".join(f" (the dot is the end of {text})" for _, text in training.joints)
    return f"{training.name}{best}{joined}"
