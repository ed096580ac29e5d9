"""The content of a collection file: the data sets that are trained on together, and what their labels mean."""

import difflib
import glob
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mednextv2.data.collection_maps import LabelEntry, read_map
from mednextv2.errors import InputError
from mednextv2.label_scheme import is_name
from mednextv2.paths import expand
from mednextv2.text_files import MAX_YAML_BYTES, parse_yaml, read_text
from mednextv2.wording import brief

logger = logging.getLogger(__name__)

#: The endings of collection files.
ENDINGS = (".yaml", ".yml")
#: The layouts of the data sets: those of :func:`mednextv2.data.read_dataset`, and two of published ones.
LAYOUTS = ("dataset", "cads", "totalsegmentator")
SAMPLING = ("square_root", "proportional", "uniform")
_TOP = ("datasets", "sampling", "overlaps")
_KEYS = (
    "root", "labels", "name", "layout", "annotates", "other_values", "empty_cases", "patients", "leave_out", "cases"
)  # fmt: skip
_CHOICES = {"layout": LAYOUTS, "other_values": ("error", "background"), "empty_cases": ("error", "keep")}
_NEEDED = {"root": "the folder of the data set", "labels": "what its values mean, such as {1: spleen, 2: liver}"}
_GLOB = re.compile(r"[*?\[]")
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


@dataclass(frozen=True)
class DatasetEntry:
    """One data set of a collection file.

    Attributes:
        where: The file and the data set, with which messages begin.
        name: The name of the data set.
        root: Its folder.
        layout: One of `LAYOUTS`; with `cases`, it is not used.
        labels: Its map of labels, in order.
        annotates: The structures that it annotates; None for those of the map.
        strict: Whether values that the map lacks are refused.
        may_be_empty: Whether cases without any annotated structure are taken.
        patients: A regular expression for the patient in a case's name, or None.
        leave_out: The names of cases that are not taken.
        must_exist: Whether each of these has to be the name of a case.
        cases: Its cases as they are listed in the file, or None.
    """

    where: str
    name: str
    root: Path
    layout: str
    labels: tuple[LabelEntry, ...]
    annotates: tuple[str, ...] | None
    strict: bool
    may_be_empty: bool
    patients: str | None
    leave_out: frozenset[str]
    must_exist: bool
    cases: tuple[Mapping[str, Any], ...] | None


@dataclass(frozen=True)
class CollectionFile:
    """The content of a collection file.

    Attributes:
        path: The file.
        entries: The data sets.
        sampling: One of `SAMPLING`, or the weight of each data set.
        overlaps: For a data set, the names of others of which it has images.
    """

    path: Path
    entries: tuple[DatasetEntry, ...]
    sampling: str | dict[str, float]
    overlaps: dict[str, tuple[str, ...]]


def is_collection(path: str | os.PathLike) -> bool:
    """Return whether a path has the name of a collection file."""
    return os.fspath(path).lower().endswith(ENDINGS)


