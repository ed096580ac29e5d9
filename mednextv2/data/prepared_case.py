"""A preprocessed case on disk, as it is read: see :mod:`mednextv2.data.prepared_store`, which writes it."""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


class PreparedCase:
    """One preprocessed case. It opens its files when they are first needed, separately in each process.

    Args:
        folder: The folder of the files.
        name: The name of the case.
        sources: The files from which it is prepared; their paths determine the names of the prepared files.
        rule: How its label map is made of them, if not as usual; another rule gives other names.
    """

    def __init__(self, folder: str | os.PathLike, name: str, sources: Sequence[str] = (), rule: str = "") -> None:
        self.folder, self.name = Path(folder), name
        places = "\n".join([*(os.path.abspath(source) for source in sources), *([rule] if rule else [])])
        self.stem = f"{hashlib.sha256(places.encode()).hexdigest()[:10]}-{name}" if sources else name

    def file(self, part: str) -> Path:
        """Return the file of a part: `image.npy`, `label.npy`, `positions.npy` or `case.json`."""
        return self.folder / f"{self.stem}.{part}"

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "name": self.name, "stem": self.stem}  # a worker process maps the files anew

    @cached_property
    def image(self) -> np.ndarray:
        """The image, `(C, X, Y, Z)` float16, memory-mapped."""
        return np.load(self.file("image.npy"), mmap_mode="r")

    @cached_property
    def label(self) -> np.ndarray:
        """The label map, `(1, X, Y, Z)` int16, memory-mapped; -1 marks voxels outside the image's content."""
        return np.load(self.file("label.npy"), mmap_mode="r")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The description: `counts` has the number of stored positions of each structure."""
        return json.loads(self.file("case.json").read_text(encoding="utf-8"))

    @cached_property
    def _positions(self) -> np.ndarray:
        return np.load(self.file("positions.npy"), mmap_mode="r")

    @property
    def counts(self) -> list[int]:
        """Number of stored positions of each structure; with an ignore label, the last is for annotated voxels."""
        return self.facts["counts"]

    def position(self, structure: int, index: int) -> tuple[int, ...]:
        """Return the indices of a stored voxel.

        Args:
            structure: Index into `counts`.
            index: A number from 0 up to, but not including, the count of that structure.
        """
        flat = self._positions[sum(self.counts[:structure]) + index]
        return tuple(int(i) for i in np.unravel_index(flat, self.label.shape[1:]))
