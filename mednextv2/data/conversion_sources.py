"""The files of public data sets as they are downloaded: found by their layout, the rest told apart."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import MappingProxyType

import numpy as np

from mednextv2.data.conversion_cases import SourceCase, Volume, relative
from mednextv2.errors import InputError
from mednextv2.images.label_map_files import as_label_map, distinct_values
from mednextv2.images.volume import read_volume
from mednextv2.wording import count

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".tar.xz", ".tar.bz2")
_MARKS = {b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}
_NOT_LOOKED_INTO = ("__MACOSX",)
_DEPTH = 2  # folders that may lie between the one given and the data set
_SHOWN = 5


@dataclass
class Found:
    """What a converter found in the source.

    Attributes:
        cases: The cases.
        excluded: Cases that are left out on purpose, and why.
        incomplete: Cases that lack a file, and which.
        ignored: Files that belong to no case.
        notes: What a user should know about the whole conversion.
        split: For each fold the names for training and for validation, where the data set has a split of its own.
    """

    cases: list[SourceCase] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    incomplete: dict[str, str] = field(default_factory=dict)
    ignored: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    split: list[tuple[list[str], list[str]]] = field(default_factory=list)

    def add_pairs(self, images: Mapping[str, Path], labels: Mapping[str, Path], part: str = "Tr") -> None:
        """Add the cases that have an image and a label map; those that lack one of them are incomplete."""
        for name in sorted({*images, *labels}):
            if name in images and name in labels:
                self.cases.append(SourceCase(name, (images[name], labels[name]), part))
            else:
                has = images.get(name) or labels[name]
                missing = "label map" if name in images else "image"
                self.incomplete[name] = f"{has}: has no {missing}; copy or unpack the rest of the data set"


def find_root(
    source: Path, markers: Sequence[str], expected: str, refused: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Return the folder of a data set: the one that was given, or one in it.

    Args:
        source: What the user gave.
        markers: Patterns of paths in the folder, any of which tells that it is the right one, such as `Training/img`.
        expected: The layout in words, for the message.
        refused: Patterns of paths that tell that it is another data set, and what it is.

    Raises:
        InputError: If there is no such folder, or several; the message says so of archives that are not unpacked.
    """
    if not source.is_dir():
        _refuse_file(source, expected)
    level = [source]
    for _ in range(_DEPTH + 1):
        for folder, (pattern, reason) in product(level, refused.items()):
            if _holds(folder, pattern):
                raise InputError(f"{folder}: {reason}; give {expected}")
        fitting = [folder for folder in level if any(_holds(folder, marker) for marker in markers)]
        if len(fitting) > 1:
            names = ", ".join(relative(str(folder), source) for folder in fitting[:_SHOWN])
            raise InputError(f"{source}: holds the data set several times ({names}); give one of these folders")
        if fitting:
            return fitting[0]
        level = [inner for folder in level for inner in _folders(folder)]
    inside = sorted(path.name for path in source.iterdir() if not path.name.startswith("."))
    packed = [name for name in inside if name.lower().endswith(_ARCHIVES)]
    if packed:
        raise InputError(f"{source}: holds {', '.join(packed[:_SHOWN])}, not unpacked; unpack it, then give {expected}")
    more = ", …" if len(inside) > _SHOWN else ""
    raise InputError(f"{source}: holds {', '.join(inside[:_SHOWN]) or 'nothing'}{more}; give {expected}")


def _holds(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


def _refuse_file(source: Path, expected: str) -> None:
    if not source.exists():
        raise InputError(f"{source}: there is no such folder; give {expected}")
    with source.open("rb") as f:
        head = f.read(4)
    if kind := next((kind for mark, kind in _MARKS.items() if head.startswith(mark)), None):
        raise InputError(f"{source}: is an archive ({kind}); unpack it, then give {expected}")
    raise InputError(f"{source}: is a file; give {expected}")


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in _NOT_LOOKED_INTO
    )


