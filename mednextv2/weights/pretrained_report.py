"""What became of the tensors of a file of weights and of a network: a text for people, and a table."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mednextv2.paths import writing
from mednextv2.weights.expectations import Expectations
from mednextv2.wording import count, times

#: The name of the table, in the folder of a training.
REPORT_NAME = "pretrained_report.csv"
LOADED, ADAPTED, NEW, UNUSED = "loaded", "adapted", "newly initialised", "not used"
_SHOWN = 3  # number of tensors named in a message; the others are counted
_COLUMNS = ("tensor", "status", "how", "tensor_in_file", "shape", "shape_in_file")


class Row(NamedTuple):
    """What became of a tensor.

    Attributes:
        tensor: Its name in the network; empty for a tensor of the file that is not used.
        status: One of :data:`LOADED`, :data:`ADAPTED`, :data:`NEW` and :data:`UNUSED`.
        how: How it was adapted, or why it is new or not used.
        source: Its name in the file, if it is there.
        shape: Its shape in the network.
        source_shape: Its shape in the file.
    """

    tensor: str
    status: str
    how: str = ""
    source: str = ""
    shape: tuple[int, ...] = ()
    source_shape: tuple[int, ...] = ()


@dataclass
class PretrainedReport:
    """What became of the tensors of a file of weights and of a network.

    Attributes:
        path: The file.
        title: What the file is, in words; empty for this project's own.
        rows: One for each tensor of the network, and for each of the file that is not used.
        parameters: The number of numbers that are from the file, and in the whole network.
        remarks: Sentences about the file, such as why its heads are not used.
        expects: What the pretraining was done with, as far as the file records it.
    """

    path: str
    title: str = ""
    rows: list[Row] = field(default_factory=list)
    parameters: tuple[int, int] = (0, 0)
    remarks: list[str] = field(default_factory=list)
    expects: Expectations = field(default_factory=Expectations)

    def _of(self, status: str) -> list[Row]:
        return [row for row in self.rows if row.status == status]

    @property
    def loaded(self) -> list[str]:
        """Names of the network's tensors that have the values of the file."""
        return [row.tensor for row in self._of(LOADED)]

    @property
    def adapted(self) -> dict[str, str]:
        """Names of those whose values were made from the file's, each with how."""
        return {row.tensor: row.how for row in self._of(ADAPTED)}

    @property
    def new(self) -> dict[str, str]:
        """Names of those whose values are not from the file, each with why."""
        return {row.tensor: row.how for row in self._of(NEW)}

    @property
    def unused(self) -> dict[str, str]:
        """Names of the file's tensors that are not used, each with why."""
        return {row.source: row.how for row in self._of(UNUSED)}

    @property
    def fraction(self) -> float:
        """The part of the network's parameters that are from the file, from 0 to 1."""
        taken, whole = self.parameters
        return taken / whole if whole else 0.0

    def headline(self) -> str:
        """Say in a line how much was loaded.

        Example:
            >>> rows = [Row("a", LOADED), Row("b", LOADED), Row("heads.0.weight", NEW)]
            >>> PretrainedReport("model.pt", "", rows, (90, 100)).headline()
            'pretrained model.pt: 2 of 3 tensors loaded, with 90 of 100 parameters (90.0 %)'
        """
        total = len(self.loaded) + len(self.adapted) + len(self.new)
        ready = len(self.loaded) + len(self.adapted)
        taken, whole = self.parameters
        title = f" ({self.title})" if self.title else ""
        adapted = f", {len(self.adapted)} of them adapted" if self.adapted else ""
        return (
            f"pretrained {self.path}{title}: {ready} of {count(total, 'tensor')} loaded{adapted}, with {taken:,} of "
            f"{whole:,} parameters ({_percent(taken, whole)} %)"
        )

    def describe(self) -> str:
        """Return a text of a few lines for people: a headline, and a line for each thing that was done."""
        lines = [self.headline()]
        for status in (ADAPTED, NEW, UNUSED):
            for how, names in _grouped(self._of(status)).items():
                lines.append(f"  {status}: {_listed(names)}{f' ({how})' if how else ''}")
        if known := self.expects.describe():
            lines.append(f"  pretrained with {known}")
        return "\n".join([*lines, *(f"  {remark}" for remark in self.remarks)])

    def save(self, path: str | os.PathLike) -> None:
        """Write a table with a line for each tensor.

        Args:
            path: The file, CSV in UTF-8, which is replaced as a whole.

        Raises:
            InputError: If the file cannot be written.
        """
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_COLUMNS)
        for row in self.rows:
            shapes = (times(row.shape), times(row.source_shape))
            table.writerow([row.tensor, row.status, row.how, row.source, *shapes])
        with writing(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")

    def as_record(self) -> dict[str, Any]:
        """Return what weights shall record about it: counts, not the names of all tensors."""
        counts = {status: len(self._of(status)) for status in (LOADED, ADAPTED, NEW, UNUSED)}
        record = {"tensors": counts, "parameters": list(self.parameters)}
        return record | ({"format": self.title} if self.title else {})


def _percent(taken: int, whole: int) -> str:
    """Return a percentage with one decimal that is 100.0 only for all and 0.0 only for none."""
    rounded = round(100 * taken / whole, 1) if whole else 0.0
    return f"{min(rounded, 99.9) if taken < whole else rounded:.1f}" if rounded or not taken else "below 0.1"


def _grouped(rows: Iterable[Row]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.how, []).append(row.tensor or row.source)
    return groups


def _listed(names: Sequence[str]) -> str:
    more = f" and {count(len(names) - _SHOWN, 'other')}" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
