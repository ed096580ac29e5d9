"""The integrity check of a data set: everything that would stop or spoil a training, found before it starts."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.distributed as dist
from tqdm import tqdm

from mednextv2.data.cases import Case, CollectedCase, DatasetFolder
from mednextv2.data.voxel_grids import check_affine, compare_grids, oriented_spacing
from mednextv2.errors import InputError
from mednextv2.images.itk_loading import load_itk_for
from mednextv2.images.label_map_files import as_label_map, distinct_values
from mednextv2.images.planes import as_plane, is_plane, wrong_number_of_axes
from mednextv2.images.volume import is_numeric, read_volume
from mednextv2.wording import count, times

_MOST = float(np.finfo(np.float32).max)
_LISTED = 50  # the number of defects that are listed; the others are only counted
_ODD_SPACING = 9.9  # a spacing is odd if it is this factor larger or smaller than the median

#: A function that is called with a case's image `(C, X, Y, Z)`, label map `(X, Y, Z)`, affine `(4, 4)` and name.
Visitor = Callable[[np.ndarray, np.ndarray, np.ndarray, str], Any]


@dataclass(frozen=True)
class CaseReport:
    """What the check found out about one case.

    Attributes:
        name: The name of the case.
        defects: One sentence for each defect; empty if there is none.
        spacing: Size of a voxel in mm, along right, anterior, superior; empty if the case has a defect.
        values: The values that occur in the label map.
        extra: What the visitor returned.
    """

    name: str
    defects: tuple[str, ...]
    spacing: tuple[float, ...] = ()
    values: tuple[int, ...] = ()
    extra: Any = None


def check_dataset(
    cases: Sequence[Case],
    labels: Sequence[str] | None,
    channels: Sequence[str],
    spatial_dims: int = 3,
    workers: int = 4,
    visit: Visitor | None = None,
) -> list[CaseReport]:
    """Check every file of every case, and report all defects at once.

    Under `torch.distributed`, rank 0 reads the files and the other ranks wait for its result.

    Args:
        cases: The cases.
        labels: Names of the label values 0, 1, …; None if nothing declares them.
        channels: Names of the image channels.
        spatial_dims: 2 or 3.
        workers: Threads that read files.
        visit: Called with each sound case while it is in memory: see `Visitor`. The report contains what it returns.

    Returns:
        One report for each case, in the order of the cases; an empty list on the ranks that only wait.

    Raises:
        InputError: With one line for each defect, which names the file, the problem and the remedy.
    """
    reports: list[CaseReport] = []
    defects: list[str] = []
    distributed = dist.is_available() and dist.is_initialized()
    if not distributed or dist.get_rank() == 0:
        load_itk_for(file for case in cases for file in (*case.images, case.label or ".nii"))
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(lambda case: inspect_case(case, labels, channels, spatial_dims, visit), cases)
            reports = list(tqdm(found, total=len(cases), desc="checking the data set", unit="case", mininterval=1))
        defects = [defect for report in reports for defect in report.defects]
        parts: dict[str, list[CaseReport]] = {}  # the data sets of a collection
        for case, report in zip(cases, reports, strict=True):
            parts.setdefault(case.dataset if isinstance(case, CollectedCase) else "", []).append(report)
        defects += [defect for part in parts.values() for defect in _odd_spacings(part)]
    report_defects(defects, "The data set")
    return reports


def report_defects(defects: list[str], subject: str) -> None:
    """Raise an InputError that lists defects, if there are any; under `torch.distributed`, in every process.

    Args:
        defects: One sentence for each; only those of rank 0 count.
        subject: What has them, with which the message begins.
    """
    if dist.is_available() and dist.is_initialized():
        box = [defects]
        dist.broadcast_object_list(box, src=0)
        defects = box[0]
    if defects:
        more = [f"- … and {len(defects) - _LISTED} more"] if len(defects) > _LISTED else []
        raise InputError(
            "\n".join(
                [f"{subject} has {count(len(defects), 'defect')}: mend or remove these cases"]
                + [f"- {defect}" for defect in defects[:_LISTED]]
                + more
            )
        )


def _odd_spacings(reports: Sequence[CaseReport]) -> list[str]:
    """Name the cases whose voxels are ten times as large or small as those of the others: a header in other units."""
    known = [report for report in reports if report.spacing]
    if len(known) < 2:
        return []
    median = np.median([report.spacing for report in known], axis=0)
    return [
        f"case {report.name}: has voxels of {' × '.join(f'{s:.3g}' for s in report.spacing)} mm, the data set's median "
        f"is {' × '.join(f'{m:.3g}' for m in median)} mm; correct the header, or leave the case out"
        for report in known
        if max((np.array(report.spacing) / median).max(), (median / report.spacing).max()) > _ODD_SPACING
    ]


def find_dimensions(dataset: DatasetFolder) -> int:
    """Return 2 if the first image that can be read has one plane, and 3 otherwise.

    An image that has other axes than the first is then one of the defects that :func:`check_dataset` reports.
    """
    for case in dataset.cases:
        try:
            return 2 if is_plane(read_volume(case.images[0])[0].shape) else 3
        except InputError:
            continue
    return 3


def check_case(case: Case, labels: Sequence[str] | None, channels: Sequence[str], spatial_dims: int = 3) -> list[str]:
    """List the defects of one case, one sentence for each. The arguments are those of :func:`inspect_case`."""
    return list(inspect_case(case, labels, channels, spatial_dims).defects)


def inspect_case(
    case: Case,
    labels: Sequence[str] | None,
    channels: Sequence[str],
    spatial_dims: int = 3,
    visit: Visitor | None = None,
) -> CaseReport:
    """Check one case.

    Args:
        case: The case; without a label map, only the images are checked.
        labels: Names of the label values 0, 1, …; None where nothing declares them.
        channels: Names of the image channels.
        spatial_dims: 2 or 3.
        visit: See :func:`check_dataset`.
    """
    defects: list[str] = []
    grids: list[tuple[str, tuple[int, ...], np.ndarray]] = []  # file, shape, affine
    images: list[np.ndarray] = []
    label: np.ndarray | None = None
    values: tuple[int, ...] = ()
    expected = 1 if len(case.images) == len(channels) else len(channels)  # channels in each file
    for file in case.images:
        try:
            array, affine = read_volume(file)
        except InputError as e:
            defects.append(str(e))
            continue
        defects += [f"{file}: {problem}" for problem in check_image(array, affine, expected, spatial_dims)]
        array = as_plane(array) if spatial_dims == 2 else array
        grids.append((file, array.shape[:spatial_dims], affine))
        images += [array] if array.ndim == spatial_dims else list(np.moveaxis(array, -1, 0))
    if len(case.images) not in (1, len(channels)):
        defects.append(f"case {case.name}: has {len(case.images)} images for {len(channels)} channels")
    if case.label is not None:
        try:
            label, affine = read_volume(case.label)
        except InputError as e:
            defects.append(f"{e} (the label of case {case.name})")
        else:
            label = as_plane(label) if spatial_dims == 2 else label
            grids.append((str(case.label), label.shape[:spatial_dims], affine))
            try:
                label = as_label_map(label, str(case.label), labels, spatial_dims)
                values = tuple(distinct_values(label))
            except InputError as e:
                defects.append(str(e))
    defects += [problem for grid in grids[1:] if (problem := compare_grids(grids[0], grid))]
    if defects:
        return CaseReport(case.name, tuple(defects))
    affine = grids[0][2]
    extra = None
    if visit is not None and label is not None:
        image = images[0][None] if len(images) == 1 else np.stack(images)
        extra = visit(image, label, affine, case.name)
    return CaseReport(case.name, (), oriented_spacing(affine, spatial_dims), values, extra)


def check_image(array: np.ndarray, affine: np.ndarray, channels: int = 1, spatial_dims: int = 3) -> list[str]:
    """List what makes an image unusable.

    Args:
        array: Voxels, `(X, Y, Z)`, or with channels as the last axis; of a 2D image, `(X, Y)`, `(X, Y, 1)` or with
            channels `(X, Y, 1, C)`.
        affine: The matrix `(4, 4)` from voxel indices to millimetres.
        channels: The number of channels that the file should have.
        spatial_dims: 2 or 3.

    Returns:
        One clause for each problem, without the file's name.
    """
    problems = []
    shape = array.shape
    if spatial_dims == 2 and is_plane(shape):
        array = as_plane(array)
    elif spatial_dims == 2:
        return [wrong_number_of_axes(shape, channels, spatial_dims)]
    shape = array.shape
    fits = (len(shape) == spatial_dims and channels == 1) or (len(shape) == spatial_dims + 1 and shape[-1] == channels)
    if not fits:
        return [wrong_number_of_axes(shape, channels, spatial_dims)]
    if 0 in shape:
        return [f"has no voxels (shape {times(shape)})"]
    if not is_numeric(array):
        return [f"has voxels of type {array.dtype}, not one number each (RGB images must be converted)"]
    if not np.isfinite(array).all():
        broken = int(array.size - np.isfinite(array).sum())
        problems.append(f"has {count(broken, 'NaN or infinite voxel')}; replace or recompute them")
    elif array.dtype == np.float64 and max(array.max(), -array.min()) > _MOST:
        problems.append(
            f"has voxels of up to {max(array.max(), -array.min()):.3g}, which are infinite in single precision; "
            "correct its scaling (in NIfTI: scl_slope)"
        )
    else:
        parts = [array] if array.ndim == spatial_dims else np.moveaxis(array, -1, 0)
        problems += [
            f"is constant{f' in channel {i}' if len(parts) > 1 else ''}: every voxel is {part.flat[0]:g}; "
            "export the image again"
            for i, part in enumerate(parts)
            if part.min() == part.max()
        ]
    return problems + check_affine(affine, spatial_dims)
