"""Phantom data sets, for demonstrations and tests without real data: two ellipsoids, or the structures of any task."""

import itertools
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from mednextv2.errors import InputError
from mednextv2.label_scheme import LabelScheme, label_dtype
from mednextv2.paths import expand, new_folder, remove_leftovers, writing


def make_phantom_dataset(folder: str | os.PathLike, cases: int = 60, seed: int = 0, spatial_dims: int = 3) -> Path:
    """Write images of two touching ellipsoidal structures, front and back, with their label maps.

    The images are about 36×50×35 voxels of 1 mm, like crops around a hippocampus. The task is not trivial: the two
    structures have nearly the same brightness, which differs little from that of the tissue around them. There are also
    bright blobs, texture, a bias field, noise, and a grey scale that differs from case to case.

    Args:
        folder: Where to write `dataset.json`, `imagesTr` and `labelsTr`; new or empty.
        cases: Number of cases.
        seed: The seed of the random numbers; the same seed gives the same data.
        spatial_dims: 3, or 2 for the plane of each image that shows the most of the structures.

    Returns:
        The folder.

    Raises:
        InputError: When the folder is not empty or cannot be written.
    """
    folder = _checked(folder, cases, seed)
    if spatial_dims not in (2, 3):
        raise InputError(f"spatial_dims {spatial_dims!r}: should be 2 for planes or 3 for volumes")
    entries = [{k: f"./{k}sTr/phantom_{n:03d}.nii.gz" for k in ("image", "label")} for n in range(cases)]
    description = {
        "name": "Phantom",
        "description": "Computer-made images of two touching ellipsoids; not anatomy",
        "licence": "Apache-2.0",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "anterior", "2": "posterior"},
        "numTraining": cases,
        "training": entries,
    }
    draw = _phantom if spatial_dims == 3 else _plane_phantom
    drawn = (
        zip(entry.values(), draw(np.random.default_rng(child)), strict=True)
        for entry, child in zip(entries, np.random.SeedSequence(seed).spawn(cases), strict=True)
    )
    return _write(folder, description, itertools.chain.from_iterable(drawn), np.eye(4))


def make_task_phantom(
    folder: str | os.PathLike,
    scheme: LabelScheme,
    channels: Sequence[str],
    spacing: Sequence[float],
    normalization: Sequence[Mapping[str, Any]],
    shape: Sequence[int] | None = None,
    cases: int = 6,
    seed: int = 0,
) -> Path:
    """Write images and label maps that a bundle's task can be tried with, in nnU-Net's layout.

    Each label value is an ellipsoid that has about the same place and brightness in every case, inside a body. The
    images are not anatomy. A channel has Hounsfield units with air around the body if its normalisation is `ct`, is 0
    outside the body if it is normalised inside the mask, and otherwise has a grey scale that differs from case to case.

    Args:
        folder: Where to write `dataset.json`, `imagesTr` and `labelsTr`; new or empty.
        scheme: The meaning of the label values. The last slices of a label map have the ignore label, if there is one.
        channels: The names of the image channels.
        spacing: Voxel size in millimetres along right, anterior, superior; along two axes for 2D images.
        normalization: The normalisation of each channel, as in a `task.yaml`.
        shape: Number of voxels along the same axes, at least 16 each; by default 48.
        cases: Number of cases.
        seed: The seed of the random numbers; the same seed gives the same data.

    Returns:
        The folder.

    Raises:
        InputError: When the shape is too small for the labels, or the folder is not empty or
            cannot be written.
    """
    folder = _checked(folder, cases, seed)
    shape = [48] * len(spacing) if shape is None else shape
    if len(spacing) not in (2, 3) or len(shape) != len(spacing):
        raise InputError(f"spacing {list(spacing)}, shape {list(shape)}: a phantom needs two or three axes in both")
    structures = len(scheme.labels) - 1
    needed = max(16, 6 * _cells(structures, len(shape)))
    if min(shape) < needed:
        raise InputError(f"shape {list(shape)}: {structures} structures need {needed} voxels along each axis")
    regions: dict[str, Any] = {region.name: list(region.values) for region in scheme.regions}
    values = regions or {name: value for value, name in enumerate(scheme.labels) if value}
    description = {
        "name": "Phantom",
        "description": "Computer-made images of ellipsoids; not anatomy",
        "licence": "Apache-2.0",
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": {"background": 0, **values} | ({"ignore": scheme.ignore_label} if scheme.ignore_label else {}),
        **({"regions_class_order": [region.paint for region in scheme.regions]} if regions else {}),
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }

    def drawn() -> Iterator[tuple[str, np.ndarray]]:
        for number, child in enumerate(np.random.SeedSequence(seed).spawn(cases)):
            label, images = _task_case(scheme, normalization, tuple(shape), np.random.default_rng(child))
            for channel, image in enumerate(images):
                yield f"imagesTr/phantom_{number:03d}_{channel:04d}.nii.gz", image
            yield f"labelsTr/phantom_{number:03d}.nii.gz", label

    return _write(folder, description, drawn(), np.diag([*map(float, spacing), *[1.0] * (4 - len(spacing))]))


