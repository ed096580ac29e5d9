"""A phantom data set in the MSD layout, for demonstrations and tests without real data."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from mednextv2.errors import InputError
from mednextv2.paths import expand, new_folder, writing


def make_phantom_dataset(folder: str | os.PathLike, cases: int = 60, seed: int = 0) -> Path:
    """Write images of two touching ellipsoidal structures, front and back, with their label maps.

    The images are about 36×50×35 voxels of 1 mm, like crops around a hippocampus. The task is not trivial: the two
    structures have nearly the same brightness, which differs little from that of the tissue around them. There are also
    bright blobs, texture, a bias field, noise, and a grey scale that differs from case to case.

    Args:
        folder: Where to write `dataset.json`, `imagesTr` and `labelsTr`; created if missing.
        cases: Number of cases.
        seed: The seed of the random numbers; the same seed gives the same data.

    Returns:
        The folder.

    Raises:
        InputError: When the folder already contains a data set or cannot be written.
    """
    folder = expand(folder)
    if not isinstance(cases, int) or cases < 1:
        raise InputError(f"cases {cases!r}: should be a whole number from 1")
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed {seed!r}: should be a whole number from 0")
    if (folder / "dataset.json").exists():
        raise InputError(f"{folder}: holds a data set already; choose another folder")
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
    with ExitStack() as stack:
        for made in (folder, folder / "imagesTr", folder / "labelsTr"):
            stack.enter_context(new_folder(made, "folder"))
        written = stack.enter_context(_removed_after_errors())
        for entry, child in zip(entries, np.random.SeedSequence(seed).spawn(cases), strict=True):
            for file, array in zip(entry.values(), _phantom(np.random.default_rng(child)), strict=True):
                with writing(folder / file) as temporary:
                    nib.save(nib.Nifti1Image(array, np.eye(4)), temporary)
                written.append(folder / file)
        # written last, so that a folder with dataset.json is complete
        with writing(folder / "dataset.json") as temporary:
            temporary.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return folder


@contextmanager
def _removed_after_errors() -> Iterator[list[Path]]:
    """Provide a list of files that are removed if the block ends with an error."""
    files: list[Path] = []
    try:
        yield files
    except BaseException:
        for file in files:
            file.unlink(missing_ok=True)
        raise


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


def _ellipsoid(grid: np.ndarray, centre: np.ndarray, radius: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a mask of an ellipsoid with a slightly uneven surface."""
    distance = (((grid - centre) / radius) ** 2).sum(-1)
    return distance < 1 + 0.15 * _texture(grid.shape[:3], 2.5, rng)


def _texture(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise of mean 0 and standard deviation 1, `sigma` voxels in scale."""
    noise = gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()
