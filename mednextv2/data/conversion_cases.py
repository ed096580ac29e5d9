"""One case of a public data set: read by its converter, checked, written, and recorded for a second run."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednextv2.data.check import check_image
from mednextv2.data.voxel_grids import compare_grids
from mednextv2.errors import InputError
from mednextv2.images.label_map_files import as_label_map
from mednextv2.images.volume import read_volume
from mednextv2.label_scheme import label_dtype
from mednextv2.paths import writing
from mednextv2.text_files import read_json

#: The folder of a conversion's records in the folder that it writes.
RECORDS = ".conversion"
#: The form of the records. A higher number makes every case be converted again.
FORM = 1
_END = 1 << 16  # bytes at the front and at the back of a file that tell it from others; a .gz has its checksum there

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
    """

    images: Sequence[Path | Volume]
    label: Volume | None
    notes: Sequence[str] = ()


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
    record = read_record(job.target, job.case.name)
    if record and record["source"] == source and record["part"] == job.case.part and _complete(job.target, record):
        kept = record["notes"]
        return Outcome(job.case.name, job.case.part, False, record["labelled"], source, tuple(kept))
    forget_case(job.target, job.case.name)
    try:
        converted = job.convert(job.case, job.options)
        images, label = _checked(job, converted)
    except InputError as e:
        return _defective(job, e)
    notes = tuple(_printable(relative(note, job.source)) for note in converted.notes)
    files = _write(job, images, label)
    content = {
        "form": FORM, "source": source, "part": job.case.part, "labelled": label is not None, "notes": list(notes),
        "files": {file.relative_to(job.target).as_posix(): digest(file) for file in files},
    }  # fmt: skip
    with writing(_record(job.target, job.case.name)) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Outcome(job.case.name, job.case.part, True, label is not None, source, notes)


def _defective(job: Job, error: InputError) -> Outcome:
    known = isinstance(error, ExcludedError)
    return Outcome(job.case.name, job.case.part, defect=relative(str(error), job.source), known=known)


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


def digest(file: Path) -> str:
    """Return the size of a file, and a digest of its first and last 64 KiB."""
    size = file.stat().st_size
    with file.open("rb") as f:
        content = f.read(_END)
        if size > _END:
            f.seek(max(size - _END, _END))
            content += f.read(_END)
    return f"{size} {hashlib.sha256(content).hexdigest()}"


def _record(target: Path, name: str) -> Path:
    return target / RECORDS / f"{name}.json"


def read_record(target: Path, name: str) -> dict[str, Any] | None:
    """Return the record of a case that was converted, or None."""
    file = _record(target, name)
    if not file.is_file():
        return None
    content = read_json(file, "delete it, so that the case is converted again")
    return content if isinstance(content, dict) and content.get("form") == FORM else None


def _complete(target: Path, record: Mapping[str, Any]) -> bool:
    try:
        return all(digest(target / name) == found for name, found in record["files"].items())
    except OSError:
        return False


def forget_case(target: Path, name: str) -> None:
    """Remove what was written for a case from another or an incomplete source."""
    record = read_record(target, name)
    for file in [_record(target, name), *(target / file for file in (record or {"files": {}})["files"])]:
        with suppress(FileNotFoundError):
            file.unlink()


def _checked(job: Job, converted: Converted) -> tuple[list[Path | Volume], Volume | None]:
    """Check that the images and the label map are sound and on one grid, as the check of a data set will."""
    facts, name = job.facts, job.case.name
    if len(converted.images) != len(facts.channels):
        raise InputError(f"case {name}: has {len(converted.images)} images for {len(facts.channels)} channels")
    images: list[Path | Volume] = []
    grids: list[tuple[str, tuple[int, ...], np.ndarray]] = []
    for channel, image in zip(facts.channels, converted.images, strict=True):
        where = str(image) if isinstance(image, Path) else f"case {name}, {channel}"
        array, affine = read_volume(image) if isinstance(image, Path) else image
        if problems := check_image(array, affine):
            raise InputError("; ".join(f"{where}: {problem}" for problem in problems))
        grids.append((where, array.shape, affine))
        as_it_is = isinstance(image, Path) and image.name.endswith(".nii.gz") and array.ndim == 3
        images.append(image if as_it_is else (array, affine))
    label = converted.label
    if label is not None:
        where = f"the label map of case {name}"
        label = (as_label_map(label[0], where, facts.names, 3), label[1])
        grids.append((where, label[0].shape, label[1]))
    if problems := [p for grid in grids[1:] if (p := compare_grids(grids[0], grid))]:
        raise InputError("; ".join(problems))
    return images, None if label is None else (label[0], grids[0][2])


def _write(job: Job, images: Sequence[Path | Volume], label: Volume | None) -> list[Path]:
    name, part = job.case.name, job.case.part
    files = []
    for channel, image in enumerate(images):
        file = job.target / f"images{part}" / f"{name}_{channel:04d}.nii.gz"
        with writing(file) as temporary:
            if isinstance(image, Path):
                shutil.copyfile(image, temporary)
            else:
                save_nifti(temporary, as_stored(image[0]), image[1])
        files.append(file)
    if label is not None:
        file = job.target / f"labels{part}" / f"{name}.nii.gz"
        with writing(file) as temporary:
            save_nifti(temporary, label[0].astype(label_dtype(len(job.facts.names))), label[1])
        files.append(file)
    return files


def as_stored(array: np.ndarray) -> np.ndarray:
    """Return voxels in the smallest type that NIfTI and all readers have.

    Floats that are whole numbers of 16 bits, as Hounsfield units are, become integers; other floats float32.

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
        raise InputError(f"has voxels from {low} to {high}, more than 32 bits hold; rescale the image")
    return array.astype(np.float32)


def save_nifti(file: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume in millimetres; the same volume gives the same bytes."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nib.save(image, file)
