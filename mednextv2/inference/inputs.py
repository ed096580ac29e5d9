"""Finding the images that a user points at, and refusing the ones that cannot be segmented."""

import logging
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple

from mednextv2.data.check import check_image
from mednextv2.data.voxel_grids import compare_grids
from mednextv2.errors import InputError
from mednextv2.images.dicom import DicomSeries, choose_series, find_series, has_dicom, series_affine
from mednextv2.images.dicom_file import is_dicom
from mednextv2.images.dicom_tilt import without_shear
from mednextv2.images.volume import (
    NO_ORIENTATION,
    SUFFIXES,
    affine_4x4,
    has_orientation,
    picture_advice,
    read_volume,
    stem,
)
from mednextv2.paths import expand
from mednextv2.text_files import read_json
from mednextv2.transforms.load import channels_first
from mednextv2.wording import brief, count

logger = logging.getLogger(__name__)


def find_images(
    source: str | os.PathLike, channels: Sequence[str], series: str | int | None = None
) -> list[dict[str, Any]]:
    """List the cases in a file, a folder or a datalist.

    Args:
        source: An image; a folder of images (nnU-Net's `case_0000.nii.gz`, `case_0001.nii.gz` are the channels of one
            case); a data set's folder, whose images in `imagesTs`, `images` or `imagesTr` are taken, the first of them
            that holds some; a folder of DICOM files, of one series or of a study; or a JSON file: a list of
            `{"image": …}`, or such a list under `testing`, `test`, `validation` or `training`, with paths relative to
            the JSON file.
        channels: Names of the channels that the bundle expects.
        series: The DICOM series: see :func:`mednextv2.data.choose_series`; for several channels one for each, separated
            by commas.

    Items for MONAI, sorted by case. `image` is a path or a :class:`mednextv2.data.DicomSeries`, or a list with one of
    them for each channel; `case` is the name of the case.

    Raises:
        InputError: When nothing is found, a file is missing, or the number of channels is wrong.
    """
    path = expand(source)
    if not str(source) or not path.exists():
        raise InputError(f"{path}: there is no such image, folder or datalist")
    if not path.is_dir() and not path.is_file():  # a pipe, for whose other end a program waits
        raise InputError(f"{path}: is a pipe or a device, not a file; give an image, a folder or a datalist")
    if series is not None and not path.is_dir():
        raise InputError(f"--series {series}: is for a folder of DICOM files, but {path} is a file")
    if path.is_dir() and series is None:
        path = _images_of_data_set(path)
    if path.is_dir():
        groups = _group(sorted(p for p in path.iterdir() if _is_image(p)), len(channels))
        if not groups or series is not None:
            return _find_dicom(path, channels, series)
        if pictures := sorted(p.name for p in path.iterdir() if picture_advice(p)):
            logger.warning(
                "%s: %s left out, such as %s, since pictures do not say how large their pixels are",
                path, count(len(pictures), "picture is", "pictures are"), pictures[0],
            )  # fmt: skip
        if any(is_dicom(p) for p in path.iterdir() if p.is_file()):
            logger.warning("%s: holds images and DICOM files; the images are taken (--series takes DICOM)", path)
    elif is_dicom(path):
        raise InputError(f"{path}: is one DICOM file; give the folder of its series, {path.parent}")
    elif path.suffix.lower() == ".json":
        groups = _read_datalist(path)
    elif _is_image(path):
        groups = {stem(path): [path]}
    elif advice := picture_advice(path):
        raise InputError(advice)
    else:
        raise InputError(
            f"{path}: is not an image ({', '.join(SUFFIXES)}), a folder of images, a folder of DICOM files, or a .json "
            "datalist"
        )
    problems = [f"{file}: there is no such file" for files in groups.values() for file in files if not file.is_file()]
    problems += [
        f"case {case}: has {len(files)} files ({', '.join(f.name for f in files)}), whose masks would have one name; "
        f"the bundle expects one file, or one for each channel ({', '.join(channels)})"
        for case, files in groups.items()
        if len(files) not in (1, len(channels))
    ]
    if path.is_dir():
        problems += [
            f"case {case}: its files {', '.join(f.name for f in files)} are not its channels 0 to {len(files) - 1}, "
            f"named {case}_0000, …, {case}_{len(files) - 1:04d}"
            for case, files in groups.items()
            if len(files) == len(channels) > 1 and [*map(stem, files)] != [f"{case}_{c:04d}" for c in range(len(files))]
        ]
    if path.is_dir() and len(channels) == 1:
        problems += _channels_of_one_case([file for files in groups.values() for file in files])
    if problems:
        raise InputError("\n".join(problems))
    return [
        {"image": str(files[0]) if len(files) == 1 else [str(f) for f in files], "case": case}
        for case, files in sorted(groups.items())
    ]


