"""A bundle's own weights: where they are, and how others take their place without loss."""

import os
import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from mednextv2.errors import InputError
from mednextv2.paths import prepare_folder, writing
from mednextv2.weights.files import load_file, save_file
from mednextv2.weights.locations import WEIGHTS_NAME, weights_file
from mednextv2.weights.provenance import read_about
from mednextv2.weights.safetensors_file import ENDING, is_safetensors

OWN_WEIGHTS = WEIGHTS_NAME  # further networks of an ensemble are model_1.pt, model_2.pt and so on
#: The post-processing that belongs to a bundle's own weights.
OWN_POSTPROCESSING = "postprocessing.json"


def own_weights(bundle_root: str | os.PathLike) -> list[Path]:
    """Return the files of a bundle's own weights, the first of which is `models/model.pt`; none if that is missing.

    In the place of each may be a file of safetensors: see :func:`mednextv2.weights.locations.weights_file`.
    """
    models = Path(bundle_root) / "models"
    files = [weights_file(models)]
    while files[-1].is_file():
        files.append(weights_file(models, f"model_{len(files)}.pt"))
    return files[:-1]


def promote(
    bundle_root: str | os.PathLike,
    weights: Sequence[str | os.PathLike],
    postprocessing: str | os.PathLike | None = None,
) -> tuple[list[Path], Path | None]:
    """Make weights a bundle's own, and keep those that were.

    New files are copied whole before the first old one is moved, so a full disk leaves the bundle as it was.

    Args:
        bundle_root: The bundle's folder.
        weights: The files of weights; several are an ensemble. Whether they fit the bundle is for the caller to check.
            Those of safetensors are written in PyTorch's format, which MONAI reads.
        postprocessing: The file of the post-processing that belongs to them, if any.

    Returns:
        The bundle's own weights now, and the folder `models/replaced_<date>_<time>` (UTC) with those from before, if
        there were any.

    Raises:
        InputError: If a file does not exist, is one of the bundle's own already, or cannot be copied.
    """
    models = prepare_folder(Path(bundle_root) / "models", "BUNDLE")
    sources = [Path(file) for file in weights]
    wanted = [models / (f"model_{i}.pt" if i else OWN_WEIGHTS) for i in range(len(sources))]
    pairs = list(zip(sources, wanted, strict=True))
    if postprocessing is not None:
        pairs.append((Path(postprocessing), models / OWN_POSTPROCESSING))
    own = own_weights(bundle_root)
    copies = {file.with_suffix(ENDING) for file in own} - {*own}  # the same weights as safetensors
    old = [*own, *filter(Path.is_file, [*sorted(copies), models / OWN_POSTPROCESSING])]
    for source, _ in pairs:
        if not source.is_file():
            raise InputError(f"{source}: there is no such file; give weights that exist, such as those of a fold")
        if any(source.samefile(file) for file in old):
            raise InputError(f"{source}: is the bundle's own already; give other weights, such as those of a fold")
    staged = [target.with_name(f"{target.name}.new") for _, target in pairs]
    try:
        for (source, _), copy in zip(pairs, staged, strict=True):
            if is_safetensors(source):
                save_file(load_file(source), copy, read_about(source))
                continue
            with writing(copy) as temporary:
                shutil.copyfile(source, temporary)
        kept = _move_away(models, old) if old else None
        for (_, target), copy in zip(pairs, staged, strict=True):
            copy.replace(target)
    finally:
        for copy in staged:
            copy.unlink(missing_ok=True)
    return wanted, kept


def _move_away(models: Path, files: Sequence[Path]) -> Path:
    """Move files into a new folder named after the time."""
    name = f"replaced_{datetime.now(timezone.utc):%Y-%m-%d_%H%M%S}"
    number, folder = 1, models / name
    while folder.exists():
        number += 1
        folder = models / f"{name}_{number}"
    folder.mkdir()
    for file in files:
        file.replace(folder / file.name)
    return folder
