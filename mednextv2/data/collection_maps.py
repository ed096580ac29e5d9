"""The map of labels of a data set in a collection file: what its values become."""

from dataclasses import dataclass
from typing import Any

from mednextv2.errors import InputError
from mednextv2.label_scheme import is_name, is_whole
from mednextv2.wording import brief


@dataclass(frozen=True)
class LabelEntry:
    """One line of a data set's map of labels.

    Attributes:
        part: The file of a case that has the value, where a case has several: the number of CADS's part, or the name of
            a mask; else empty.
        source: The value, or the name that the data set gives it.
        structure: The name of the structure.
    """

    part: str
    source: int | str
    structure: str


def read_map(given: Any, layout: str, where: str) -> tuple[LabelEntry, ...]:
    """Return the lines of a map of labels.

    Args:
        given: The content of the key labels.
        layout: The layout of the data set; empty if its cases are listed.
        where: The file and the data set, with which messages begin.

    Raises:
        InputError: If it is no map from values, or names, to structures.
    """
    form = {
        "cads": "the structure of each value of each part, such as {551: {1: spleen}}",
        "totalsegmentator": "the structure of each mask, such as {spleen: spleen}, or a list of masks",
    }.get(layout, "the structure of each value or name of the data set, such as {1: spleen}, or a list of names")
    if isinstance(given, list) and layout != "cads" and all(map(is_name, given)):
        given = {name: name for name in given}
    if not isinstance(given, dict) or not given:
        raise InputError(f"{where}: labels should have {form}, not {brief(given)}")
    if layout == "cads":
        if not all(isinstance(values, dict) and values for values in given.values()):
            raise InputError(f"{where}: labels should have {form}, not {brief(given)}")
        lines = [(str(part), source, name) for part, values in given.items() for source, name in values.items()]
    elif layout == "totalsegmentator":
        lines = [(str(mask), 1, name) for mask, name in given.items()]
    else:
        lines = [("", source, name) for source, name in given.items()]
    for part, source, name in lines:
        if not (is_whole(source) and source >= 0) and not is_name(source):
            raise InputError(f"{where}: labels: {brief(source)} is no value of a label map and no name; {form}")
        if isinstance(name, list):
            raise InputError(f"{where}: labels: {source} is {brief(name)}; one value has one structure")
        if not is_name(name):
            raise InputError(f"{where}: labels: {part or source}: {brief(name)} is no name of a structure; {form}")
    return tuple(LabelEntry(*line) for line in lines)