def _checked(folder: str | os.PathLike, cases: int, seed: int) -> Path:
    folder = expand(folder)
    if not isinstance(cases, int) or cases < 1:
        raise InputError(f"cases {cases!r}: should be a whole number from 1")
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed {seed!r}: should be a whole number from 0")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder that is new or empty")
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    if "dataset.json" in there:
        raise InputError(f"{folder}: holds a data set already; choose another folder")
    if there:
        names = ", ".join(there[:5]) + (", …" if len(there) > 5 else "")
        raise InputError(f"{folder}: holds {names}; give a folder that is new or empty, so that nothing is mixed")
    return folder


def _write(
    folder: Path, description: dict[str, Any], volumes: Iterable[tuple[str, np.ndarray]], affine: np.ndarray
) -> Path:
    with new_folder(folder, "folder"):
        remove_leftovers(folder)  # of a process that was killed
        # entered first and so left last: a folder with dataset.json is complete
        with (
            writing(folder / "dataset.json") as file,
            _new(folder / "labelsTr") as labels,
            _new(folder / "imagesTr") as images,
        ):
            inside = {"imagesTr": images, "labelsTr": labels}
            for name, array in volumes:
                place = inside[Path(name).parts[0]] / Path(name).name
                with writing(place) as temporary:
                    nib.save(nib.Nifti1Image(array, affine), temporary)
            file.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return folder


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """Provide a temporary folder that gets its name if the block ends without an error, and is removed otherwise."""
    temporary = folder
    try:
        with writing(folder) as temporary:
            temporary.mkdir()
            yield temporary
    except InputError as e:  # names the file by the name that it should have got
        raise InputError(str(e).replace(str(temporary), str(folder))) from e
    finally:
        if temporary != folder:
            shutil.rmtree(temporary, ignore_errors=True)


