"""DICOM RT Structure Sets as masks: the outlines of structures, filled on the grid of the images they belong to."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.utils import orientation_ras_lps
from pydicom import Dataset, dcmread
from pydicom.uid import RTStructureSetStorage

from mednextv2.errors import InputError
from mednextv2.images.contour_filling import fill_contours
from mednextv2.images.dicom import DicomSeries, series_affine
from mednextv2.images.dicom_file import quiet_pydicom
from mednextv2.images.dicom_geometry import in_order
from mednextv2.images.dicom_stream import is_whole
from mednextv2.wording import count

#: How structures and images are matched: by the UIDs to which structures refer, or, failing that, by positions.
MATCHES = ("references", "geometry")
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_ON_SLICE = 0.1  # of a slice's distance, that a contour on a slice may be off it
_DIGITS = 3  # of a pixel: corners are written with few digits, so that those on centres would lie on either side


@dataclass(frozen=True)
class Roi:
    """A region of interest.

    Attributes:
        name: Its name, with single spaces.
        contours: The corners of each closed contour, `(N, 3)`, in mm (left, posterior, superior).
        instances: The SOP instance UID of the image that each contour refers to; empty where it refers to none.
        others: How many contours are left out, by kind, such as points and open lines.
    """

    name: str
    contours: tuple[np.ndarray, ...] = field(default=(), repr=False)
    instances: tuple[str, ...] = field(default=(), repr=False)
    others: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StructureSet:
    """The content of an RTSTRUCT file.

    Attributes:
        file: The file.
        date: When the structures were drawn, or the object was made: digits that sort by time; empty if not said.
        series: The UIDs of the series that it refers to.
        frames: The UIDs of the frames of reference.
        rois: The regions of interest, in the order of the file.
    """

    file: str
    date: str
    series: frozenset[str]
    frames: frozenset[str]
    rois: tuple[Roi, ...]


def is_structure_set(file: str | os.PathLike) -> bool:
    """Return whether a file is an RTSTRUCT, by its class."""
    try:
        with quiet_pydicom():
            header = dcmread(file, force=True, specific_tags=["SOPClassUID"], stop_before_pixels=True)
            return header.get("SOPClassUID", "") == RTStructureSetStorage
    except Exception:  # pydicom raises many kinds for what is damaged or no DICOM
        return False


def read_structure_set(file: str | os.PathLike) -> StructureSet:
    """Read an RTSTRUCT.

    Raises:
        InputError: If the file cannot be read, is another object, or has contours that are none.
    """
    if not Path(file).is_file():
        raise InputError(f"{file}: there is no such file")
    if not is_structure_set(file):
        raise InputError(f"{file}: is no RTSTRUCT, or is damaged; give a DICOM RT Structure Set")
    try:
        with quiet_pydicom():
            content = dcmread(file, force=True)
            if not is_whole(file, content):
                raise InputError(f"{file}: is truncated; copy it again")
            return _read(str(file), content)
    except InputError:
        raise
    except Exception as e:  # pydicom raises many kinds for what is damaged
        detail = " ".join(str(e).split())[:200]
        raise InputError(f"{file}: is truncated or damaged ({type(e).__name__}: {detail}); copy it again") from e


def _read(file: str, content: Dataset) -> StructureSet:
    if "StructureSetROISequence" not in content or "ROIContourSequence" not in content:
        raise InputError(f"{file}: has no structures or no contours; it may be truncated. Copy it again")
    frames, series = set(), set()
    for frame in content.get("ReferencedFrameOfReferenceSequence", []):
        frames.add(str(frame.get("FrameOfReferenceUID", "")))
        for study in frame.get("RTReferencedStudySequence", []):
            series |= {str(s.SeriesInstanceUID) for s in study.get("RTReferencedSeriesSequence", [])}
    names = {}
    for item in content.get("StructureSetROISequence", []):
        names[int(item.ROINumber)] = " ".join(str(item.get("ROIName", "")).split())
        frames.add(str(item.get("ReferencedFrameOfReferenceUID", "")))
    drawn = {int(item.ReferencedROINumber): item for item in content.get("ROIContourSequence", [])}
    rois = tuple(_read_roi(file, name, drawn.get(number)) for number, name in names.items())
    dates = (f"{content.get(f'{what}Date', '')}{content.get(f'{what}Time', '')}" for what in _DATES)
    return StructureSet(file, next(filter(None, dates), ""), frozenset(series), frozenset(frames - {""}), rois)


_DATES = ("StructureSet", "InstanceCreation")


def _read_roi(file: str, name: str, item: Dataset | None) -> Roi:
    contours, instances, others = [], [], Counter[str]()
    for contour in [] if item is None else item.get("ContourSequence", []):
        kind = str(contour.get("ContourGeometricType", "")) or "contour without a type"
        points = _points(file, name, contour)
        if kind not in _CLOSED or len(points) < 3:
            others[kind if kind not in _CLOSED else "closed contour of fewer than 3 points"] += 1
            continue
        images = contour.get("ContourImageSequence", [])
        contours.append(points)
        instances.append(str(images[0].get("ReferencedSOPInstanceUID", "")) if images else "")
    return Roi(name, tuple(contours), tuple(instances), dict(others))


def _points(file: str, name: str, contour: Dataset) -> np.ndarray:
    element: Any = contour.get_item("ContourData") if "ContourData" in contour else None
    value = b"" if element is None or element.value is None else element.value
    # as bytes, many times faster than by pydicom, which makes an object of each number
    numbers = value.split(b"\\") if isinstance(value, bytes) else list(value)
    try:
        points = np.array([float(number) for number in numbers if number != b""]).reshape(-1, 3)
    except ValueError as e:
        raise InputError(f"{file}: a contour of {name} has numbers that are no points; export it again") from e
    if not np.isfinite(points).all():
        raise InputError(f"{file}: a contour of {name} has a point that is not finite; export it again")
    return points


class ContourGrid:
    """The grid of a series, on which the contours of a structure set are filled.

    Tilted gantries need no special care: contours lie in the planes of the slices, whose affine is sheared.

    Args:
        structures: The structure set.
        series: The images.
        match: `references`: the structure set must refer to this series and its frame of reference, and each contour to
            the image on which it lies. `geometry`: if it does not, all contours must lie on slices and within the
            images, and `notes` say so.

    Attributes:
        notes: What a user should know about how both were matched.

    Raises:
        InputError: If the structure set does not belong to the series, or no contour lies within it.
    """

    def __init__(self, structures: StructureSet, series: DicomSeries, match: str = "references") -> None:
        if match not in MATCHES:
            raise InputError(f"match {match!r}: should be {' or '.join(MATCHES)}")
        self.file, self.notes = structures.file, []
        self.slices = in_order(series.slices)
        self.shape = (*series.slices[0].shape, len(self.slices))
        self._to_voxels = np.linalg.inv(orientation_ras_lps(series_affine(series)))
        places = [self._place(roi, contour) for roi in structures.rois for contour in roi.contours]
        wrong = self._wrong_references(structures, series)
        if wrong and match == "references":
            raise InputError(
                f"{structures.file}: does not belong to {series}: it {wrong}. Take the structure set of this series, "
                "or match them by geometry"
            )
        if wrong:
            if outside := sum(not self._is_within(low, high, on_slice=True) for low, high in places):
                raise InputError(
                    f"{structures.file}: does not belong to {series}: it {wrong}, and {outside} of "
                    f"{count(len(places), 'contour')} do not lie on slices within its images"
                )
            self.notes.append(f"the structure set {wrong}; it was matched by the positions of its contours")
        if places and not any(self._is_within(low, high) for low, high in places):
            raise InputError(f"{structures.file}: none of its contours lies within {series}; are they of one patient?")

    def _wrong_references(self, structures: StructureSet, series: DicomSeries) -> str:
        """Say what the structure set refers to instead of the series; nothing if it refers to the series."""
        if series.slices[0].reference and structures.frames and series.slices[0].reference not in structures.frames:
            return "refers to another frame of reference"
        if not structures.series:
            return "refers to no series"
        if series.uid not in structures.series:
            return "refers to another series"
        index = {s.instance: k for k, s in enumerate(self.slices)}
        for roi in structures.rois:
            for contour, instance in zip(roi.contours, roi.instances, strict=True):
                if instance and instance not in index:
                    return f"has a contour of {roi.name} that refers to an image which the series does not have"
                place = float(self._voxels(contour)[:, 2].mean())
                if instance and abs(place - index[instance]) > 0.5 + _ON_SLICE:
                    return (
                        f"has a contour of {roi.name} that refers to slice {index[instance] + 1}, but lies at "
                        f"slice {place + 1:.2f}"
                    )
        return ""

    def _voxels(self, contour: np.ndarray) -> np.ndarray:
        return contour @ self._to_voxels[:3, :3].T + self._to_voxels[:3, 3]

    def _place(self, roi: Roi, contour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest voxel indices of a contour, which must be parallel to the slices."""
        voxels = self._voxels(contour)
        if np.ptp(voxels[:, 2]) > 2 * _ON_SLICE:
            raise InputError(
                f"{self.file}: a contour of {roi.name} is not parallel to the slices of the images; export it on them"
            )
        return voxels.min(axis=0), voxels.max(axis=0)

    def _is_within(self, low: np.ndarray, high: np.ndarray, on_slice: bool = False) -> bool:
        middle = float(low[2] + high[2]) / 2
        if on_slice and abs(middle - round(middle)) > _ON_SLICE:
            return False
        inside = (low[:2] >= -0.5 - _ON_SLICE).all() and (high[:2] <= np.array(self.shape[:2]) - 0.5 + _ON_SLICE).all()
        touches = (high[:2] >= -0.5).all() and (low[:2] <= np.array(self.shape[:2]) - 0.5).all()
        return bool(inside if on_slice else touches) and -0.5 <= middle <= self.shape[2] - 0.5

    def fill(self, roi: Roi) -> tuple[np.ndarray, list[str]]:
        """Fill the contours of a structure.

        A contour between slices counts for the nearest one; of several planes at a slice, the nearest counts. Contours
        that are there twice count once, and those outside the images do not count. The notes say each of this.

        Args:
            roi: One of the structure set.

        Returns:
            The mask, `(columns, rows, slices)`, and what a user should know, one clause each.

        Source:
            DICOM PS3.3 C.8.8.6: contours within others are holes.
        """
        mask = np.zeros(self.shape, bool)
        said = Counter({f"{kind} left out": number for kind, number in roi.others.items()})
        planes: dict[int, dict[float, list[np.ndarray]]] = {}
        for contour in roi.contours:
            voxels = self._voxels(contour)
            middle = round(float(voxels[:, 2].mean()), _DIGITS)
            if not self._is_within(voxels.min(axis=0), voxels.max(axis=0)):
                said["contour outside of the images left out"] += 1
                continue
            k = min(max(round(middle), 0), self.shape[2] - 1)
            planes.setdefault(k, {}).setdefault(middle, []).append(np.round(voxels[:, :2], _DIGITS))
        for k, found in planes.items():
            nearest = min(found, key=lambda middle: (abs(middle - k), middle))
            said["contour left out, since another one is nearer to its slice"] += sum(map(len, found.values()))
            said["contour left out, since another one is nearer to its slice"] -= len(found[nearest])
            if abs(nearest - k) > _ON_SLICE:
                said["contour between slices, taken to the nearest one"] += len(found[nearest])
            distinct = {_as_key(corners): corners for corners in found[nearest]}
            said["contour that is there twice, counted once"] += len(found[nearest]) - len(distinct)
            mask[:, :, k], odd = fill_contours(distinct.values(), self.shape[:2])
            said["voxel left out, where contours overlap without one being within the other"] += odd
        if not roi.contours:
            return mask, [f"{roi.name} has no contours", *self._in_words(roi, said)]
        return mask, self._in_words(roi, said)

    @staticmethod
    def _in_words(roi: Roi, said: Mapping[str, int]) -> list[str]:
        return [f"{roi.name}: {number} × {what}" for what, number in said.items() if number]


def _as_key(corners: np.ndarray) -> bytes:
    """Return the same for the same corners in any order, such as a contour in both directions."""
    return np.unique(corners, axis=0).tobytes()
