"""Images without labels, as masked autoencoding takes them: from data sets, or from any folders of images."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib

from mednextv2.data.cases import Case, DatasetFolder
from mednextv2.data.collection_entries import is_collection
from mednextv2.data.dataset_json import channel_names, read_description
from mednextv2.data.two_folders import sorted_cases
from mednextv2.errors import InputError
from mednextv2.images.dicom import has_dicom
from mednextv2.images.volume import NIFTI, SUFFIXES, read_volume, screen_file, stem
from mednextv2.paths import expand

#: What happens to an image with several channels: it is refused, or each channel becomes an image of its own.
SEVERAL_CHANNELS = ("refuse", "split")
SPLIT_ADVICE = "--several_channels split takes each channel as an image of its own"
_OF_IMAGES = ("imagesTr", "imagesTs")  # folders of a data set; the second has the images for tests
_OF_LABELS = ("labels", "labelsTr", "labelsTs")
_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class ImageCase(Case):
    """One image without a label map.

    Attributes:
        channel: The channel of the file that is the image, or None for a file of one channel.
    """

    channel: int | None = None

    def as_item(self) -> dict[str, Any]:
        """Return the dict that transforms expect: `image`, `case` and, for one of several channels, `channel`."""
        return super().as_item() | ({} if self.channel is None else {"channel": self.channel})


class _Found(NamedTuple):
    """A file, the name that it has if no other one has the same, and the longer one that it has otherwise."""

    file: Path
    name: str
    long_name: str


def read_image_folders(
    dataset_dir: str | os.PathLike | Sequence[str | os.PathLike], several_channels: str = "refuse"
) -> DatasetFolder:
    """Find the images of one or several folders, without opening them. Labels are not needed, and not looked at.

    Args:
        dataset_dir: A folder, or a list of folders. Each is a data set in the layout of the Medical Segmentation
            Decathlon or of nnU-Net, whose images in `imagesTr` and `imagesTs` are taken; or it has a folder `images`;
            or it contains images, also in folders in it. Folders named `labels`, `labelsTr` and `labelsTs` are left
            out, and so are files that end with `.seg.nrrd`.
        several_channels: What happens to images with several channels: one of :data:`SEVERAL_CHANNELS`. To split them,
            the headers of all files are read.

    Returns:
        The images, each a :class:`ImageCase`, sorted by name. The name is that of the file; images of the same name in
        several folders have the names of the folders before it.

    Raises:
        InputError: If a folder does not exist, contains no images, or is listed twice, or two images cannot have
            different names, or a data set has several channels, which are refused.
    """
    folders = _folders(dataset_dir)
    if not folders:
        raise InputError("dataset_dir []: names no folder; give one, or a list of several")
    found: list[_Found] = []
    for folder in folders:
        if not folder.is_dir():
            advice = "give the folder that holds it" if folder.is_file() else "give it with --dataset_dir"
            if is_collection(folder) and folder.is_file():
                raise InputError(
                    f"dataset_dir {folder}: is a collection of data sets with labels, but images without labels are in "
                    'folders; list them, as in --dataset_dir "[first,second]"'
                )
            raise InputError(f"dataset_dir {folder}: there is no such folder; {advice}")
        found += _of_folder(folder, several_channels)
    _check_twice(found)
    names = Counter(entry.name for entry in found)
    cases: list[Case] = []
    for entry in found:
        name = entry.name if names[entry.name] == 1 else entry.long_name
        cases += _cases(entry.file, name, several_channels)
    source = folders[0] if len(folders) == 1 else Path(os.path.commonpath([f.absolute() for f in folders]))
    return DatasetFolder(source, (), {}, sorted_cases(cases, source))


def _folders(dataset_dir: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Path]:
    return [expand(f) for f in ([dataset_dir] if isinstance(dataset_dir, (str, os.PathLike)) else dataset_dir)]


def _of_folder(folder: Path, several_channels: str) -> list[_Found]:
    inner = [folder / name for name in _OF_IMAGES if (folder / name).is_dir()]
    strip = False
    if (folder / "dataset.json").is_file():
        strip = _has_channel_numbers(folder, several_channels)
    if not inner and (folder / "images").is_dir():
        inner = [folder / "images"]
    files = [(place, file) for place in inner or [folder] for file in _walk(place)]
    if not files:
        raise InputError(f"dataset_dir {folder}: {_why_empty(folder)}")
    found = []
    for place, file in files:
        name = stem(file)
        if strip and (numbered := _CHANNEL.fullmatch(name)):
            name = numbered[1]
        parts = [folder.resolve().name, *file.parent.relative_to(place).parts, name]
        found.append(_Found(file, name, "_".join(parts)))
    return found


def _has_channel_numbers(folder: Path, several_channels: str) -> bool:
    """Tell whether names of files end with the number of the only channel; refuse several channels."""
    description = read_description(folder)
    channels = channel_names(description, folder / "dataset.json")
    if len(channels) > 1 and several_channels == "refuse":
        raise InputError(
            f"{folder / 'dataset.json'}: names {len(channels)} image channels ({', '.join(channels)}), but masked "
            f"autoencoding takes images of one; {SPLIT_ADVICE}"
        )
    return len(channels) == 1 and not isinstance(description.get("training"), list)


def _walk(folder: Path) -> Iterator[Path]:
    entered = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in entered:  # links may go round in a circle
            folders[:] = []
            continue
        entered.add(real)
        folders[:] = sorted(f for f in folders if f not in _OF_LABELS and not f.startswith("."))
        for name in sorted(files):
            lower = name.lower()
            if lower.endswith(SUFFIXES) and not lower.endswith(".seg.nrrd") and not name.startswith("."):
                yield Path(place) / name


def _why_empty(folder: Path) -> str:
    endings = ", ".join(ending for ending in SUFFIXES if ending != ".seg.nrrd")
    if has_dicom(folder):
        return f"holds DICOM files, which are not read here; convert each series to an image ({endings})"
    return f"holds no images ({endings}), also not in folders in it; give the folder that does"


def _check_twice(found: Sequence[_Found]) -> None:
    seen: dict[Path, Path] = {}
    for entry in found:
        file = entry.file.resolve()
        if file in seen:
            raise InputError(
                f"dataset_dir: {entry.file} and {seen[file]} are the same file; list each folder once, and none "
                "together with a folder in it"
            )
        seen[file] = entry.file


def _cases(file: Path, name: str, several_channels: str) -> list[Case]:
    channels = _count_channels(file) if several_channels == "split" else 1
    if channels == 1:
        return [ImageCase(name, (str(file),))]
    return [ImageCase(f"{name}_{channel:04d}", (str(file),), channel=channel) for channel in range(channels)]


def _count_channels(file: Path) -> int:
    """Return the number of channels; 1 if the file cannot be read, which the check of the images reports."""
    try:
        screen_file(file)
        if file.name.lower().endswith(NIFTI):
            header: Any = nib.load(file)
            shape = header.shape
        else:
            shape = read_volume(file)[0].shape
    except (InputError, OSError, ValueError, nib.filebasedimages.ImageFileError):
        return 1
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return int(shape[3]) if len(shape) == 4 else 1


def describe_sources(dataset_dir: str | os.PathLike | Sequence[str | os.PathLike]) -> str:
    """Return the names of the folders that images are from, as weights record them.

    Example:
        >>> describe_sources(["/data/Task04_Hippocampus", "/data/acdc"])
        'Task04_Hippocampus, acdc'
    """
    return ", ".join(folder.resolve().name for folder in _folders(dataset_dir))