def _phantom(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image, `(X, Y, Z)` int16, and its label map, uint8."""
    shape = (int(rng.integers(32, 41)), int(rng.integers(44, 57)), int(rng.integers(30, 41)))
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"), axis=-1)
    centre = np.array(shape) / 2 + rng.uniform(-3, 3, 3)
    touch = rng.uniform(-2, 2)  # where along y the two structures meet, relative to the centre
    front_radius, back_radius = rng.uniform((5, 7, 4), (8, 10, 7)), rng.uniform((4, 9, 3), (7, 13, 6))
    front = _ellipsoid(grid, centre + np.array([0, touch + front_radius[1] * 0.6, 0]), front_radius, rng)
    back = _ellipsoid(grid, centre + np.array([0, touch - back_radius[1] * 0.6, 0]), back_radius, rng)
    label = np.where(grid[..., 1] > centre[1] + touch, 1 * front, 2 * back).astype(np.uint8)
    image = 0.25 * _texture(shape, 3.0, rng) + 0.15 * _texture(shape, 1.0, rng)
    for _ in range(6):  # bright blobs as distractors
        image += rng.uniform(-0.8, 0.8) * _ellipsoid(grid, rng.uniform(0, shape), rng.uniform(3, 6, 3), rng)
    image[label == 1] = 0.9 + 0.2 * _texture(shape, 1.5, rng)[label == 1]
    image[label == 2] = 0.75 + 0.2 * _texture(shape, 1.5, rng)[label == 2]
    image = gaussian_filter(image, 0.6)
    image *= np.exp(0.35 * _texture(shape, 12.0, rng))  # bias field
    image += 0.15 * rng.standard_normal(shape)
    image = (image - image.min()) * rng.choice([60, 400, 3000])
    return image.astype(np.int16), label


def _plane_phantom(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the plane of a phantom that shows the most of its structures: image and label map, `(X, Y)`."""
    image, label = _phantom(rng)
    plane = int((label > 0).sum((0, 1)).argmax())
    return image[:, :, plane], label[:, :, plane]


def _ellipsoid(grid: np.ndarray, centre: np.ndarray, radius: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a mask of an ellipsoid with a slightly uneven surface."""
    distance = (((grid - centre) / radius) ** 2).sum(-1)
    return distance < 1 + 0.15 * _texture(grid.shape[:3], 2.5, rng)


def _texture(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise of mean 0 and standard deviation 1, `sigma` voxels in scale."""
    noise = gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def _cells(structures: int, axes: int) -> int:
    """Return how many structures lie side by side along each axis."""
    return max(2, math.ceil(round(structures ** (1 / axes), 9)))


def _task_case(
    scheme: LabelScheme, normalization: Sequence[Mapping[str, Any]], shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw one label map, `(X, Y, Z)` or `(X, Y)`, and the image of each channel, int16."""
    axes, structures = len(shape), len(scheme.labels) - 1
    cells = _cells(structures, axes)
    # the position of each voxel in units of cells; the cells fill the inner part of the image
    place = [(((np.arange(n) + 0.5) / n - 0.15) / 0.7 * cells).astype(np.float32) for n in shape]
    index = np.stack(np.meshgrid(*[np.floor(p).astype(np.int16) for p in place], indexing="ij"))
    inside = ((index >= 0) & (index < cells)).all(0)
    index = np.clip(index, 0, cells - 1)
    centre = 0.5 + rng.uniform(-0.05, 0.05, (axes, *[cells] * axes)).astype(np.float32)
    radius = rng.uniform(0.38, 0.45, [cells] * axes).astype(np.float32)
    cell = tuple(index)
    offset = np.stack(np.meshgrid(*[p - np.floor(p) for p in place], indexing="ij")) - centre[(slice(None), *cell)]
    value = np.ravel_multi_index(cell, [cells] * axes) + 1
    ellipsoid = inside & ((offset**2).sum(0) < radius[cell] ** 2) & (value <= structures)
    label = np.where(ellipsoid, value, 0).astype(label_dtype(len(scheme.declared)))
    position = np.stack(np.meshgrid(*[np.linspace(-1.05, 1.05, n, dtype=np.float32) for n in shape], indexing="ij"))
    body = ((position**8).sum(0) < 1) | ellipsoid
    images = [_task_image(label, body, structures, entry, rng) for entry in normalization]
    if scheme.ignore_label:
        label[..., -2:] = scheme.ignore_label
    return label, images


def _task_image(
    label: np.ndarray, body: np.ndarray, structures: int, entry: Mapping[str, Any], rng: np.random.Generator
) -> np.ndarray:
    level = 0.3 + 0.6 * label / structures  # of the body without structures it is 0.3
    level = np.where(body, level + 0.03 * rng.standard_normal(label.shape), 0)
    if entry["scheme"] == "ct":
        low, high = entry["lower"], entry["upper"]
        image = np.where(body, low + (high - low) * level, -1000 + 10 * rng.standard_normal(label.shape))
    elif entry["scheme"] in ("rgb_to_0_1", "none"):
        image = 250 * level.clip(0, 1)
    elif entry.get("inside_mask"):
        image = np.where(body, rng.uniform(200, 2000) * level.clip(0.05), 0)
    else:
        image = rng.uniform(200, 2000) * (level + 0.02 * np.abs(rng.standard_normal(label.shape)))
    return np.rint(image).astype(np.int16)
