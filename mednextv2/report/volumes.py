"""Label maps and images as a report needs them: reoriented to the patient's axes and checked."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from mednextv2.data.sizes import AREA, VOLUME, SizeKind
from mednextv2.data.voxel_grids import compare_grids, oriented_spacing
from mednextv2.errors import InputError
from mednextv2.images.label_map_files import read_label_map
from mednextv2.images.planes import as_plane, is_plane, with_normal
from mednextv2.images.volume import read_volume
from mednextv2.label_scheme import MAX_LABELS
from mednextv2.paths import expand
from mednextv2.scores.results_json import CaseFiles, Results

_LISTED = 50  # number of missing files that are named; the others are counted


def move_files(results: Results, images: str | os.PathLike | None, labels: str | os.PathLike | None) -> Results:
    """Look for images and label maps in other folders, under the same file names.

    Args:
        results: The results, with absolute paths.
        images: The folder of the images, or None to leave their paths unchanged.
        labels: The folder of the reference label maps, or None.

    Raises:
        InputError: If a folder does not exist.
    """
    for setting, folder in (("images", images), ("labels", labels)):
        if folder is not None and not expand(folder).is_dir():
            raise InputError(f"--{setting} {folder}: there is no such folder")

    def there(path: str | os.PathLike, folder: str | os.PathLike | None) -> str:
        return os.fspath(path) if folder is None else str(expand(folder) / Path(path).name)

    cases = [
        replace(c, image=tuple(there(p, images) for p in c.image), label=c.label and there(c.label, labels))
        for c in results.cases
    ]
    return replace(results, cases=cases)


def check_files(results: Results) -> None:
    """Make sure that every image, mask and label map exists.

    Raises:
        InputError: With one line for each missing file.
    """
    missing = []
    for case in results.cases:
        files = [("image", path) for path in case.image] + [("prediction", case.prediction), ("label", case.label)]
        missing += [f"- {path} ({what} of {case.case})" for what, path in files if path and not Path(path).exists()]
    if missing:
        more = [f"- … and {len(missing) - _LISTED} more"] if len(missing) > _LISTED else []
        raise InputError(
            "\n".join(
                [f"{len(missing)} of the files are missing; if images or label maps have moved, give --images DIR or "
                 "--labels DIR", *missing[:_LISTED], *more]
            )
        )  # fmt: skip


def read_labels(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map.

    Args:
        path: The file.

    Returns:
        The label values, `(X, Y, Z)`, and the affine, `(4, 4)`; a 2D image has a single plane.

    Raises:
        InputError: If the file cannot be read or is not a label map.
    """
    labels, affine = read_label_map(path)
    return (as_plane(labels)[..., None], with_normal(affine)) if is_plane(labels.shape) else (labels, affine)


def measure_sizes(results: Results) -> tuple[SizeKind, dict[tuple[str, str], tuple[float, float]]]:
    """Measure the structures' volumes in masks and label maps, or their areas if every mask has one plane.

    Args:
        results: The results, with absolute paths.

    Returns:
        What was measured; and for each case and structure, the size in the prediction and in the reference, which is
        NaN without a label map.

    Raises:
        InputError: If a file cannot be read, or a mask and its label map have different grids.
    """
    found = map_cases(lambda case: _measure(case, results), results.cases, "measuring structures")
    kind = AREA if all(flat for flat, _ in found) else VOLUME
    return kind, {key: sizes[kind] for _, case in found for key, sizes in case.items()}


def _measure(
    case: CaseFiles, results: Results
) -> tuple[bool, dict[tuple[str, str], dict[SizeKind, tuple[float, float]]]]:
    """Return whether a mask has one plane, and the sizes of its structures as areas and as volumes."""
    prediction, affine = read_labels(case.prediction)
    reference = None
    if case.label is not None:
        label, label_affine = read_labels(case.label)
        check_grids((case.label, label, label_affine), (case.prediction, prediction, affine))
        if results.ignore_label is not None:
            prediction = np.where(label == results.ignore_label, 0, prediction)
        reference = np.bincount(label.reshape(-1, order="A"), minlength=MAX_LABELS)
    counts = np.bincount(prediction.reshape(-1, order="A"), minlength=MAX_LABELS)
    voxels = {
        (case.case, name): (
            int(counts[list(values)].sum()),
            float("nan") if reference is None else int(reference[list(values)].sum()),
        )
        for name, values in zip(results.labels, results.values, strict=True)
    }
    return is_plane(prediction.shape), {
        key: {kind: (own * kind.of_voxel(affine), other * kind.of_voxel(affine)) for kind in (AREA, VOLUME)}
        for key, (own, other) in voxels.items()
    }


def map_cases(function: Callable[[CaseFiles], Any], cases: Sequence[CaseFiles], what: str, workers: int = 4) -> list:
    """Call a function for each case in threads, with a bar on the terminal."""
    with ThreadPoolExecutor(min(workers, len(cases))) as pool:
        return list(tqdm(pool.map(function, cases), total=len(cases), desc=what, unit="case", mininterval=1))


def check_grids(first: tuple[str, np.ndarray, np.ndarray], second: tuple[str, np.ndarray, np.ndarray]) -> None:
    """Make sure that two files, each given as name, voxels and affine, have the same grid.

    Raises:
        InputError: If their grids differ.
    """
    (file_a, a, affine_a), (file_b, b, affine_b) = first, second
    if difference := compare_grids((file_a, a.shape[:3], affine_a), (file_b, b.shape[:3], affine_b)):
        raise InputError(difference)


def load_case(case: CaseFiles) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, tuple[float, ...]]:
    """Read one case, reoriented to right, anterior, superior.

    Returns:
        The image's first channel, the prediction and the label map or None, each `(X, Y, Z)`, and the size of a voxel
        in mm along these axes.

    Raises:
        InputError: If a file cannot be read, or the grids differ.
    """
    file = case.image[0]
    image, affine = read_volume(file)
    name = str(file)
    image = image[..., 0] if image.ndim == 4 else image
    if is_plane(image.shape):
        image, affine = as_plane(image)[..., None], with_normal(affine)
    if image.ndim != 3 or not image.size or image.dtype.kind not in "biuf":
        raise InputError(f"{file}: is no image: it has the shape {image.shape} and the type {image.dtype}")
    turn = nib.orientations.io_orientation(affine)

    def read(path: str) -> np.ndarray:
        array, other = read_labels(path)
        check_grids((name, image, affine), (path, array, other))
        return nib.apply_orientation(array, turn)

    prediction, label = read(case.prediction), None if case.label is None else read(case.label)
    return nib.apply_orientation(image, turn), prediction, label, oriented_spacing(affine)
