"""What must be true before an evaluation or an inference starts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from mednextv2.data.check import check_dataset
from mednextv2.data.dataset import DatasetFolder
from mednextv2.data.labels import LabelScheme
from mednextv2.errors import InputError
from mednextv2.inference.writer import mask_path
from mednextv2.memory import keep_freed_memory
from mednextv2.paths import prepare_folder
from mednextv2.training.preparation import check_description


def prepare_evaluation(
    dataset: DatasetFolder,
    cases: Sequence[Sequence[dict]],
    scheme: LabelScheme,
    channels: Sequence[str],
    spatial_dims: int,
    output_dir: str | os.PathLike,
    check_data: bool = True,
) -> None:
    """Check output folder and the cases that will be scored.

    Args:
        dataset: As read from `dataset_dir`.
        cases: Training and validation items; the latter are scored.
        scheme: What the bundle's label values mean.
        channels: The bundle's channel names.
        spatial_dims: 2 or 3.
        output_dir: Where tables and predictions will go.
        check_data: Read every file and look for defects.

    Raises:
        InputError: As :func:`mednextv2.training.prepare_training`.
    """
    keep_freed_memory()
    prepare_folder(output_dir, "output_dir")
    check_description(dataset, scheme, channels)
    if check_data:
        scored = {item["case"] for item in cases[1]}
        check_dataset([c for c in dataset.cases if c.name in scored], scheme.declared, channels, spatial_dims)


def prepare_inference(images: Sequence[dict[str, Any]], output_dir: str | os.PathLike) -> None:
    """Check that masks can be written, and that none would take the place of an image.

    Args:
        images: The items to be segmented: see :func:`mednextv2.inference.find_images`.
        output_dir: Where masks will go.

    Raises:
        InputError: For a folder that cannot be written, or a mask with the name of an image.
    """
    keep_freed_memory()
    prepare_folder(output_dir, "output_dir")
    inputs = {Path(file).resolve() for item in images for file in ensure_tuple(item["image"])}
    for item in images:
        first = ensure_tuple(item["image"])[0]
        mask = mask_path(output_dir, first)
        if mask.resolve() in inputs:
            raise InputError(
                f"output_dir {output_dir}: the mask of {first} would replace {mask}, which is one of the images; "
                "choose another folder with --output_dir"
            )
