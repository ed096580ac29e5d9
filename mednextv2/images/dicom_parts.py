"""What one DICOM series holds: copies of an image are used once, and its volumes are told apart."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from pydicom import dcmread

from mednextv2.images.dicom_file import PARTS, Place, Slice, quiet_pydicom

_DIGITS = 3  # of positions in mm that say that two images are at one place


def without_copies(slices: Sequence[Slice]) -> list[Slice]:
    """Leave out copies: images at one place with the same UID, or with the same pixels and acquisition.

    Images of several volumes may be equal, too (empty ones, far from the patient); what the headers say of their
    acquisition tells them apart from copies.
    """
    often = Counter(map(_where, slices))
    kept: list[Slice] = []
    seen: set[tuple] = set()
    for s in sorted(slices, key=lambda s: s.file):
        where = _where(s)
        if s.place is None or often[where] == 1:
            kept.append(s)
            continue
        marks: set[tuple] = {(where, "uid", s.instance, s.frame)} if s.instance else set()
        if s.frame is None:
            marks.add((where, "pixels", s.parts, _digest(s.file)))
        if not marks & seen:
            kept.append(s)
        seen |= marks
    return kept


def split_volumes(slices: Sequence[Slice]) -> list[tuple[str, list[Slice]]]:
    """Tell volumes of one series apart that have images at the same places: echoes, phases, time points.

    Returns:
        For each what it is, such as `EchoTime 9`, and its slices; a single one without a name where nothing repeats,
        or nothing in the headers tells images at one place apart.
    """
    most = max(Counter(map(_where, slices)).values())
    if most > 1 and all(s.place for s in slices):
        for index, keyword in enumerate(PARTS):
            groups: dict[str, list[Slice]] = {}
            for s in slices:
                groups.setdefault(s.parts[index], []).append(s)
            if 2 <= len(groups) <= most:  # more values than volumes: each image has its own
                found = [(f"{keyword} {value or 'empty'}", group) for value, group in sorted(groups.items(), key=_rank)]
                return [
                    (f"{name}, {more}" if more else name, part)
                    for name, group in found
                    for more, part in split_volumes(group)
                ]
    return [("", list(slices))]


def _rank(item: tuple[str, list[Slice]]) -> tuple[float, str]:
    """Sort numbers as numbers."""
    try:
        return float(item[0]), item[0]
    except ValueError:
        return float("inf"), item[0]


def _where(s: Slice) -> tuple:
    return () if s.place is None else (_rounded(s.place), s.shape)


def _rounded(place: Place) -> tuple[float, ...]:
    return tuple(round(v, _DIGITS) + 0.0 for v in _both(place))


def _both(place: Place) -> Iterable[float]:
    return (*place.position, *place.orientation)


def _digest(file: str) -> bytes:
    with quiet_pydicom():
        return hashlib.sha256(dcmread(file, force=True, specific_tags=["PixelData"]).PixelData).digest()
