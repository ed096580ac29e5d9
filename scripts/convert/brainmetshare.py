"""Convert BrainMetShare (Stanford AIMI), which has brain metastases in MR of four sequences.

SOURCE holds mets_stanford_release_train and, if it was downloaded, mets_stanford_release_test. Each case is a folder of
PNG slices per sequence (0, 1, 2, 3) and, for training, of masks (seg). PNG files have no position in space: the voxel
size is that of --spacing, and columns are assumed to run to the left, rows to the back and slices upwards.

Example:
    python scripts/convert/brainmetshare.py BrainMetShare Dataset310_BrainMetShare --spacing 0.94,0.94,1.0
"""

import argparse
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mednextv2.data.conversion_cases import Converted, DatasetFacts, SourceCase
from mednextv2.data.conversion_command import main
from mednextv2.data.conversion_sources import Found, find_root, list_folders
from mednextv2.errors import InputError
from mednextv2.images.itk_loading import load_itk
from mednextv2.images.label_map_files import distinct_values
from mednextv2.wording import times

FACTS = DatasetFacts(
    id="brainmetshare",
    title="BrainMetShare (Stanford brain metastases)",
    channels=(
        "T1 GRE (BRAVO) post-contrast",
        "T1 SE pre-contrast",
        "T1 SE (CUBE) post-contrast",
        "T2 FLAIR post-contrast",
    ),
    labels={1: "metastasis"},
    reference="https://aimi.stanford.edu/brainmetshare",
    licence="Stanford University Dataset Research Use Agreement",
)
CHANNELS = ("0", "1", "2", "3")
FOLDERS = {"Tr": "mets_stanford_release_train", "Ts": "mets_stanford_release_test"}
LAYOUT = "the folder that holds mets_stanford_release_train"


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Find the slices of each sequence, in the order of their numbers."""
    root = find_root(source, [FOLDERS["Tr"]], LAYOUT)
    found = Found(
        notes=[
            f"PNG files have no geometry: the voxel size was set to {times(options['spacing'])} mm, and the axes to "
            "left, back and up; see --spacing"
        ]
    )
    for part, folder in FOLDERS.items():
        for name, case in list_folders(root / folder, r"[^.].*", found).items():
            stacks = (*CHANNELS, "seg") if part == "Tr" else CHANNELS
            try:
                slices = {stack: list_slices(case / stack, found) for stack in stacks}
                _check_same(case, slices)
            except InputError as e:
                found.incomplete[name] = str(e)
                continue
            files = tuple(file for stack in stacks for file in slices[stack])
            found.cases.append(SourceCase(name, files, part, {"slices": len(slices["0"])}))
            found.ignored += [path for path in sorted(case.iterdir()) if path.name not in stacks]
    return found


def list_slices(folder: Path, found: Found) -> list[Path]:
    """Return the PNG files of a folder in the order of the last number in their names, so that 10 follows 9."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is missing; copy or unpack the rest of the case")
    numbered: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = re.search(r"(\d+)\.png$", path.name)
        if match is None or path.name.startswith("."):
            found.ignored.append(path)
            continue
        number = int(match[1])
        if number in numbered:
            raise InputError(f"{path}: has the number of {numbered[number].name}; remove one of them")
        numbered[number] = path
    numbers = sorted(numbered)
    if not numbers or numbers != list(range(numbers[0], numbers[-1] + 1)):
        missing = sorted({*range(numbers[0], numbers[-1] + 1)} - {*numbers}) if numbers else []
        which = f"slice {missing[0]}" if missing else "PNG files"
        raise InputError(f"{folder}: has no {which}; copy or unpack it again")
    return [numbered[number] for number in numbers]


def _check_same(case: Path, slices: Mapping[str, list[Path]]) -> None:
    counts = {stack: len(files) for stack, files in slices.items()}
    if len({*counts.values()}) > 1:
        listed = ", ".join(f"{number} in {stack}" for stack, number in counts.items())
        raise InputError(f"{case}: the numbers of slices differ ({listed}); copy or unpack it again")


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Stack the slices, and make masks of 0 and 255 binary."""
    count, spacing = case.extra["slices"], options["spacing"]
    stacks = [read_stack(case.files[start : start + count]) for start in range(0, len(case.files), count)]
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    label = None
    if case.part == "Tr":
        values = {*distinct_values(stacks[-1])}
        if not (values <= {0, 255} or values <= {0, 1}):
            raise InputError(
                f"{case.files[-1].parent}: has the values {sorted(values)[:10]}, where masks have 0 and 255; is it an "
                "image, or was it resampled?"
            )
        label = ((stacks[-1] > 0).astype(np.uint8), affine)
    folders = [file.parent for file in case.files[::count]]
    return Converted([(stack, affine) for stack in stacks[: len(CHANNELS)]], label, origins=folders)


def read_stack(files: tuple[Path, ...]) -> np.ndarray:
    """Return slices as `(columns, rows, slices)`."""
    itk = load_itk()
    slices: list[np.ndarray] = []
    for file in files:
        try:
            pixels = np.asarray(itk.array_from_image(itk.imread(str(file))))
        except RuntimeError as e:
            raise InputError(f"{file}: cannot be read; it is truncated, damaged or no PNG; copy it again") from e
        if pixels.ndim != 2 or (slices and pixels.T.shape != slices[0].shape):
            wanted = f", where {files[0].name} has {times(slices[0].T.shape)}" if slices else ""
            raise InputError(f"{file}: has {times(pixels.shape)} pixels{wanted}; slices are grey and of one size")
        slices.append(pixels.T)
    return np.stack(slices, axis=2)


def read_spacing(text: str) -> tuple[float, ...]:
    """Read `0.94,0.94,1.0`."""
    try:
        sizes = tuple(map(float, text.split(",")))
    except ValueError:
        sizes = ()
    if len(sizes) != 3 or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text}: should be three sizes in millimetres, such as 0.94,0.94,1.0")
    return sizes


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this converter."""
    parser.add_argument(
        "--spacing", type=read_spacing, default=(0.94, 0.94, 1.0), metavar="X,Y,Z",
        help="distance of columns, rows and slices in mm (default: 0.94,0.94,1.0)",
    )  # fmt: skip


if __name__ == "__main__":
    main(FACTS, find, convert, __doc__, add_options)
