"""From the names in the maps of labels of a collection to the values of the joined label maps."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mednextv2.data.collection_entries import CollectionFile, DatasetEntry
from mednextv2.errors import InputError
from mednextv2.label_scheme import MAX_NAME, LabelScheme
from mednextv2.wording import brief

BACKGROUND, IGNORE = "background", "ignore"


class PartRule(NamedTuple):
    """What the values of one file of a case become: its part, and pairs of values."""

    part: str
    values: tuple[tuple[int, int], ...]


class LabelRule(NamedTuple):
    """How the label map of a case is made.

    Attributes:
        parts: Its files; later ones are painted over earlier ones.
        structures: Whether the data set annotates each structure of `LabelScheme.foreground`.
        values: The values of these structures in joined label maps.
    """

    parts: tuple[PartRule, ...]
    structures: tuple[bool, ...]
    values: tuple[int, ...]


def union_scheme(file: CollectionFile) -> LabelScheme:
    """Return the label scheme of all structures of a collection, in the order in which they are first named.

    Raises:
        InputError: If two names differ only in capital letters, or there is no structure.
    """
    names = [line.structure for entry in file.entries for line in entry.labels]
    names += [name for entry in file.entries for name in entry.annotates or ()]
    structures = [name for name in dict.fromkeys(names) if name not in (BACKGROUND, IGNORE)]
    if not structures:
        raise InputError(f"{file.path}: its maps of labels name no structure besides the background; add some")
    _check_capitals(structures, str(file.path))
    labels = [BACKGROUND, *structures]
    return LabelScheme(labels, ignore_label=len(labels) if IGNORE in names else None)


def _check_capitals(names: Sequence[str], where: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(
                f"{where}: the structures {other} and {name} differ only in capital letters; write both in the same way"
            )


def label_rule(entry: DatasetEntry, declared: Mapping[str, Any], scheme: LabelScheme) -> LabelRule:
    """Return how the label maps of a data set are made.

    Args:
        entry: The data set.
        declared: The values by name that its `dataset.json` declares, if there is one.
        scheme: The meaning of the values of the joined label maps.

    Raises:
        InputError: If the map names an unknown structure or label, or gives one value two structures.
    """
    _check_capitals(scheme.declared, f"{entry.where}: the bundle's labels")
    parts: dict[str, dict[int, tuple[int, str]]] = {}
    for line in entry.labels:
        new = _value_of(line.structure, scheme, entry.where)
        for old in _sources(line.source, declared, entry.where):
            known = parts.setdefault(line.part, {})
            where = f"{entry.where}: labels: the value {old}" + (f" of part {line.part}" if line.part else "")
            if old in known and known[old][0] != new:
                raise InputError(f"{where} is both {known[old][1]} and {line.structure}; one value has one structure")
            if old == 0 and new != 0:
                raise InputError(f"{where} is the background and cannot be {line.structure}; correct the map")
            known[old] = (new, line.structure)
    mapped = {new for known in parts.values() for new, _ in known.values()}
    structures = _annotated(entry, scheme, mapped)
    _check_complete(entry, declared, {*parts.get("", {})})
    values = [v for members, known in zip(scheme.members, structures, strict=True) if known for v in members]
    rules = [PartRule(part, tuple((old, new) for old, (new, _) in known.items())) for part, known in parts.items()]
    return LabelRule(tuple(rules), structures, tuple(sorted({*values})))


def _check_complete(entry: DatasetEntry, declared: Mapping[str, Any], known: set[int]) -> None:
    """Name labels of `dataset.json` that the map lacks before all cases are prepared but the first that has them."""
    values = {name: {*value} if isinstance(value, (list, tuple)) else {value} for name, value in declared.items()}
    if entry.strict and known and (lost := [name for name, v in values.items() if v - known - {0}]):
        raise InputError(
            f"{entry.where}: labels lacks {', '.join(map(brief, lost))} of the data set's dataset.json; map what is "
            "not used to background, or write other_values: background"
        )


def _value_of(structure: str, scheme: LabelScheme, where: str) -> int:
    if structure == IGNORE and scheme.ignore_label is not None:
        return scheme.ignore_label
    if structure in scheme.labels:
        return scheme.labels.index(structure)
    near = _nearest(structure, scheme.labels)
    end = "" if near.endswith("?") else "."
    raise InputError(
        f"{where}: labels: {brief(structure)} is none of the bundle's labels{near}{end} Map the value to one of them "
        "or to background, or let mednextv2 plan make a bundle for the structures of this collection"
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    lower = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), lower, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {lower[near[0]]}?"
    shown = ", ".join(other[:MAX_NAME] for other in known[:20]) + (", …" if len(known) > 20 else "")
    return f", which are {shown}"


def _sources(source: int | str, declared: Mapping[str, Any], where: str) -> list[int]:
    """Return the values that a key of the map stands for: a value, or a name that the data set declares."""
    if isinstance(source, int):
        return [source]
    if source in declared:
        values = declared[source]
        return list(values) if isinstance(values, (list, tuple)) else [values]
    if source.isdecimal():  # a value in quotes, as in JSON
        return [int(source)]
    if not declared:
        raise InputError(
            f"{where}: labels: the data set gives its values no names, so {brief(source)} means nothing; give the "
            "value, such as {1: spleen}"
        )
    raise InputError(f"{where}: labels: {brief(source)} is no label of the data set{_nearest(source, [*declared])}")


def _annotated(entry: DatasetEntry, scheme: LabelScheme, mapped: set[int]) -> tuple[bool, ...]:
    """Return whether the data set annotates each structure: by default, those all of whose values are in the map."""
    if entry.annotates is None:
        found = tuple({*members} <= mapped for members in scheme.members)
    else:
        for name in entry.annotates:
            if name not in scheme.foreground:
                near = _nearest(name, scheme.foreground)
                raise InputError(f"{entry.where}: annotates: {brief(name)} is no structure of the bundle{near}")
        found = tuple(name in entry.annotates for name in scheme.foreground)
        inside = {v for members, known in zip(scheme.members, found, strict=True) if known for v in members}
        if missing := sorted(mapped - inside - {0, scheme.ignore_label}):
            names = ", ".join(scheme.labels[v] for v in missing)
            raise InputError(
                f"{entry.where}: labels has {names}, which annotates does not; add it there, or map it to background"
            )
    if not any(found):
        raise InputError(
            f"{entry.where}: annotates none of the bundle's structures, so that nothing can be learned from it; map "
            "values to structures, or remove the data set"
        )
    return found