def read_collection_file(path: str | os.PathLike) -> CollectionFile:
    """Read a collection file and find the folders of its data sets.

    Args:
        path: The YAML file; `docs/collections.md` describes it. Relative folders are relative to it.

    Raises:
        InputError: If the file cannot be read, has a wrong key or value, or a folder is missing or listed twice.
    """
    path = expand(path)
    content = parse_yaml(read_text(path, MAX_YAML_BYTES, "give the collection file with --dataset_dir"), path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: should have the key datasets with a list of data sets, not {brief(content)}")
    _check_keys(content, _TOP, str(path))
    listed = content.get("datasets")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{path}: datasets should be a list of data sets, each with root and labels")
    entries = [entry for number, given in enumerate(listed, 1) for entry in _entries(path, number, given)]
    _check_twice(path, entries)
    names = [entry.name for entry in entries]
    return CollectionFile(path, tuple(entries), _sampling(path, content, names), _overlaps(path, content, names))


def _entries(path: Path, number: int, given: Any) -> Iterator[DatasetEntry]:
    """Yield the data sets of an entry of the list: several if its root is a pattern of folders."""
    where = f"{path}: data set {number}"
    if not isinstance(given, dict):
        raise InputError(f"{where}: should have root and labels, not {brief(given)}")
    if isinstance(given.get("name"), str):
        where = f"{path}: data set {given['name'][:60]}"
    _check_keys(given, _KEYS, where)
    if missing := [key for key in ("root", "labels") if given.get(key) is None]:
        needed = " and ".join(f"{key}, {_NEEDED[key]}" for key in missing)
        raise InputError(f"{where}: lacks {needed}")
    for key in ("root", "name", "patients"):
        if given.get(key) is not None and not is_name(given[key]):
            raise InputError(f"{where}: {key} should be a text of one line, not {brief(given[key])}; put it in quotes")
    for key, choices in _CHOICES.items():
        if given.get(key, choices[0]) not in choices:
            raise InputError(f"{where}: {key} {brief(given[key])} should be {' or '.join(choices)}")
    if given.get("patients") is not None:
        _check_pattern(given["patients"], where)
    roots, several = _roots(path, given["root"], where)
    leave_out, must_exist = _leave_out(path, given.get("leave_out"), where)
    if several and (given.get("name") is not None or given.get("cases") is not None):
        raise InputError(
            f"{where}: name and cases are for one folder, but root is a pattern of several; leave them out"
        )
    left = [root for root in roots if several and root.name in leave_out]
    if several and left == roots:
        raise InputError(f"{where}: leave_out names all folders of {given['root']}; leave out the data set instead")
    for root in roots:
        if root in left:
            continue
        name = given.get("name") or root.resolve().name
        yield DatasetEntry(
            f"{path}: data set {name}",
            _checked_name(name, where),
            root,
            given.get("layout", LAYOUTS[0]),
            read_map(given["labels"], given.get("layout", LAYOUTS[0]) if given.get("cases") is None else "", where),
            _names(given, "annotates", where),
            given.get("other_values", "error") == "error",
            given.get("empty_cases", "error") == "keep",
            given.get("patients"),
            leave_out,
            must_exist and not several,
            _cases(given.get("cases"), where),
        )


def _check_keys(given: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise InputError(
                f"{where}: {brief(key)} is no key of a collection"
                + (f"; did you mean {near[0]}?" if near else f"; the keys are {', '.join(known)}")
            )


def _checked_name(name: str, where: str) -> str:
    if {"/", "\\"} & {*name} or not is_name(name) or not name.strip(". "):
        raise InputError(f"{where}: the name {brief(name)} cannot be part of a file's name; give another one with name")
    return name


def _check_pattern(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as e:
        raise InputError(
            f"{where}: patients {pattern}: is not a regular expression ({e}), such as '(patient[0-9]+)'"
        ) from e


def _roots(path: Path, text: str, where: str) -> tuple[list[Path], bool]:
    """Return the folders of a root, and whether it is a pattern of several."""
    expanded = os.path.expandvars(text)
    if missing := _VARIABLE.search(expanded):
        raise InputError(
            f"{where}: root {text}: there is no environment variable {missing[1].strip('{}')}; set it (export "
            f"{missing[1].strip('{}')}=FOLDER), or write the folder itself"
        )
    root = path.absolute().parent / expand(expanded)
    if _GLOB.search(text) and not root.is_dir():
        found = sorted(Path(folder) for folder in glob.glob(str(root)) if os.path.isdir(folder))
        if not found:
            raise InputError(f"{where}: root {root}: there is no such folder; correct root, or get the data")
        return found, True
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "there is no such folder"
        raise InputError(f"{where}: root {root}: {what}; correct root, or get the data")
    return [root], False


def _leave_out(path: Path, given: Any, where: str) -> tuple[frozenset[str], bool]:
    """Return names of cases, and whether each has to exist: a file may be about other data sets, too."""
    if given is None:
        return frozenset(), False
    if isinstance(given, str):
        try:
            lines = read_text(path.absolute().parent / expand(os.path.expandvars(given))).splitlines()
        except InputError as e:
            raise InputError(f"{where}: leave_out: {e}") from e
        return frozenset(line.strip() for line in lines if line.strip()), False
    if not isinstance(given, list) or not all(isinstance(name, (str, int)) for name in given):
        raise InputError(f"{where}: leave_out should be a list of names, or a text file with one name a line")
    return frozenset(map(str, given)), True


def _names(given: Mapping[str, Any], key: str, where: str) -> tuple[str, ...] | None:
    names = given.get(key)
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(map(is_name, names)):
        raise InputError(f"{where}: {key} should be a list of structures, not {brief(names)}")
    return tuple(names)


def _cases(given: Any, where: str) -> tuple[Mapping[str, Any], ...] | None:
    if given is None:
        return None
    form = "a list of cases, such as {image: ct.nii.gz, label: seg.nii.gz}; a case may have a name"
    if not isinstance(given, list) or not given:
        raise InputError(f"{where}: cases should be {form}")
    for case in given:
        images = case.get("image") if isinstance(case, dict) else None
        files = [*(images if isinstance(images, list) else [images]), case.get("label")] if images else [None]
        if not {*case} <= {"image", "label", "name"} or not all(map(is_name, [*files, case.get("name", "case")])):
            raise InputError(f"{where}: cases should be {form}, not {brief(case)}")
    return tuple(given)


def _check_twice(path: Path, entries: Sequence[DatasetEntry]) -> None:
    names: dict[str, DatasetEntry] = {}
    roots: dict[Path, DatasetEntry] = {}
    for entry in entries:
        if entry.name.casefold() in names:
            raise InputError(f"{path}: two data sets are called {entry.name}; give one of them another name")
        names[entry.name.casefold()] = entry
        other = roots.setdefault(entry.root.resolve(), entry)
        if other is not entry and not (other.cases and entry.cases):
            raise InputError(
                f"{path}: {entry.root} is listed twice, as {other.name} and {entry.name}; remove one of them"
            )


def _sampling(path: Path, content: Mapping[str, Any], names: Sequence[str]) -> str | dict[str, float]:
    given = content.get("sampling", SAMPLING[0])
    if isinstance(given, dict) and {*given} == {*names}:
        numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) and v >= 0 for v in given.values()]
        if all(numbers) and any(given.values()):
            return {name: float(given[name]) for name in names}
    elif given in SAMPLING if isinstance(given, str) else False:
        return given
    raise InputError(
        f"{path}: sampling should be {', '.join(SAMPLING)}, or a weight for each data set ({', '.join(names[:5])}"
        f"{', …' * (len(names) > 5)}), numbers from 0 of which one is larger, not {brief(given)}"
    )


def _overlaps(path: Path, content: Mapping[str, Any], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    given = content.get("overlaps", {})
    lists = isinstance(given, dict) and all(isinstance(v, list) and all(map(is_name, v)) for v in given.values())
    if not lists or not all(map(is_name, given)):
        raise InputError(
            f"{path}: overlaps should name, for a data set, others that have the same images, such as "
            f"{{0005_bcv_abdomen: [Dataset017_BTCV]}}, not {brief(given)}"
        )
    if unknown := [name for name in given if name not in names]:
        logger.warning(
            "%s: overlaps names %s, which is no data set of this collection, so that its line has no effect", path,
            " and ".join(unknown),
        )  # fmt: skip
    return {name: tuple(others) for name, others in given.items()}
