"""Convert CTSpine1K (Hugging Face alexanderdann/CTSpine1K), which has the vertebrae C1 to L6 in CT.

SOURCE is the download: it holds raw_data/volumes, raw_data/labels and metadata/data_split.txt. The official split is
used: the cases of trainset become training cases, those of test_public and test_private become test cases with label
maps. Five cases with known defects are left out, unless --keep_known_defects is given.

Example:
    python scripts/convert/ctspine1k.py CTSpine1K Dataset056_CTSpine1K
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednextv2.data.conversion_cases import Converted, DatasetFacts, SourceCase
from mednextv2.data.conversion_command import main
from mednextv2.data.conversion_sources import (
    Found,
    exclude_known,
    find_root,
    identity,
    list_files,
    missing_files,
    read_labels,
)
from mednextv2.errors import InputError
from mednextv2.text_files import read_text

_NAMES = [f"{kind}{n}" for kind, number in (("C", 7), ("T", 12), ("L", 6)) for n in range(1, number + 1)]
FACTS = DatasetFacts(
    id="ctspine1k",
    title="CTSpine1K",
    channels=("CT",),
    labels=dict(enumerate(_NAMES, start=1)),
    reference="https://github.com/MIRACLE-Center/CTSpine1K",
    licence="CC BY-NC-SA (version not stated)",
)
PARTS = {"trainset": "Tr", "test_public": "Ts", "test_private": "Ts"}
_COLONOG = "1.3.6.1.4.1.9328.50.4."
#: Cases that the repository's issues 13 and 15 report.
KNOWN_DEFECTS = {
    f"{_COLONOG}{number}": f"known defect: {what}"
    for what, numbers in {
        "label 22 (L3) is missing, and its spacing is wrong (issue 13)": ("0103", "0291", "0730"),
        "labels 14 and 15 (T7, T8) are mixed up (issue 15)": ("0482", "0500"),
    }.items()
    for number in numbers
}
LAYOUT = "the folder of CTSpine1K, which holds raw_data/volumes and raw_data/labels"
_FILES = (("volumes", ""), ("labels", "_seg"))
SPLIT = "metadata/data_split.txt"


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Pair volumes and label maps of all sources, and sort them by the official split."""
    root = find_root(source, ["raw_data/volumes"], LAYOUT)
    found = Found()
    parts = read_split(root / SPLIT, found)
    images, labels = (_merged(root / "raw_data" / kind, rf"(.+?){end}\.nii\.gz", found) for kind, end in _FILES)
    for part in ("Tr", "Ts"):
        names = {name for name, own in parts.items() if own == part}
        own_images, own_labels = ({n: f for n, f in files.items() if n in names} for files in (images, labels))
        found.add_pairs(own_images, own_labels, part)
        for name in names - {*own_images, *own_labels}:
            files = (f"{root / 'raw_data' / kind / '*' / name}{end}" for kind, end in _FILES)
            found.incomplete[name] = missing_files([f"{file}.nii.gz" for file in files], "download the rest")
    for name in {*images, *labels} - {*parts}:
        found.excluded[name] = f"is not named in {SPLIT}"
    if not options["keep_known_defects"]:
        exclude_known(found, KNOWN_DEFECTS)
    return found


def _merged(folder: Path, pattern: str, found: Found) -> dict[str, Path]:
    """Return the files of all sources by name; names contain dots."""
    files: dict[str, Path] = {}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        own = list_files(inner, pattern, found)
        if twice := own.keys() & files.keys():
            raise InputError(f"{inner}: {', '.join(sorted(twice)[:5])} are in another folder, too; remove one of them")
        files |= own
    return files


def read_split(file: Path, found: Found) -> dict[str, str]:
    """Return the part of each case.

    The last line of the released file holds one name twice without a break between them.
    """
    parts: dict[str, str] = {}
    sections: dict[str, str] = {}
    section = ""
    for line in read_text(file, advice="copy it from the same download").splitlines():
        if heading := re.fullmatch(r"\s*(\w+)\s*:\s*", line):
            section = heading[1]
            if section not in PARTS:
                raise InputError(f"{file}: has the section {section}; there should be {', '.join(PARTS)}")
            continue
        names = re.findall(r"(\S+?)\.nii\.gz", line)
        if not section or (line.strip() and not names):
            raise InputError(f"{file}: the line {line[:60]!r} is no name of a volume; copy the file again")
        for name in names:
            if sections.setdefault(name, section) != section:
                raise InputError(f"{file}: {name} is in {sections[name]} and in {section}; copy the file again")
            if name in parts:
                found.notes.append(f"{SPLIT} names {name} twice")
            parts[name] = PARTS[section]
    return parts


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Take over the image, and check the label map."""
    return Converted(case.files[:1], read_labels(case.files[1], identity(FACTS.labels)))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this converter."""
    parser.add_argument("--keep_known_defects", action="store_true", help="convert the five defective cases, too")


if __name__ == "__main__":
    main(FACTS, find, convert, __doc__, add_options)
