"""Scores of any label maps against references, from any program: two folders are paired by file name."""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from tqdm import tqdm

from mednextv2.data.dataset import read_scheme
from mednextv2.data.sizes import AREA, VOLUME, size_kind, size_kind_of
from mednextv2.data.voxel_grids import compare_grids
from mednextv2.errors import InputError
from mednextv2.images.label_map_files import distinct_values, read_label_map
from mednextv2.images.planes import as_plane, is_plane
from mednextv2.images.volume import SUFFIXES, stem
from mednextv2.label_scheme import LabelScheme
from mednextv2.paths import absolute, prepare_folder
from mednextv2.scores.csv_tables import write_csv
from mednextv2.scores.evaluation import METRICS, score_case, summarise
from mednextv2.scores.results_json import CaseFiles, Results, write_results
from mednextv2.wording import count

logger = logging.getLogger(__name__)

_ENDINGS = r"([_-](seg|pred|prediction|mask|label|gt|trans))?"  # endings of file names after the case's name


def score_folders(
    masks: str | os.PathLike,
    labels: str | os.PathLike,
    output: str | os.PathLike,
    scheme: LabelScheme | None = None,
    images: str | os.PathLike | None = None,
    skip_missing: bool = False,
) -> list[dict[str, Any]]:
    """Score the label maps of a folder against those of another, and write the tables.

    Args:
        masks: The folder of predicted label maps.
        labels: The folder of reference label maps. Both files of a case have the same name, apart from endings such as
            `_seg`.
        output: The folder for `cases.csv`, `summary.csv` and, with `images`, `results.json`: see
            :class:`mednextv2.scores.evaluation.EvaluationTable`.
        scheme: The meaning of the values. By default, it is read from a `dataset.json` in or beside one of the folders;
            without one, the classes are named after the values that occur.
        images: The folder of the images, some of which a report shows.
        skip_missing: Whether to leave out references without a mask, instead of refusing them.

    Returns:
        The summary: see :func:`mednextv2.scores.evaluation.summarise`.

    Raises:
        InputError: If files are missing, cannot be read, or have wrong values or different voxel grids.
    """
    masks, labels = absolute(masks), absolute(labels)
    pairs = pair_files(masks, labels, skip_missing)
    scheme = scheme or find_scheme(labels, masks) or _scheme_of([file for pair in pairs.values() for file in pair])
    cases = [CaseFiles(case, (), str(mask), str(label)) for case, (mask, label) in pairs.items()]
    if images is not None:
        cases = [_with_images(case, absolute(images)) for case in cases]
    folder = prepare_folder(output, "output")
    rows = []
    for case, (mask, label) in tqdm(pairs.items(), desc="scoring", unit="case", disable=len(pairs) < 2):
        rows += _score(case, mask, label, scheme)
    _check_one_kind(rows, labels)
    summary = summarise(rows, scheme.foreground)
    write_csv(folder / "cases.csv", rows)
    write_csv(folder / "summary.csv", summary)
    if images is not None:
        title = f"{masks.name}, against {labels.name}"
        ignored = scheme.ignore_label
        write_results(
            folder, Results("evaluation", title, scheme.foreground, scheme.members, cases, ignore_label=ignored)
        )
    return summary


def pair_files(masks: Path, labels: Path, skip_missing: bool = False) -> dict[str, tuple[Path, Path]]:
    """Return the mask and the reference of each case, sorted by name.

    Args:
        masks: The folder of predicted label maps.
        labels: The folder of reference label maps.
        skip_missing: Whether to leave out references without a mask.

    Raises:
        InputError: If a folder is missing or empty, or a reference has no mask or several masks.
    """
    predicted, references = _files(masks), _files(labels)
    pairs, missing = {}, []
    for reference in references:
        names = {reference.name, stem(reference), re.sub(f"{_ENDINGS}$", "", stem(reference))}
        pattern = "|".join(re.escape(stem(name)) for name in names)
        found = [file for file in predicted if re.fullmatch(f"({pattern}){_ENDINGS}", stem(file))]
        if len(found) > 1:
            raise InputError(
                f"{masks}: {' and '.join(file.name for file in found)} may both be the mask of {reference.name}; "
                "keep one of them in the folder"
            )
        if found:
            pairs[stem(reference)] = (found[0], reference)
        else:
            missing.append(reference.name)
    if missing and (not skip_missing or not pairs):
        there = _first(file.name for file in predicted)
        raise InputError(
            f"{masks}: has no mask for {len(missing)} of {count(len(references), 'reference')} in {labels} "
            f"({_first(missing)}); add them"
            + (
                ", or leave these cases out with --skip_missing"
                if pairs
                else f". A mask has the name of its reference, but there are {there}"
            )
        )
    if missing:
        logger.warning("%s: left out, since they have no mask", ", ".join(missing))
    used = {mask for mask, _ in pairs.values()}
    if left := [file.name for file in predicted if file not in used]:
        logger.warning("%s: no reference for %s", labels, _first(left))
    return dict(sorted(pairs.items()))


