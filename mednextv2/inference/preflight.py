"""What must be true before an evaluation or an inference starts."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple
from tqdm import tqdm

from mednextv2.allocator import keep_freed_memory
from mednextv2.data.cases import DatasetFolder
from mednextv2.data.check import check_dataset
from mednextv2.data.dataset import check_description
from mednextv2.data.header_check import check_headers
from mednextv2.errors import InputError
from mednextv2.images.itk_loading import load_itk_for
from mednextv2.images.writer import mask_path
from mednextv2.inference.inputs import CheckImaged
from mednextv2.label_scheme import LabelScheme
from mednextv2.paths import try_folder
from mednextv2.weights.provenance import (
    namesakes,
    overlapping,
    read_about,
    trained_cases,
    unlabelled_cases,
    warn_of_overlap,
)
from mednextv2.wording import count

logger = logging.getLogger(__name__)


def prepare_evaluation(
    dataset: DatasetFolder,
    cases: Sequence[Mapping[str, Any]],
    scheme: LabelScheme,
    channels: Sequence[str],
    spatial_dims: int,
    output_dir: str | os.PathLike,
    check_data: bool = True,
    weights: str | os.PathLike | Sequence[str | os.PathLike] = (),
    score_trained_cases: bool = False,
) -> None:
    """Check the output folder and the cases that will be scored.

    Since this is the first step of a workflow, it also lets the process's allocator keep freed memory: see
    :func:`mednextv2.keep_freed_memory`.

    Args:
        dataset: The data set, as read from `dataset_dir`.
        cases: The items that are scored.
        scheme: The meaning of the bundle's label values.
        channels: The bundle's channel names.
        spatial_dims: 2 or 3.
        output_dir: The folder for tables and predictions; created when the first is written.
        check_data: Whether to read every file and look for defects; of a collection, only their headers.
        weights: The files of weights that are scored.
        score_trained_cases: Whether cases that the weights were trained on only cause a warning.

    Raises:
        InputError: If the weights were trained on cases to be scored, and as in
            :func:`mednextv2.training.prepare_training`.
    """
    keep_freed_memory()
    try_folder(output_dir, "output_dir")
    check_description(dataset, scheme, channels)
    scored = {item["case"] for item in cases}
    _check_unseen(scored, ensure_tuple(weights), score_trained_cases)
    if check_data and dataset.parts:
        check_headers([c for c in dataset.cases if c.name in scored], channels, spatial_dims)
    elif check_data:
        check_dataset([c for c in dataset.cases if c.name in scored], scheme.declared, channels, spatial_dims)


def _check_unseen(scored: set[str], weights: Sequence[str | os.PathLike], allowed: bool) -> None:
    """Refuse scores of cases that were trained on: such scores say nothing about unseen images."""
    seen = sorted(scored & trained_cases(weights))
    for file in weights:
        about = read_about(file)
        if overlaps := overlapping(about):
            warn_of_overlap(str(file), overlaps, str(about.get("dataset")))
    if others := sorted(scored & namesakes(weights) - {*seen}):
        logger.warning(
            "%s: were pretrained on another data set with %s of the same names (%s%s); if these are the same images, "
            "their scores are too high", ", ".join(map(str, weights)), count(len(others), "case"),
            ", ".join(others[:3]), ", ..." * (len(others) > 3),
        )  # fmt: skip
    if unlabelled := sorted(scored & unlabelled_cases(weights) - {*seen}):
        logger.warning(
            "%s: were pretrained, without labels, on images of the names of %s to be scored (%s%s); if these are the "
            "same images, say so where the scores are reported", ", ".join(map(str, weights)),
            count(len(unlabelled), "case"), ", ".join(unlabelled[:3]), ", ..." * (len(unlabelled) > 3),
        )  # fmt: skip
    if not seen:
        return
    text = (
        f"{', '.join(map(str, weights))}: trained on {len(seen)} of the {count(len(scored), 'case')} to be scored "
        f"({', '.join(seen[:3])}{', …' if len(seen) > 3 else ''}), whose scores would be too high"
    )
    if not allowed:
        raise InputError(
            f"{text}. Score the fold that the weights were not trained on (--fold), give its weights (--weights), or "
            "score them nevertheless with --score_trained_cases true"
        )
    logger.warning("%s", text)


def prepare_inference(
    images: Sequence[dict[str, Any]],
    output_dir: str | os.PathLike,
    channels: int = 1,
    spatial_dims: int = 3,
    check_data: bool = True,
) -> None:
    """Check that masks can be written and that none would replace an image, and check all images.

    Since this is the first step of a workflow, it also lets the process's allocator keep freed memory: see
    :func:`mednextv2.keep_freed_memory`.

    Args:
        images: The items to be segmented: see :func:`mednextv2.inference.find_images`.
        output_dir: The folder for the masks; created when the first is written.
        channels: Number of channels of a case.
        spatial_dims: 2 or 3.
        check_data: Whether to read every file and look for defects.

    Raises:
        InputError: If the folder cannot be written, a mask would have the name of an image, or images have defects,
            with one line for each defect.
    """
    keep_freed_memory()
    try_folder(output_dir, "output_dir")
    inputs = {Path(file).resolve() for item in images for file in ensure_tuple(item["image"])}
    for item in images:
        first = ensure_tuple(item["image"])[0]
        mask = mask_path(output_dir, item["case"] if Path(first).is_dir() else first)
        if mask.resolve() in inputs:
            raise InputError(
                f"output_dir {output_dir}: the mask of {first} would replace {mask}, which is one of the images; "
                "choose another folder with --output_dir"
            )
    if check_data and len(images) > 1:  # a single image is checked when it is read
        check_images(images, CheckImaged("image", channels, spatial_dims))


def check_images(images: Sequence[Mapping[Any, Any]], check: CheckImaged) -> None:
    """Read all images and report every defect.

    Args:
        images: The items of the images.
        check: The check of one image.

    Raises:
        InputError: With one line for each defect.
    """
    defects = [text for text in find_defects(images, check) if text]
    if len(images) == 1 and defects:
        raise InputError(defects[0])
    if defects:
        lines = [f"{len(defects)} of {count(len(images), 'image')} cannot be segmented: mend or remove them"]
        raise InputError("\n".join(lines + [f"- {text}" for text in defects]))


def find_defects(images: Sequence[Mapping[Any, Any]], check: Callable[[Mapping[Any, Any]], Any]) -> list[str]:
    """Read all images, and say for each what is wrong with it; the text is empty if nothing is.

    Args:
        images: The items of the images.
        check: The check of one image, which raises an InputError.
    """

    def defect(item: Mapping[Any, Any]) -> str:
        try:
            check(item)
        except InputError as e:
            return str(e)
        return ""

    load_itk_for(file for item in images for file in ensure_tuple(item["image"]))
    with ThreadPoolExecutor(4) as pool:
        return list(tqdm(pool.map(defect, images), total=len(images), desc="checking the images", delay=1))
