"""Convert Pediatric-CT-SEG (TCIA, doi 10.7937/TCIA.X0H0-1706), which has 29 structures in CT of children.

SOURCE is what the NBIA Data Retriever downloaded: it holds folders named Pediatric-CT-SEG-XXXXXXXX, each with a CT
series and an RTSTRUCT in DICOM. Structures are found by their names. Contours overlap: skin is painted first, then
bones, then organs in the order of their numbers. If a series has two RTSTRUCTs, the later one is used.

Example:
    python scripts/convert/pediatric_ct_seg.py Pediatric-CT-SEG Dataset320_PediatricCT --match references
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mednextv2.data.conversion_cases import Converted, DatasetFacts, ExcludedError, SourceCase
from mednextv2.data.conversion_command import main
from mednextv2.data.conversion_sources import Found, below, find_root, list_folders
from mednextv2.errors import InputError
from mednextv2.images.dicom import DicomSeries, find_series, read_series
from mednextv2.images.rtstruct_masks import (
    MATCHES,
    ContourGrid,
    Roi,
    StructureSet,
    is_structure_set,
    read_structure_set,
)
from mednextv2.wording import count

#: The spellings of the structures' names, apart from capitals and from underscores for spaces.
SPELLINGS = {
    "adrenal_left": ("adrenal left", "lt adrenal"),
    "adrenal_right": ("adrenal right", "rt adrenal"),
    "bladder": ("bladder",),
    "breast_left": ("breast left",),
    "breast_right": ("breast right",),
    "duodenum": ("duodenum",),
    "esophagus": ("esophagus",),
    "femoral_head_left": ("femoral head lef",),
    "femoral_head_right": ("femoral head rig",),
    "gall_bladder": ("gall bladder",),
    "gonads": ("gonads",),
    "heart": ("heart",),
    "kidney_left": ("kidney left",),
    "kidney_right": ("kidney right",),
    "large_intestine": ("large intestine",),
    "liver": ("liver",),
    "pancreas": ("pancreas",),
    "prostate": ("prostate",),
    "rectum": ("rectum",),
    "small_intestine": ("small intestine",),
    "spinal_canal": ("spinal canal",),
    "spleen": ("spleen",),
    "stomach": ("stomach",),
    "thymus": ("thymus",),
    "uterocervix": ("uterocervix",),
    "lung_left": ("lung l",),
    "lung_right": ("lung r",),
    "skin": ("skin",),
    "bones": ("bones",),
}
FACTS = DatasetFacts(
    id="pediatric_ct_seg",
    title="Pediatric-CT-SEG (TCIA)",
    channels=("CT",),
    labels=dict(enumerate(SPELLINGS, start=1)),
    reference="https://doi.org/10.7937/TCIA.X0H0-1706",
    licence="CC BY 4.0",
)
#: Painted first, so that everything else is drawn over them.
BACKGROUND_FIRST = ("skin", "bones")
BODY, HORSESHOE = "body", "horseshoe kidney"
#: The ends of the names of cases whose heart is cut off near the edge of the image.
HEART_CUT_OFF = ("BEC712BF", "4C1A38AE", "813E523C", "E03568A6")
_PATIENT = r"Pediatric-CT-SEG-[0-9A-F]{8}"
LAYOUT = "the folder that holds Pediatric-CT-SEG-XXXXXXXX and so on"


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Find the DICOM files of each patient; their headers are read when the case is converted."""
    root = find_root(source, ["Pediatric-CT-SEG-????????"], LAYOUT)
    found = Found()
    for name, folder in list_folders(root, _PATIENT, found).items():
        files = list(below(folder))
        dicom = tuple(file for file in files if file.suffix.lower() == ".dcm")
        found.ignored += [file for file in files if file not in set(dicom)]
        if dicom:
            found.cases.append(SourceCase(name, dicom))
        else:
            found.incomplete[name] = f"{folder}: holds no .dcm files; download it again"
    return found


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Read the CT, and paint the structures that are drawn on it."""
    folder = next(parent for parent in case.files[0].parents if parent.name == case.name)
    sets = [read_structure_set(file) for file in case.files if is_structure_set(file)]
    if not sets:
        raise InputError(f"{folder}: holds no RTSTRUCT; download the rest of the patient")
    series = choose_ct(folder, sets)
    own = [structures for structures in sets if series.uid in structures.series] or sets
    voxels, affine = read_series(series)
    structures, notes = choose_latest(own)
    rois, extra = sort_rois(structures)
    notes += extra
    if any(roi.contours for roi in rois.pop(HORSESHOE, [])):
        if options["horseshoe_kidney"] == "exclude":
            raise ExcludedError(
                f"{structures.file}: has a horseshoe kidney, which is neither the left nor the right kidney, and "
                "would be background; --horseshoe_kidney background keeps the case"
            )
        notes.append("its horseshoe kidney became background")
    try:
        grid = ContourGrid(structures, series, options["match"])
    except InputError as e:
        raise ExcludedError(str(e)) from e
    if case.name.endswith(HEART_CUT_OFF):
        notes.append("its heart is cut off near the edge of the image, which is known")
    label, painted = paint(grid, rois)
    origins = (Path(series.folder), Path(structures.file))
    return Converted([(voxels, affine)], (label, affine), [*grid.notes, *notes, *painted], origins)


def choose_ct(folder: Path, sets: list[StructureSet]) -> DicomSeries:
    """Return the CT of a patient; of several, the one to which a structure set refers."""
    found = [series for series in find_series(folder) if series.slices[0].modality == "CT"]
    referred = {uid for structures in sets for uid in structures.series}
    for fitting in (found, [series for series in found if series.uid in referred]):
        if len(fitting) == 1:
            return fitting[0]
    listed = "; ".join(series.row() for series in found) or "none"
    raise InputError(f"{folder}: should hold one CT series to which its RTSTRUCT refers, but holds {listed}")


def choose_latest(sets: list[StructureSet]) -> tuple[StructureSet, list[str]]:
    """Return the latest structure set, and a note if there are others."""
    latest = max(structures.date for structures in sets)
    newest = [structures for structures in sets if structures.date == latest]
    if len(newest) > 1:
        files = ", ".join(structures.file for structures in newest)
        raise InputError(f"{files}: have the same date ({latest or 'none'}), so none is the latest; remove one")
    others = len(sets) - 1
    return newest[0], [f"the latest of {count(len(sets), 'RTSTRUCT')} was used"] if others else []


def sort_rois(structures: StructureSet) -> tuple[dict[str, list[Roi]], list[str]]:
    """Return the regions of interest by the name of their structure.

    Raises:
        InputError: If one has a name that is not known.
    """
    known = {spelling: label for label, spellings in SPELLINGS.items() for spelling in spellings}
    rois: dict[str, list[Roi]] = {}
    notes = []
    for roi in structures.rois:
        name = " ".join(roi.name.replace("_", " ").lower().split())
        if name == BODY:
            notes.append("the structure BODY was left out, since Skin is the outline of the body")
        elif name in known or name == HORSESHOE:
            rois.setdefault(known.get(name, name), []).append(roi)
        else:
            raise InputError(
                f"{structures.file}: has the structure {roi.name!r}, which this data set does not have; correct its "
                "name, or leave the case out with --exclude"
            )
    return rois, notes


def paint(grid: ContourGrid, rois: Mapping[str, list[Roi]]) -> tuple[np.ndarray, list[str]]:
    """Paint the structures into a label map, later ones over earlier ones."""
    numbers = {name: number for number, name in FACTS.labels.items()}
    organs = [name for name in numbers if name not in BACKGROUND_FIRST]
    label, notes, overlap = np.zeros(grid.shape, np.uint8), [], 0
    for name in (*BACKGROUND_FIRST, *organs):
        for roi in rois.get(name, []):
            mask, said = grid.fill(roi)
            notes += said
            if name in organs:
                under = label[mask]
                others = [numbers[n] for n in (*BACKGROUND_FIRST, name)]
                overlap += int(np.count_nonzero((under > 0) & ~np.isin(under, others)))
            label[mask] = numbers[name]
    if overlap:
        notes.append(f"{count(overlap, 'voxel')} of two organs; the one with the higher number is kept")
    return label, notes


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this converter."""
    parser.add_argument(
        "--match", choices=MATCHES, default=MATCHES[0],
        help="references: cases whose RTSTRUCT refers to another CT are left out and listed; geometry: they are used "
        "if every contour lies on a slice of the CT (default: references)",
    )  # fmt: skip
    parser.add_argument(
        "--horseshoe_kidney", choices=("exclude", "background"), default="exclude",
        help="exclude: cases with a horseshoe kidney are left out and listed; background: they are kept, and the "
        "kidney becomes background (default: exclude)",
    )  # fmt: skip


if __name__ == "__main__":
    main(FACTS, find, convert, __doc__, add_options)
