"""Label maps that are made from the files of a data set: other values, and several files for one case."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednextv2.data.voxel_grids import compare_grids
from mednextv2.errors import InputError
from mednextv2.images.label_map_files import as_label_map, distinct_values
from mednextv2.images.volume import VirtualVolume, read_volume
from mednextv2.label_scheme import label_dtype
from mednextv2.paths import prepare_folder, writing

_SHOWN = 8  # largest number of values in a message


@dataclass(frozen=True)
class LabelPart:
    """One file of a case, and what its values become.

    Attributes:
        file: The file of a label map.
        values: Pairs of a value in the file and its value in the joined label map, where 0 is the background.
        strict: Whether other values than 0 and those in `values` are refused. Otherwise they become background.
    """

    file: str
    values: tuple[tuple[int, int], ...]
    strict: bool = True


@dataclass(frozen=True)
class JoinedLabels(VirtualVolume):
    """A label map that is joined from the files of a case when it is read.

    Attributes:
        parts: The files. Where several have a structure, that of the last stays.
        annotated: The values of the structures that the data set annotates.
        may_be_empty: Whether a case may have no voxel of these structures.
    """

    parts: tuple[LabelPart, ...]
    annotated: tuple[int, ...]
    may_be_empty: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the parts."""
        return tuple(part.file for part in self.parts)

    @property
    def identity(self) -> str:
        """A text that differs for label maps that are made in another way."""
        rules = [(part.values, part.strict) for part in self.parts]
        return hashlib.sha256(repr(rules).encode()).hexdigest()[:16]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Read and join the files.

        Returns:
            The labels, `(X, Y, Z)` or `(X, Y)`, and the affine, `(4, 4)`.

        Raises:
            InputError: If a file cannot be read, is no label map, has a value that is not in the map, or is on another
                grid than the first; or if no voxel has a structure.
        """
        highest = max((new for part in self.parts for _, new in part.values), default=0)
        joined: np.ndarray | None = None
        grid: tuple[Any, ...] = ()
        for part in self.parts:
            array, affine = read_volume(part.file)
            found = as_label_map(array, part.file)
            mapped = _mapped(part, found, highest)
            if joined is None:
                joined, grid = mapped, (part.file, found.shape, affine)
            elif problem := compare_grids(grid, (part.file, found.shape, affine)):
                raise InputError(problem)
            else:
                np.copyto(joined, mapped, where=mapped > 0)
        assert joined is not None  # there is at least one part
        if not self.may_be_empty and not np.isin(joined, self.annotated).any():
            more = f" and {len(self.parts) - 1} others" if len(self.parts) > 1 else ""
            raise InputError(
                f"{self}{more}: no voxel has one of the structures that the data set annotates; leave the case out "
                "(leave_out in the collection), or allow such cases (empty_cases: keep)"
            )
        return joined, grid[2]

    def save(self, path: str | os.PathLike) -> Path:
        """Write the joined label map as a NIfTI file, and return its path.

        Raises:
            InputError: As of :meth:`read`, or if the file cannot be written.
        """
        path = Path(path)
        labels, affine = self.read()
        prepare_folder(path.parent, "output_dir")
        with writing(path) as temporary:
            nib.save(nib.Nifti1Image(labels, affine), temporary)
        return path


def _mapped(part: LabelPart, array: np.ndarray, highest: int) -> np.ndarray:
    values = distinct_values(array)
    known = dict(part.values)
    if part.strict and (unknown := [v for v in values if v and v not in known]):
        raise InputError(
            f"{part.file}: has voxels of the value{'s' * (len(unknown) > 1)} {_listed(unknown)}, which the "
            f"collection's map of labels does not have ({_listed([*known])}); add what they are (background is "
            "possible), or give the data set other_values: background"
        )
    table = np.zeros(values[-1] + 1, label_dtype(highest + 1))
    for old, new in part.values:
        if old < len(table):
            table[old] = new
    return table[array]


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:_SHOWN])) + (", …" if len(values) > _SHOWN else "")
