"""Post-processing: the steps that a cross-validation chose, as a file, and their application to predictions."""

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from torch import Tensor

from mednextv2.errors import InputError
from mednextv2.inference.components import apply_steps
from mednextv2.label_scheme import MAX_LABELS
from mednextv2.paths import expand, writing
from mednextv2.text_files import read_json
from mednextv2.wording import brief

_SHOWN = 10  # largest number of labels in a message
_MAX_STEPS = 1000  # limited because each searches the components of the whole label map


@dataclass(frozen=True)
class Postprocessing:
    """Which steps of post-processing improve the predictions, and the scores that show it.

    Attributes:
        steps: The steps for :func:`apply_steps`.
        table: One row for each candidate, in the order of the steps: `name`, `values`, `dice_before` and `dice_after`
            (None if no case has the structure), `accepted`; for the foreground also `worse`, the structures whose Dice
            falls.
        cases: Number of cases on which the decision is based.
    """

    steps: list[list[int]]
    table: list[dict[str, Any]]
    cases: int

    def to_json(self) -> str:
        """Return the decision as JSON, one line for each candidate."""
        rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in self.table)
        return (
            f'{{\n  "steps": {json.dumps(self.steps)},\n  "decided_on": {{"cases": {self.cases}}},\n'
            f'  "candidates": [\n{rows}\n  ]\n}}\n'
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write the decision as JSON.

        Raises:
            InputError: When the file cannot be written.
        """
        with writing(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @staticmethod
    def load(path: str | os.PathLike, labels: Sequence[str] | None = None) -> list[list[int]]:
        """Read the steps of a saved decision; a file written by hand needs only `steps`.

        Args:
            path: The file.
            labels: Names of the values 0, 1, … that label maps of the task have; None if they are not known.

        Returns:
            The steps, for :func:`apply_steps`.

        Raises:
            InputError: When the file is missing, damaged or of another kind, has a step twice, or has label values that
                the task does not have.
        """
        advice = "decide the post-processing again, or remove the file to go without"
        content = read_json(path, advice)
        steps = content.get("steps") if isinstance(content, dict) else None
        if not isinstance(steps, list) or not all(map(_is_step, steps[: _MAX_STEPS + 1])):
            raise InputError(f'{path}: should have "steps", a list of lists of label values such as [[1, 2]]; {advice}')
        if len(steps) > _MAX_STEPS:
            raise InputError(f"{path}: has {len(steps)} steps; {_MAX_STEPS} are more than any task needs; {advice}")
        highest = (MAX_LABELS if labels is None else len(labels)) - 1
        for step in steps:
            if max(step) > highest:
                declared = f", but the task's labels are 0 to {highest}" + (f" ({_listed(labels)})" if labels else "")
                raise InputError(f"{path}: its step {brief(step)} has the label value {max(step)}{declared}; {advice}")
        if len({frozenset(step) for step in steps}) < len(steps):
            raise InputError(f"{path}: has a step twice, which changes nothing; {advice}")
        return steps


def _is_step(step: Any) -> bool:
    whole = isinstance(step, list) and bool(step) and all(type(value) is int and value > 0 for value in step)
    return whole and len(set(step)) == len(step)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(map(str, labels[:_SHOWN])) + (", …" if len(labels) > _SHOWN else "")


class ApplyPostprocessingd(MapTransform):
    """Apply the steps of a saved :class:`Postprocessing` to label maps.

    Without a file it does nothing: a bundle names the file that a cross-validation may leave there later.

    Args:
        keys: The keys of the label maps, tensors `(1, X, Y, Z)` of whole numbers on any device.
        path: The file, or None.
        allow_missing_keys: Whether a key may be missing.
        labels: Names of the values 0, 1, … that label maps of the task have; None if they are not known.

    Raises:
        InputError: When the file exists but cannot be used: see :meth:`Postprocessing.load`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        path: str | os.PathLike | None = None,
        allow_missing_keys: bool = False,
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        file = expand(path) if path else None
        self.steps = Postprocessing.load(file, labels) if file is not None and file.exists() else []

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with new label maps, of the same type, device and metadata."""
        result = dict(data)
        for key in self.key_iterator(data) if self.steps else ():
            given = data[key]
            if given.shape[0] != 1:
                raise ValueError(f"a label map has one channel; {key} has the shape {tuple(given.shape)}")
            array = given.as_subclass(Tensor).cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
            result[key] = convert_to_dst_type(apply_steps(array[0], self.steps)[None], given)[0]
        return result