def _images_of_data_set(folder: Path) -> Path:
    """Return the folder of images within that of a data set, and any other folder as it is."""
    if any(map(_is_image, folder.iterdir())):
        return folder
    for name in ("imagesTs", "images", "imagesTr"):
        if (inner := folder / name).is_dir() and any(map(_is_image, inner.iterdir())):
            logger.warning("%s: is the folder of a data set; the images in %s are taken", folder, name)
            return inner
    return folder


def _find_dicom(folder: Path, channels: Sequence[str], series: str | int | None) -> list[dict[str, Any]]:
    if not has_dicom(folder):
        if series is not None:
            raise InputError(f"--series {series}: is for a folder of DICOM files, but {folder} holds none")
        if pictures := [advice for file in sorted(folder.iterdir()) if (advice := picture_advice(file))]:
            raise InputError(pictures[0])
        raise InputError(f"{folder}: holds no images ({', '.join(SUFFIXES)}) and no DICOM files")
    name = _case_name(folder.resolve().name)
    if len(channels) > 1:
        return [{"image": _find_channels(folder, channels, series), "case": name}]
    found = choose_series(folder, series)
    names = [name]
    if len(found) > 1:
        names = [_case_name(f"{name} {s.slices[0].number or ''} {s.slices[0].description} {s.part}") for s in found]
        names = [f"{name}_{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    return [{"image": s, "case": name} for s, name in zip(found, names, strict=True)]


def _find_channels(folder: Path, channels: Sequence[str], series: str | int | None) -> list[DicomSeries]:
    """Find the series of a case, one for each channel."""
    chosen = [part.strip() for part in str("" if series is None else series).split(",")]
    if len(chosen) != len(channels) or not all(chosen):
        listed = "\n".join(f"- {s.row()}" for s in find_series(folder))
        raise InputError(
            f"{folder}: the bundle expects {len(channels)} channels ({', '.join(channels)}); name the series of each, "
            f"in this order, such as --series {','.join(map(str, range(1, len(channels) + 1)))}. The folder holds:\n"
            f"{listed}"
        )
    found = [choose_series(folder, part)[0] for part in chosen]
    first = found[0]
    for other in found[1:]:
        one, two = ((str(s), (*s.slices[0].shape, len(s.slices)), series_affine(s)) for s in (first, other))
        if difference := compare_grids(one, two):
            raise InputError(f"{difference}. Resample the series to one grid, and give one NIfTI file for each channel")
        if other.slices[0].reference != first.slices[0].reference:
            logger.warning(
                "%s: %s and %s have the same grid but different frames of reference; the mask is right only if they "
                "were registered to each other", folder, first.label, other.label,
            )  # fmt: skip
    return found


def series_of(item: Mapping[str, Any]) -> list[DicomSeries]:
    """Return the DICOM series of an item, one for each channel; the list is empty for an item of files."""
    return [part for part in ensure_tuple(item["image"]) if isinstance(part, DicomSeries)]


def _case_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "series"


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def _group(files: Sequence[Path], channels: int) -> dict[str, list[Path]]:
    """Put the channel files of a case together; with one channel, the number is optional."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        name = stem(file)
        match = re.fullmatch(r"(.+)_\d{4}", name)
        key = match[1] if match and (channels > 1 or name.endswith("_0000")) else name
        groups.setdefault(key, []).append(file)
    return groups


def _channels_of_one_case(files: Sequence[Path]) -> list[str]:
    """Describe cases with several channels for a bundle with one; the channels are not separate patients."""
    numbered = [(match[1], file.name) for file in files if (match := re.fullmatch(r"(.+)_\d{4}", stem(file)))]
    first = {stem(file)[:-5] for file in files if stem(file).endswith("_0000")}
    found = {case: [name for other, name in numbered if other == case] for case in sorted(first)}
    return [
        f"case {case}: has {len(names)} channels ({', '.join(names)}), but the bundle expects one; keep the channel "
        "that it was trained on in a folder of its own"
        for case, names in found.items()
        if len(names) > 1
    ]


def _read_datalist(path: Path) -> dict[str, list[Path]]:
    content = read_json(path)
    if isinstance(content, dict):
        content = next((content[k] for k in ("testing", "test", "validation", "training") if content.get(k)), None)
    if not isinstance(content, list) or not content:
        raise InputError(f'{path}: should hold a list of {{"image": …}}, alone or under "testing"')
    groups: dict[str, list[Path]] = {}
    for number, entry in enumerate(content):
        images = entry.get("image") if isinstance(entry, dict) else entry
        images = [images] if isinstance(images, str) else images
        if not isinstance(images, list) or not images or not all(isinstance(i, str) and i for i in images):
            raise InputError(
                f'{path}: entry {number} should be {{"image": path or list of paths}}, but is {brief(entry)}'
            )
        files = [path.parent / i for i in images]
        case = re.sub(r"_0000$", "", stem(files[0]))
        if case in groups:
            raise InputError(f"{path}: several entries are named {case}; their masks would overwrite each other")
        groups[case] = files
    return groups


class CheckImaged(MapTransform):
    """Raise an InputError for a file that cannot be segmented, before it is loaded.

    It works on the paths, before `LoadImaged`, and refuses 2D or 4D images, wrong numbers of channels, NaN, constant
    images, damaged files, channels in different places, and DICOM series that are not a volume.

    Args:
        keys: The keys of the images.
        channels: The number of channels of a case.
        spatial_dims: 2 or 3.
    """

    def __init__(self, keys: Hashable | Sequence[Hashable], channels: int = 1, spatial_dims: int = 3) -> None:
        super().__init__(keys)
        self.channels, self.spatial_dims = channels, spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data unchanged."""
        for key in self.keys:
            files = data[key]
            if isinstance(files, MetaTensor):
                self._check_loaded(files)
                continue
            if not isinstance(files, (str, os.PathLike, list, tuple)):
                continue  # an array, from MONAI Label
            files = [files] if isinstance(files, (str, os.PathLike)) else files
            if len(files) not in (1, self.channels):
                raise InputError(
                    f"{files[0]}: is one of {count(len(files), 'image')} for {count(self.channels, 'channel')} of the "
                    "bundle; give one file, or one for each channel"
                )
            grids: list[tuple] = []
            for file in files:
                array, affine = read_volume(file)
                if os.path.isdir(file):  # DICOM series may be sheared; they are resampled to right angles
                    affine = without_shear(affine)
                if not has_orientation(file):
                    logger.warning(
                        "%s: has no orientation (%s), so that left and right may be exchanged in the mask",
                        file, NO_ORIENTATION,
                    )  # fmt: skip
                expected = self.channels if len(files) == 1 else 1
                problems = check_image(np.asarray(array), affine, expected, self.spatial_dims)
                if problems:
                    raise InputError(f"{file}: {'; '.join(problems)}")
                grids.append((str(file), array.shape[: self.spatial_dims], affine))
                if difference := compare_grids(grids[0], grids[-1]):
                    raise InputError(difference)
        return dict(data)

    def _check_loaded(self, image: MetaTensor) -> None:
        array = channels_first(image).as_tensor().cpu().numpy()
        if self.spatial_dims == 2 and array.ndim == 3:
            array = array[..., None]
        array = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)
        problems = check_image(array, affine_4x4(image.affine.cpu().numpy()), self.channels, self.spatial_dims)
        if problems:
            raise InputError(f"the image: {'; '.join(problems)}")
