"""A short look through the cases of a source before its user is told of defects, so that one message names many."""

import math
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
from tqdm import tqdm

from mednextv2.data.conversion_cases import Job, Outcome, find_defect
from mednextv2.data.voxel_grids import compare_grids

_SECONDS = 20.0  # what a user waits for a message without being bored


def look_through(jobs: Sequence[Job], seconds: float = _SECONDS) -> tuple[list[Outcome], int]:
    """Find defects of cases in a short time: those whose files look damaged are read first.

    Args:
        jobs: The cases, in order.
        seconds: About how long it may take.

    Returns:
        The defective cases, and the number of cases for which there was no time.
    """
    start = time.monotonic()
    suspects: list[Job] = []
    others: list[Job] = []
    for job in jobs:
        late = time.monotonic() - start > seconds / 2
        (others if late or not looks_defective(job.case.files) else suspects).append(job)
    defects: list[Outcome] = []
    unread = 0
    for job in tqdm([*suspects, *others], desc="looking for other defects", unit="case", mininterval=1):
        if time.monotonic() - start > seconds:
            unread += 1
        elif defect := find_defect(job):
            defects.append(defect)
    return defects, unread


def looks_defective(files: Sequence[Path]) -> bool:
    """Return whether the lengths or the headers of NIfTI files do not fit, without reading their voxels.

    Sound files that were compressed in several parts look defective, too; reading them tells.

    Args:
        files: All files of a case; those of other formats are only asked whether they are empty.
    """
    first = None
    try:
        for file in files:
            size = file.stat().st_size
            if not size:
                return True
            if not file.name.endswith((".nii.gz", ".nii")):
                continue
            image: Any = nib.load(file)
            whole = image.dataobj.offset + image.header.get_data_dtype().itemsize * math.prod(image.shape)
            if (_inflated(file) != whole % 2**32) if file.name.endswith(".gz") else size < whole:
                return True
            grid = (str(file), image.shape, image.affine)
            first = first or grid
            if len(image.shape) == 3 and compare_grids(first, grid):
                return True
    except Exception:  # nibabel raises many kinds for what is damaged; whoever reads the file says what is wrong
        return True
    return False


def _inflated(file: Path) -> int:
    """Return the length of the content of a gzip file, modulo 2³², as its last four bytes say."""
    with file.open("rb") as f:
        f.seek(-4, os.SEEK_END)
        return struct.unpack("<I", f.read(4))[0]
