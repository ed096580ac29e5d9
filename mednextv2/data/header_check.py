"""The check of a collection before a training: all headers, and no voxel.

Voxels are read when a case is prepared, which is also when the values of its label maps are checked. So data sets of
ten thousand cases are ready in less than a minute, and no file is read as a whole twice.
"""

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.utils import orientation_ras_lps
from tqdm import tqdm

from mednextv2.data.cases import Case
from mednextv2.data.check import report_defects
from mednextv2.data.voxel_grids import check_affine, compare_grids
from mednextv2.distributed import is_main_process
from mednextv2.errors import InputError
from mednextv2.images.itk_header import screen_itk
from mednextv2.images.itk_loading import ITK_TURN, load_itk, load_itk_for
from mednextv2.images.nifti_header import read_header
from mednextv2.images.planes import wrong_number_of_axes
from mednextv2.images.volume import NIFTI, SUFFIXES, VirtualVolume, affine_4x4, unreadable

_MOST_DEFECTS = 1000  # after which the rest of a collection is not looked at


def check_headers(cases: Sequence[Case], channels: Sequence[str], spatial_dims: int = 3, workers: int = 4) -> None:
    """Read the headers of all files, and report all defects at once.

    Under `torch.distributed`, rank 0 reads them and the other ranks wait for its result.

    Args:
        cases: The cases.
        channels: Names of the image channels.
        spatial_dims: 2 or 3.
        workers: Threads that read files.

    Raises:
        InputError: With one line for each file that is missing, has an impossible header, or is not on the grid of its
            image.
    """
    defects: list[str] = []
    if is_main_process():
        load_itk_for(file for case in cases for file in _files(case))
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(lambda case: _check_case(case, channels, spatial_dims), cases)
            shown = tqdm(found, total=len(cases), desc="checking headers", unit="case", mininterval=1)
            defects = list(itertools.islice(itertools.chain.from_iterable(shown), _MOST_DEFECTS))
    report_defects(defects, "The collection")


def _files(case: Case) -> list[str]:
    label = case.label.files if isinstance(case.label, VirtualVolume) else [case.label] if case.label else []
    return [*case.images, *label]


def _check_case(case: Case, channels: Sequence[str], spatial_dims: int) -> list[str]:
    defects: list[str] = []
    first: tuple[Any, ...] = ()
    expected = 1 if len(case.images) == len(channels) else len(channels)
    if len(case.images) not in (1, len(channels)):
        defects.append(f"case {case.name}: has {len(case.images)} images for {len(channels)} channels")
    for number, file in enumerate(dict.fromkeys(_files(case))):
        is_image = number < len(case.images)
        try:
            shape, affine = read_grid(file)
            _check_axes(file, shape, expected if is_image else 1, spatial_dims)
        except InputError as e:
            defects.append(str(e) if is_image else f"{e} (the label of case {case.name})")
            continue
        grid = (file, shape[:spatial_dims], affine)
        if not first:
            first = grid
            defects += [f"{file}: {problem}" for problem in check_affine(affine, spatial_dims)]
        elif problem := compare_grids(first, grid):
            defects.append(problem)
    return defects


def _check_axes(file: str, shape: tuple[int, ...], channels: int, spatial_dims: int) -> None:
    """Raise an InputError if an image or a label map does not have the right axes."""
    kept = shape if spatial_dims == 3 or len(shape) < 3 or shape[2] != 1 else (*shape[:2], *shape[3:])
    fits = (len(kept) == spatial_dims and channels == 1) or (len(kept) == spatial_dims + 1 and kept[-1] == channels)
    if not fits:
        raise InputError(f"{file}: {wrong_number_of_axes(shape, channels, spatial_dims)}")


def read_grid(path: str | os.PathLike) -> tuple[tuple[int, ...], np.ndarray]:
    """Read the shape and the position of an image from its header.

    Args:
        path: A file with one of the endings in `SUFFIXES`.

    Returns:
        The shape as :func:`mednextv2.images.volume.read_volume` would return the voxels, and the affine, `(4, 4)`.

    Raises:
        InputError: If the file is missing, or its header is impossible.
    """
    path = Path(path)
    name = path.name.lower()
    try:
        if name.endswith(NIFTI):
            header = read_header(path)
            shape = tuple(int(n) for n in header.get_data_shape())
            return _without_ones(shape), np.asarray(header.get_best_affine(), dtype=np.float64)
        if name.endswith(SUFFIXES):
            return _itk_grid(path)
    except InputError:
        raise
    except FileNotFoundError as e:
        raise InputError(f"{path}: there is no such file") from e
    except Exception as e:  # gzip, nibabel and ITK each raise their own errors for a damaged file
        raise unreadable(path, e) from e
    raise InputError(f"{path}: the ending is not one of {', '.join(SUFFIXES)}; convert the image")


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without axes of length one after the third."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _itk_grid(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    screen_itk(path)
    itk = load_itk()
    with ITK_TURN:
        io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        io.SetFileName(str(path))
        io.ReadImageInformation()
        axes, channels = io.GetNumberOfDimensions(), io.GetNumberOfComponents()
        shape = tuple(int(io.GetDimensions(i)) for i in range(axes))
        matrix = np.eye(axes + 1)
        for i in range(axes):
            matrix[:axes, i] = np.asarray(io.GetDirection(i)) * io.GetSpacing(i)
            matrix[i, axes] = io.GetOrigin(i)
    return (*shape, *([channels] if channels > 1 else [])), affine_4x4(np.asarray(orientation_ras_lps(matrix)))
