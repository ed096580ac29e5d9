"""One case of a public data set: read by its converter, checked, written, and recorded for a second run."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednextv2.data.check import check_image
from mednextv2.data.conversion_records import (
    FORM,
    UNFINISHED,
    digest,
    forget_case,
    is_complete,
    read_record,
    write_record,
)
from mednextv2.data.voxel_grids import compare_grids
from mednextv2.errors import InputError
from mednextv2.images.label_map_files import as_label_map
from mednextv2.images.volume import read_volume
from mednextv2.label_scheme import label_dtype
from mednextv2.paths import writing

#: Voxels `(X, Y, Z)` and their affine `(4, 4)`, to millimetres (right, anterior, superior).
Volume = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DatasetFacts:
    """What `dataset.json` says about a public data set.

    Attributes:
        id: A short name.
        title: The name by which it is known.
        channels: Names of the image channels, in order.
        labels: Names of the label values 1, 2, …
        reference: Where it comes from.
        licence: Its licence, as far as it is stated.
        regions: Structures that consist of several label values and may overlap; empty for classes.
        regions_order: The value that stands for each region in a mask (nnU-Net's `regions_class_order`).
    """

    id: str
    title: str
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    reference: str
    licence: str
    regions: Mapping[str, Sequence[int]] = field(default_factory=dict)
    regions_order: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the label values, from 0 on."""
        return ("background", *(self.labels[value] for value in sorted(self.labels)))


@dataclass(frozen=True)
class SourceCase:
    """A case as it was found.

    Attributes:
        name: Its name in the converted data set.
        files: Everything that it is made from: the converter gets them in this order.
        part: `Tr` for training, `Ts` for test.
        extra: What the converter needs besides, as plain data.
    """

    name: str
    files: tuple[Path, ...]
    part: str = "Tr"
    extra: Any = None


@dataclass(frozen=True)
class Converted:
    """A case as its converter read it.

    Attributes:
        images: One for each channel: a volume, or a file whose content is taken over as it is if it is a 3D `.nii.gz`.
        label: The label map on the grid of the images; None for test cases without one.
        notes: What a user should know about how it was read, one clause each.
        origins: The file or folder of each image and, last, of the label map, for messages. By default these are the
            files of the case, if there is one for each.
    """

    images: Sequence[Path | Volume]
    label: Volume | None
    notes: Sequence[str] = ()
    origins: Sequence[Path] = ()


class ExcludedError(InputError):
    """A case cannot be used, and that is known of the data set: it is left out and listed, and the others go on."""


@dataclass(frozen=True)
class Job:
    """What a worker process needs to convert a case."""

    case: SourceCase
    facts: DatasetFacts
    convert: Callable[[SourceCase, Mapping[str, Any]], Converted]
    options: Mapping[str, Any]
    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a case: it is there, written or skipped, or it has a defect, which may be `known`."""

    name: str
    part: str = "Tr"
    written: bool = False
    labelled: bool = False
    source: str = ""
    notes: tuple[str, ...] = ()
    defect: str = ""
    known: bool = False


def convert_case(job: Job) -> Outcome:
    """Convert a case, unless it is there already, complete and from the same source.

    Raises:
        InputError: If the case cannot be written; what is wrong with its source is in the outcome.
    """
    try:
        source = fingerprint(job.case, job.source)
    except InputError as e:
        return _defective(job, e)
    if there := _there(job, source):
        return there
    forget_case(job.target, job.case.name)
    try:
        converted = job.convert(job.case, job.options)
        images, label = _checked(job, converted)
    except InputError as e:
        return _defective(job, e)
    notes = tuple(_printable(relative(note, job.source)) for note in converted.notes)
    files = _files(job, len(images), label is not None)
    content = {
        "form": FORM, "source": source, "part": job.case.part, "labelled": label is not None, "notes": list(notes),
    }  # fmt: skip
    # twice: after a kill in between, the first one tells that the files are of this conversion, though perhaps not all
    write_record(job.target, job.case.name, content | {"files": dict.fromkeys(files, UNFINISHED)})
    _write([job.target / file for file in files], images, label, len(job.facts.names))
    write_record(job.target, job.case.name, content | {"files": {file: digest(job.target / file) for file in files}})
    return Outcome(job.case.name, job.case.part, True, label is not None, source, notes)


def find_defect(job: Job) -> Outcome | None:
    """Return what keeps a case from being converted, if there is anything; nothing is written."""
    try:
        if _there(job, fingerprint(job.case, job.source)) is None:
            _checked(job, job.convert(job.case, job.options))
    except InputError as e:
        return _defective(job, e)
    return None


def _there(job: Job, source: str) -> Outcome | None:
    """Return the outcome of a case that is there already, complete and from the same source."""
    record = read_record(job.target, job.case.name)
    if record and record["source"] == source and record["part"] == job.case.part and is_complete(job.target, record):
        return Outcome(job.case.name, job.case.part, False, record["labelled"], source, tuple(record["notes"]))
    return None


def _defective(job: Job, error: InputError) -> Outcome:
    known = isinstance(error, ExcludedError)
    # a folder may be called as its case, which is named before the text already
    text = relative(str(error), job.source).removeprefix(f"{job.case.name}: ")
    return Outcome(job.case.name, job.case.part, defect=text, known=known)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def relative(text: str, source: Path) -> str:
    """Return a text that names files of the source by their path in it."""
    return text.replace(f"{source}{os.sep}", "")


def fingerprint(case: SourceCase, source: Path) -> str:
    """Return a digest of the names, the sizes and both ends of the files of a case.

    Raises:
        InputError: If a file is missing or cannot be read.
    """
    found = hashlib.sha256(f"{case.name}\n{json.dumps(case.extra, sort_keys=True, default=str)}\n".encode())
    for file in case.files:
        try:
            found.update(f"{file.relative_to(source).as_posix()} {digest(file)}\n".encode())
        except OSError as e:
            raise InputError(f"{file}: cannot be read ({e.strerror or e}); copy it again") from e
    return found.hexdigest()


def _checked(job: Job, converted: Converted) -> tuple[list[Path | Volume], Volume | None]:
    """Check that the images and the label map are sound and on one grid, as the check of a data set will."""
    facts = job.facts
    if len(converted.images) != len(facts.channels):
        raise InputError(f"has {len(converted.images)} images for {len(facts.channels)} channels")
    places = _places(job, converted)
    images: list[Path | Volume] = []
    grids: list[tuple[str, tuple[int, ...], np.ndarray]] = []
    for where, image in zip(places, converted.images, strict=False):  # the label map has a place, too
        array, affine = read_volume(image) if isinstance(image, Path) else image
        if problems := check_image(array, affine):
            raise InputError("; ".join(f"{where}: {problem}" for problem in problems))
        grids.append((where, array.shape, affine))
        as_it_is = isinstance(image, Path) and image.name.endswith(".nii.gz") and array.ndim == 3
        images.append(image if as_it_is else (as_stored(array, where), affine))
    label = converted.label
    if label is not None:
        label = (as_label_map(label[0], places[-1], facts.names, 3), label[1])
        grids.append((places[-1], label[0].shape, label[1]))
    if problems := [p for grid in grids[1:] if (p := compare_grids(grids[0], grid))]:
        raise InputError("; ".join(problems))
    return images, None if label is None else (label[0], grids[0][2])


def _places(job: Job, converted: Converted) -> list[str]:
    """Name the file of each image and of the label map, with the channel where several are of one file."""
    what = [*job.facts.channels, *(["label map"] if converted.label is not None else [])]
    origins = [str(origin) for origin in converted.origins or job.case.files]
    if len(origins) != len(what):
        origins = [os.path.commonpath(job.case.files)] * len(what)
    return [
        origin if origins.count(origin) == 1 else f"{origin}, {name}"
        for origin, name in zip(origins, what, strict=True)
    ]


def _files(job: Job, channels: int, labelled: bool) -> list[str]:
    """Return the files of a case by their paths in the target: the images and, last, the label map."""
    name, part = job.case.name, job.case.part
    images = [f"images{part}/{name}_{channel:04d}.nii.gz" for channel in range(channels)]
    return [*images, *([f"labels{part}/{name}.nii.gz"] if labelled else [])]


def _write(files: Sequence[Path], images: Sequence[Path | Volume], label: Volume | None, labels: int) -> None:
    for file, image in zip(files, images, strict=False):  # the label map has a file, too
        with writing(file) as temporary:
            if isinstance(image, Path):
                shutil.copyfile(image, temporary)
            else:
                save_nifti(temporary, *image)
    if label is not None:
        with writing(files[-1]) as temporary:
            save_nifti(temporary, label[0].astype(label_dtype(labels)), label[1])


def as_stored(array: np.ndarray, name: str) -> np.ndarray:
    """Return voxels in the smallest type that NIfTI and all readers have.

    Floats that are whole numbers of 16 bits, as Hounsfield units are, become integers; other floats float32.

    Args:
        array: The voxels.
        name: The file, for messages.

    Raises:
        InputError: If whole numbers have more than 32 bits.
    """
    whole = array.dtype.kind != "f" or np.array_equal(array, np.rint(array))
    kinds: list[Any] = [np.int16] if array.dtype.kind == "f" else [np.uint8, np.int16, np.int32]
    low, high = array.min(), array.max()
    for kind in kinds if whole else []:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind)
    if array.dtype.kind != "f":
        raise InputError(f"{name}: has voxels from {low} to {high}, more than 32 bits hold; rescale the image")
    return array.astype(np.float32)


def save_nifti(file: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume in millimetres; the same volume gives the same bytes."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nib.save(image, file)
