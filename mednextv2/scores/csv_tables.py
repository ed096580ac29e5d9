"""Tables as CSV files, which a spreadsheet opens without running anything."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mednextv2.paths import writing

#: The characters that a spreadsheet reads as the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write rows as a table, with columns in the order in which they first occur and numbers with six digits.

    With `columns`, the table begins with these, also if it has no rows.

    A text that a spreadsheet would run as a formula, such as a case called =1+1, gets a leading apostrophe, which
    :func:`read_csv` removes.

    Raises:
        InputError: If the file cannot be written.
    """
    columns = list(dict.fromkeys([*columns, *(k for row in rows for k in row)]))
    with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, columns, restval="")
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table that :func:`write_csv` wrote."""
    with path.open(newline="", encoding="utf-8") as f:
        return [{k: _text(v) for k, v in row.items()} for row in csv.DictReader(f)]


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _text(value: Any) -> Any:
    return value[1:] if isinstance(value, str) and value[:1] == "'" and value[1:2] in _FORMULA else value