def list_files(folder: Path, pattern: str, found: Found) -> dict[str, Path]:
    """Return the files of a folder whose whole names fit a pattern, by what its first group holds, in order.

    The other files are counted as ignored.

    Args:
        folder: The folder; none has no files.
        pattern: A regular expression.
        found: Takes the ignored files.

    Raises:
        InputError: If two files have one name.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = re.fullmatch(pattern, path.name)
        if match is None:
            found.ignored.append(path)
        elif match[1] in files:
            raise InputError(f"{folder}: {files[match[1]].name} and {path.name} are the same case; remove one")
        else:
            files[match[1]] = path
    return files


def list_folders(folder: Path, pattern: str, found: Found) -> dict[str, Path]:
    """Return the subfolders whose whole names fit a pattern, by name, in order; the rest counts as ignored."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    fitting = [path for path in paths if path.is_dir() and re.fullmatch(pattern, path.name)]
    found.ignored += [path for path in paths if path not in set(fitting)]
    return {path.name: path for path in fitting}


def missing_files(files: Sequence[Path | str], advice: str) -> str:
    """Say that files of a case are missing, by their paths.

    Args:
        files: The files.
        advice: What to do.

    Example:
        >>> missing_files(["a/ct.nii.gz"], "copy it again")
        'a/ct.nii.gz: there is no such file; copy it again'
        >>> missing_files(["a/1", "a/2", "a/3", "a/4", "a/5"], "copy them again")
        'a/1, a/2, a/3 and 2 more: there are no such files; copy them again'
    """
    names = ", ".join(map(str, files[:3])) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    return f"{names}: {'there is no such file' if len(files) == 1 else 'there are no such files'}; {advice}"


def exclude_known(found: Found, known: Mapping[str, str]) -> None:
    """Leave out the cases that are known to be defective."""
    found.excluded |= {case.name: known[case.name] for case in found.cases if case.name in known}
    found.cases = [case for case in found.cases if case.name not in known]


def read_labels(file: Path, values: Mapping[int, int]) -> Volume:
    """Read a label map.

    Args:
        file: The file.
        values: The new value for each value that the file may have; 0 stays.

    Raises:
        InputError: If it cannot be read, is no label map, or has a value that `values` does not have.
    """
    array, affine = read_volume(file)
    return relabel(as_label_map(array, str(file)), values, str(file)), affine


def identity(labels: Iterable[int]) -> dict[int, int]:
    """Return the values of a data set whose label maps are used as they are, for :func:`read_labels`."""
    return {value: value for value in labels}


def relabel(labels: np.ndarray, values: Mapping[int, int], name: str) -> np.ndarray:
    """Return a label map with other values.

    Args:
        labels: Whole numbers from 0.
        values: The new value for each value that the label map may have besides 0.
        name: The file, for messages.

    Raises:
        InputError: If the label map has another value.
    """
    if unknown := [value for value in distinct_values(labels) if value and value not in values]:
        raise InputError(
            f"{name}: has the label values {_some(unknown)}, which this data set does not have (it has "
            f"{_some(sorted(values))}); is it the right version of the data set, or was it changed?"
        )
    table = np.zeros(max((*values, int(labels.max()))) + 1, np.int16)
    for old, new in values.items():
        table[old] = new
    return table[labels]


def _some(values: Iterable[int]) -> str:
    values = list(values)
    if values and values == list(range(values[0], values[-1] + 1)) and len(values) > 2:
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values[:60])) + (", …" if len(values) > 60 else "")


def describe_ignored(files: Sequence[Path], source: Path) -> str:
    """Say which files belong to no case."""
    names = sorted(relative(str(file), source) for file in files)
    more = ", …" if len(names) > _SHOWN else ""
    return f"{count(len(names), 'file or folder', 'files or folders')} ignored: {', '.join(names[:_SHOWN])}{more}"


def below(folder: Path) -> Iterator[Path]:
    """Give the files in a folder and below, sorted, without hidden ones."""
    yield from sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
