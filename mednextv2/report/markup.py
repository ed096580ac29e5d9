"""Pieces of HTML: escaped text, numbers, tables."""

import html
import math
import re
from collections.abc import Sequence

from mednextv2.report.style import COLORS

NONE, INFINITE = "–", "∞"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def text(value: object) -> str:
    """Escape a text for the content or an attribute of an element; what UTF-8 cannot hold becomes a question mark."""
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(_CONTROL.sub("\ufffd", plain), quote=True)


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many digits after the point; a dash for NaN, and ∞."""
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return INFINITE if value > 0 else f"-{INFINITE}"
    return f"{value:.{digits}f}"


def ml(value: float, like: float | None = None) -> str:
    """Return a volume in ml, with at least three significant digits but no more than four after the point.

    Args:
        value: The volume.
        like: Another one, which decides how many digits there are; the value itself by default.
    """
    size = abs(value if like is None else like)
    digits = min(4, max(0, 2 - math.floor(math.log10(size)))) if math.isfinite(size) and size else 0
    return number(value, digits)


def mean_sd(mean: str, sd: str) -> str:
    """Join a mean and its standard deviation, both written out."""
    return mean if mean == NONE else f"{mean} ± {sd}"


def swatch(structure: int) -> str:
    """Return a spot of a structure's colour."""
    return f'<span class="swatch" style="background:{color(structure)}"></span>'


def color(structure: int) -> str:
    """Return the colour of the structure of this index."""
    return COLORS[structure % len(COLORS)]


def table(
    caption: str,
    groups: Sequence[tuple[str, Sequence[str]]],
    rows: Sequence[tuple[str, Sequence[str]]],
    foot: Sequence[tuple[str, Sequence[str]]] = (),
) -> str:
    """Build a table in a container that scrolls by itself, and which the script sorts by a click on a column.

    Args:
        caption: Plain text.
        groups: The columns: the name of a group and the names in it, plain text. A group of one column with an empty
            name has just that name. The first column is the head of the rows.
        rows: Head of each row, as HTML, and its cells, as plain text.
        foot: Rows that stay at the end.
    """
    body, end = (
        "\n".join(
            f'<tr><th scope="row">{head}</th>{"".join(f"<td>{text(cell)}</td>" for cell in cells)}</tr>'
            for head, cells in some
        )
        for some in (rows, foot)
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="sortable"><caption>{text(caption)}</caption>\n<thead>{_head(groups)}</thead>\n'
        f"<tbody>\n{body}\n</tbody>{f'<tfoot>{end}</tfoot>' if end else ''}</table></div>"
    )


def _head(groups: Sequence[tuple[str, Sequence[str]]]) -> str:
    grouped = any(name for name, _ in groups)
    upper, lower, column = [], [], 0
    for name, columns in groups:
        if name:
            upper.append(f'<th scope="colgroup" colspan="{len(columns)}">{text(name)}</th>')
        for title in columns:
            span = ' rowspan="2"' if grouped and not name else ""
            cell = f'<th scope="col" data-column="{column}"{span}>{text(title)}</th>'
            (lower if name or not grouped else upper).append(cell)
            column += 1
    return (f"<tr>{''.join(upper)}</tr>" if grouped else "") + f"<tr>{''.join(lower)}</tr>"