def find_scheme(*folders: Path) -> LabelScheme | None:
    """Return the label scheme of the first `dataset.json` in or beside one of the folders, or None."""
    for place in (place for folder in folders for place in (folder, folder.parent)):
        if (place / "dataset.json").is_file():
            scheme = read_scheme(place)
            if scheme is not None:
                return scheme
    return None


def _first(names: Iterable[str], many: int = 5) -> str:
    listed = [*names]
    return ", ".join(listed[:many]) + (", …" if len(listed) > many else "")


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give a folder of label maps")
    files = sorted(f for f in folder.iterdir() if f.name.lower().endswith(SUFFIXES) and not f.name.startswith("."))
    if not files:
        below = any(f.name.lower().endswith(SUFFIXES) for f in folder.glob("*/*"))
        hint = "; it has subfolders with some: give one of them, or gather their files in one folder" if below else ""
        raise InputError(f"{folder}: holds no label maps ({', '.join(SUFFIXES)}){hint}")
    return files


def _scheme_of(files: Sequence[Path]) -> LabelScheme:
    """Name classes after the values that occur."""
    values: set[int] = set()
    for file in tqdm(files, desc="looking for labels", unit="file", delay=2):
        values |= {int(value) for value in distinct_values(read_label_map(file)[0])}
    if not values - {0}:
        raise InputError(f"{files[0].parent}: no label map has a voxel above 0, so there is nothing to score")
    return LabelScheme(["background", *(f"label {value}" for value in range(1, max(values) + 1))])


def _with_images(case: CaseFiles, folder: Path) -> CaseFiles:
    found = [f for f in _files(folder) if re.fullmatch(re.escape(case.case) + r"(_\d{4})?", stem(f))]
    if not found:
        raise InputError(f"{folder}: has no image of the case {case.case}, such as {case.case}.nii.gz")
    return CaseFiles(case.case, tuple(map(str, found)), case.prediction, case.label)


def _score(case: str, mask: Path, label: Path, scheme: LabelScheme) -> list[dict[str, Any]]:
    predicted, mask_affine = read_label_map(mask, scheme.declared)
    reference, affine = read_label_map(label, scheme.declared)
    spatial = 2 if is_plane(reference.shape) else 3
    if spatial == 2:
        predicted, reference = as_plane(predicted), as_plane(reference)
    difference = compare_grids((str(label), reference.shape, affine), (str(mask), predicted.shape, mask_affine))
    if difference:
        raise InputError(f"case {case}: {difference}")
    if scheme.ignore_label is not None:
        predicted = np.where(reference == scheme.ignore_label, 0, predicted)
    kind = size_kind(spatial)
    hot = [_structures(array, scheme) for array in (predicted, reference)]
    scores = score_case(hot[0], hot[1], voxel_sizes(affine)[:spatial].tolist())
    voxel = kind.of_voxel(affine)
    return [
        {"case": case, "label": name}
        | {metric: scores[metric][c] for metric in METRICS}
        | dict(zip(kind.columns, (float(array[c + 1].sum()) * voxel for array in hot), strict=True))
        for c, name in enumerate(scheme.foreground)
    ]


def _check_one_kind(rows: Sequence[dict[str, Any]], labels: Path) -> None:
    """Refuse a mix of planes and volumes, whose distances and sizes do not belong into one table."""
    first = {kind: next((row["case"] for row in rows if size_kind_of(row) is kind), None) for kind in (AREA, VOLUME)}
    if all(first.values()):
        raise InputError(
            f"{labels}: holds label maps of one plane, such as that of {first[AREA]}, and volumes, such as that of "
            f"{first[VOLUME]}; score them separately"
        )


def _structures(array: np.ndarray, scheme: LabelScheme) -> torch.Tensor:
    """Return one mask for each structure, the background first, `(1 + structures, X, Y, Z)`."""
    masks = [np.isin(array, list(values)) for values in scheme.members]
    return torch.from_numpy(np.stack([~np.any(masks, axis=0), *masks]))
