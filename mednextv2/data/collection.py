"""Reading of a collection: data sets that annotate different structures, trained on together."""

import os
from collections.abc import Callable
from pathlib import Path

from mednextv2.data.cases import CollectedCase, CollectedDataset, Collection, DatasetFolder, collected_name
from mednextv2.data.collection_entries import DatasetEntry, read_collection_file
from mednextv2.data.collection_labels import label_rule, union_scheme
from mednextv2.data.collection_layouts import find_cases, join_labels
from mednextv2.data.two_folders import sorted_cases
from mednextv2.errors import InputError
from mednextv2.label_scheme import LabelScheme
from mednextv2.wording import count


def read_collection(
    path: str | os.PathLike, read_folder: Callable[[Path], DatasetFolder], scheme: LabelScheme | None = None
) -> Collection:
    """Read which cases the data sets of a collection have, without opening an image.

    Args:
        path: The collection file: see `docs/collections.md`.
        read_folder: Reads the folder of a data set.
        scheme: The labels of the bundle; None: all structures of the file, in the order in which they are first named.

    Returns:
        The collection. The name of a case is that of its data set, a dot, and its own.

    Raises:
        InputError: If the file or a folder cannot be used; the message names the file and the data set.
    """
    file = read_collection_file(path)
    scheme = scheme or union_scheme(file)
    parts: list[CollectedDataset] = []
    cases: list[CollectedCase] = []
    for entry in file.entries:
        found = find_cases(entry, read_folder)
        rule = label_rule(entry, found.labels, scheme)
        kept = [case for case in found.cases if case.name not in entry.leave_out]
        _check_left_out(entry, {case.name for case in found.cases}, len(kept))
        cases += [
            CollectedCase(
                collected_name(entry.name, case.name), case.images, join_labels(entry, case, rule), entry.name,
                rule.structures,
            )
            for case in kept
        ]  # fmt: skip
        parts.append(
            CollectedDataset(
                found.path, found.channels, {}, tuple(kept), folds=found.folds, name=entry.name, patients=entry.patients
            )
        )
    _check_images(file.path, cases)
    return Collection(
        file.path, _channels(file.path, parts, cases), {}, sorted_cases(cases, file.path), parts=tuple(parts),
        label_scheme=scheme, sampling=file.sampling, overlaps=file.overlaps,
    )  # fmt: skip


def _check_left_out(entry: DatasetEntry, names: set[str], kept: int) -> None:
    if entry.must_exist and (unknown := sorted(entry.leave_out - names)):
        raise InputError(
            f"{entry.where}: leave_out names {count(len(unknown), 'case')} that the data set does not have: "
            f"{', '.join(unknown[:5])}"
        )
    if not kept:
        raise InputError(f"{entry.where}: {entry.root}: no case is left; correct leave_out, or remove the data set")


def _check_images(path: Path, cases: list[CollectedCase]) -> None:
    seen: dict[str, str] = {}
    for case in cases:
        other = seen.setdefault(os.path.abspath(case.images[0]), case.dataset)
        if other != case.dataset:
            raise InputError(
                f"{path}: {case.images[0]} is listed twice, in the data sets {other} and {case.dataset}; remove one"
            )


def _channels(path: Path, parts: list[CollectedDataset], cases: list[CollectedCase]) -> tuple[str, ...]:
    """Return the names of the channels: those of the data sets if they agree."""
    first: dict[str, CollectedCase] = {}
    for case in cases:
        first.setdefault(case.dataset, case)
    numbers = {part.name: len(part.channels) or len(first[part.name].images) for part in parts}
    if len({*numbers.values()}) > 1:
        listed = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise InputError(
            f"{path}: its data sets have different numbers of channels ({listed}); remove those that differ"
        )
    names = {part.channels for part in parts}
    number = next(iter(numbers.values()))
    if len(names) == 1 and (only := names.pop()):
        return only
    return ("image",) if number == 1 else tuple(f"channel {c}" for c in range(number))
