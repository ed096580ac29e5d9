"""What one DICOM series holds: copies of an image are used once, and its volumes are told apart."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pydicom import dcmread

from mednextv2.errors import InputError
from mednextv2.images.dicom_file import PARTS, Slice, quiet_pydicom

_SAME_PLACE = (0.01,) * 3 + (1e-4,) * 6  # mm and of cosines: what is nearer was rounded otherwise


def without_copies(slices: Sequence[Slice]) -> list[Slice]:
    """Leave out copies: images at one place of the same acquisition with the same UID, or with the same pixels.

    Images of several volumes may be equal, too (empty ones, far from the patient); what the headers say of their
    acquisition tells them apart from copies.
    """
    slices = sorted(slices, key=lambda s: s.file)
    places = _places(slices)
    often = Counter(places)
    kept: list[Slice] = []
    seen: set[tuple] = set()
    for s, where in zip(slices, places, strict=True):
        if s.place is None or often[where] == 1:
            kept.append(s)
            continue
        marks: set[tuple] = {(where, "uid", s.parts, s.instance, s.frame)} if s.instance else set()
        if s.frame is None:
            marks.add((where, "pixels", s.parts, _digest(s.file)))
        if not marks & seen:
            kept.append(s)
        seen |= marks
    return kept


def split_volumes(slices: Sequence[Slice]) -> list[tuple[str, list[Slice]]]:
    """Tell volumes of one series apart that have images at the same places: echoes, phases, time points.

    Stacks of an enhanced file are volumes of their own, wherever they are.

    Returns:
        For each what it is, such as `EchoTime 9`, and its slices; a single one without a name where nothing repeats,
        or nothing in the headers tells images at one place apart.
    """
    most = _most(slices)
    for index, keyword in enumerate(PARTS):
        groups: dict[str, list[Slice]] = {}
        for s in slices:
            groups.setdefault(s.parts[index], []).append(s)
        if keyword == "StackID":
            splits = min(map(len, groups.values())) > 1
        else:  # more values than volumes: each image has its own; as many images at a place as before: none told apart
            splits = 1 < len(groups) <= most and max(map(_most, groups.values())) < most
        if splits and len(groups) > 1 and all(s.place for s in slices):
            found = [(f"{keyword} {value or 'empty'}", group) for value, group in sorted(groups.items(), key=_rank)]
            return [
                (f"{name}, {more}" if more else name, part)
                for name, group in found
                for more, part in split_volumes(group)
            ]
    return [("", list(slices))]


def _most(slices: Sequence[Slice]) -> int:
    """Return how many images are at one place at most."""
    return max(Counter(_places(slices)).values())


def _rank(item: tuple[str, list[Slice]]) -> tuple[float, str]:
    """Sort numbers as numbers."""
    try:
        return float(item[0]), item[0]
    except ValueError:
        return float("inf"), item[0]


def _places(slices: Sequence[Slice]) -> list[tuple]:
    """Return for each slice what is the same for those at one place, numbers a little apart among them."""
    numbers = np.array([_numbers(s) for s in slices])
    groups = np.zeros(numbers.shape, int)
    for column, apart in enumerate(_SAME_PLACE):
        order = numbers[:, column].argsort()
        groups[order[1:], column] = (np.diff(numbers[order, column]) > apart).cumsum()
    return [(*group, s.shape) for group, s in zip(groups.tolist(), slices, strict=True)]


def _numbers(s: Slice) -> tuple[float, ...]:
    return (*s.place.position, *s.place.orientation) if s.place else (0.0,) * len(_SAME_PLACE)


def _digest(file: str) -> bytes:
    try:
        with quiet_pydicom():
            return hashlib.sha256(dcmread(file, force=True, specific_tags=["PixelData"]).PixelData).digest()
    except Exception as e:  # pydicom and the system raise many kinds
        raise InputError(f"{file}: cannot be read any more; copy the series again") from e
