"""Data sets without a `dataset.json`: two folders with files of the same names, images and label maps."""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from mednextv2.data.cases import Case, DatasetFolder
from mednextv2.errors import InputError
from mednextv2.images.volume import SUFFIXES, picture_advice, stem
from mednextv2.paths import expand


def find_two_folders(folder: Path, labels_dir: str | os.PathLike | None) -> tuple[Path, Path] | None:
    """Return the folders of images and of label maps of a data set without `dataset.json`, or None if it has one."""
    if labels_dir is not None:
        labels = expand(labels_dir)
        if not labels.is_dir():
            raise InputError(f"labels_dir {labels}: there is no such folder; give it with --labels_dir")
        return folder, labels
    if not (folder / "dataset.json").exists():
        for images, masks in (("images", "labels"), ("imagesTr", "labelsTr")):
            if (folder / images).is_dir() and (folder / masks).is_dir():
                return folder / images, folder / masks
    return None


def read_two_folders(folder: Path, images: Path, labels: Path) -> DatasetFolder:
    """Pair images with label maps of the same name; files that end with `_0000`, `_0001`, … are channels."""
    label_files = {stem(f): f for f in _volumes(labels)}
    parts = []
    for file in _volumes(images):
        name = stem(file)
        number = None if name in label_files else re.fullmatch(r"(.+)_(\d{4})", name)
        parts.append((file, number[1] if number else name, int(number[2]) if number else None))
    # Patients may be numbered, too: a number is a channel's only if there is a label map with the name without it.
    channelled = not label_files or any(number is not None and name in label_files for _, name, number in parts)
    groups: dict[str, dict[int, Path]] = {}
    for file, name, index in parts:
        group = groups.setdefault(name if channelled else stem(file), {})
        channel = (index or 0) if channelled else 0
        if channel in group:
            raise InputError(f"{images}: {group[channel].name} and {file.name} are the same image; remove one")
        group[channel] = file
    if not groups:
        if pictures := [advice for file in sorted(images.iterdir()) if (advice := picture_advice(file))]:
            raise InputError(pictures[0])
        raise InputError(f"{images}: holds no images ({', '.join(SUFFIXES)})")
    channels = max(max(group) for group in groups.values()) + 1
    cases = []
    for name in sorted(groups.keys() | label_files.keys()):  # the check reports files without a partner
        group = groups.get(name, {})
        ending = next(iter(group.values()), Path("_.nii.gz"))
        suffix = ending.name[len(stem(ending)) :]
        files = [
            group.get(c, images / (f"{name}_{c:04d}{suffix}" if channels > 1 else name + suffix))
            for c in range(channels)
        ]
        cases.append(Case(name, tuple(map(str, files)), str(label_files.get(name, labels / f"{name}.nii.gz"))))
    return DatasetFolder(
        folder, tuple(f"channel {c}" for c in range(channels)) if channels > 1 else (), {}, sorted_cases(cases, images)
    )


def sorted_cases(cases: Sequence[Case], source: Path) -> tuple[Case, ...]:
    """Return cases in the order of their names; two cases of the same name in `source` are refused."""
    cases = sorted(cases, key=lambda case: case.name)
    if odd := [case.name for case in cases if not _is_file_name(case.name)]:
        raise InputError(
            f"{source}: {', '.join(map(repr, odd[:5]))} cannot be names of cases, since results are stored in files of "
            "these names; use names without / and \\, of at most 150 characters"
        )
    twice = sorted({a.name for a, b in pairwise(cases) if a.name == b.name})
    if twice:
        raise InputError(
            f"{source}: several cases have the same name: {', '.join(twice[:5])}; rename their files, since results "
            "are stored under the names"
        )
    return tuple(cases)


def _is_file_name(name: str) -> bool:
    return name.isprintable() and name.strip(". ") != "" and not {"/", "\\"} & {*name} and len(name.encode()) <= 150


def _volumes(folder: Path) -> list[Path]:
    """List the image files of a folder; two with the same name, such as `a.nii` and `a.nii.gz`, are refused."""
    files = sorted(f for f in folder.iterdir() if f.name.lower().endswith(SUFFIXES) and not f.name.startswith("."))
    for a, b in pairwise(sorted(files, key=stem)):
        if stem(a) == stem(b):
            raise InputError(f"{folder}: {a.name} and {b.name} are the same case; remove one")
    return files
