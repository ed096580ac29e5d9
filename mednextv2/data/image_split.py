"""The split of images without labels: few for validation, all others for training."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mednextv2.data.case_groups import describe_groups, group_cases
from mednextv2.data.cases import DatasetFolder
from mednextv2.data.split_files import NNUNET_NAME, Fold, read_split_file
from mednextv2.data.splits import Split
from mednextv2.distributed import is_main_process
from mednextv2.errors import InputError
from mednextv2.paths import prepare_folder, writing
from mednextv2.wording import count

logger = logging.getLogger(__name__)

#: What weights record as their objective if they were trained without labels.
OBJECTIVE = "masked autoencoding"
_SEED = 12345


@dataclass(frozen=True)
class ImageSplit(Split):
    """The images for training and for validation."""

    def about(self) -> dict[str, Any]:
        """Return the record for weights that are trained on these images, with their names.

        They are recorded as `images` and not as `training`: no label of them was seen, so that an evaluation of a
        network that is fine-tuned from the weights need not refuse to score them: see
        :func:`mednextv2.weights.provenance.unlabelled_cases`.
        """
        return {
            "objective": OBJECTIVE,
            "split": self.source,
            "images": [item["case"] for item in self.training],
            "validation": [item["case"] for item in self.validation],
        }


def validation_count(images: int) -> int:
    """Return how many images are for validation: one in a hundred, but at least 5 and at most 1000.

    Of fewer than ten images, it is half of them, rounded down, but at least one.

    Args:
        images: The number of images.

    Example:
        >>> [validation_count(n) for n in (2, 5, 10, 499, 1000, 200_000)]
        [1, 2, 5, 5, 10, 1000]

    Source:
        nnssl (`AbstractTrainer`): `min(1000, max(n / 100, 5))`; the rule for few images is ours.
    """
    return max(1, min(1000, max(images // 100, 5), images // 2))


def split_images(
    dataset: DatasetFolder,
    splits: str | os.PathLike | None = None,
    group: str | None = None,
    output_dir: str | os.PathLike | None = None,
) -> ImageSplit:
    """Decide which images are for training and which for validation, and log it.

    Patients are shuffled, always in the same way, and the first are for validation until there are enough images.

    Args:
        dataset: The images.
        splits: A file of splits, of which the first fold is used: see
            :func:`mednextv2.data.split_files.read_split_file`.
        group: A regular expression for the patient in an image's name: see
            :func:`mednextv2.data.case_groups.group_cases`.
        output_dir: The folder to which the split is written as nnU-Net's `splits_final.json`.

    Raises:
        InputError: If the images cannot be split.
    """
    cases = sorted(dataset.cases, key=lambda case: case.name)
    names = [case.name for case in cases]
    if splits is not None:
        chosen, source = read_split_file(splits, names)[0], f"the split is the first of {splits}"
    else:
        chosen, source = _by_rule(names, group)
    items = {case.name: case.as_item() for case in cases}
    training, validation = ([items[name] for name in sorted(side)] for side in chosen)
    split = ImageSplit(training, validation, 0, 1, source, dataset)
    logger.info(
        "Split: %s. %s for training, %s for validation.", source, count(len(training), "image"),
        count(len(validation), "image"),
    )  # fmt: skip
    if output_dir is not None and is_main_process():
        with writing(prepare_folder(output_dir, "output_dir") / NNUNET_NAME) as temporary:
            content = [{"train": sorted(chosen.training), "val": sorted(chosen.validation)}]
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return split


def _by_rule(names: Sequence[str], group: str | None) -> tuple[Fold, str]:
    groups = group_cases(names, group)
    patients = sorted({*groups})
    if len(patients) < 2:
        raise InputError(
            f"dataset_dir: holds {count(len(names), 'image')} of one patient, but training and validation need images "
            "of two; give more images, or tell patients apart with --group"
        )
    members: dict[str, list[str]] = {}
    for name, patient in zip(names, groups, strict=True):
        members.setdefault(patient, []).append(name)
    wanted = validation_count(len(names))
    validation: list[str] = []
    for index in np.random.RandomState(_SEED).permutation(len(patients))[:-1]:  # one patient is left for training
        if len(validation) >= wanted:
            break
        validation += members[patients[index]]
    chosen = {*validation}
    said = [sentence] if (sentence := describe_groups(names, groups)) else []
    said.append(
        "one image in a hundred is for validation, but at least 5 and at most 1000, and not more than half of all"
    )
    return Fold([name for name in names if name not in chosen], validation), "; ".join(said)


def held_out(dataset: DatasetFolder, about: Mapping[str, Any], score_trained_cases: bool = False) -> ImageSplit:
    """Choose the images on which weights are evaluated: those for validation, or else those that they have not seen.

    Args:
        dataset: The images.
        about: The record of the weights: see :meth:`ImageSplit.about`.
        score_trained_cases: Choose all images, also those that the weights were trained on.

    Returns:
        A split whose `validation` has the chosen images, and whose `training` has none.

    Raises:
        InputError: If the weights were trained on all images.
    """
    seen = {name for name in about.get("images", []) if isinstance(name, str)}
    own = {name for name in about.get("validation", []) if isinstance(name, str)}
    cases = sorted(dataset.cases, key=lambda case: case.name)
    unseen = [case for case in cases if case.name not in seen]
    chosen = [case for case in unseen if case.name in own] or unseen
    source = "the images are those of the training's validation" if own & {c.name for c in chosen} else (
        "the images are those that the weights were not trained on"
    )  # fmt: skip
    if score_trained_cases:
        chosen, source = cases, "all images are evaluated, also those that the weights were trained on"
    if not chosen:
        raise InputError(
            f"dataset_dir {dataset.path}: the weights were trained on all of its {count(len(cases), 'image')}; give "
            "other images, or evaluate these nevertheless with --score_trained_cases true"
        )
    logger.info("%s: %s", source, count(len(chosen), "image"))
    return ImageSplit([], [case.as_item() for case in chosen], 0, 1, source, dataset)
