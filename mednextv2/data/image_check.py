"""The integrity check of images without labels: those that cannot be used stop the training, or are left out."""

import csv
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch.distributed as dist
from tqdm import tqdm

from mednextv2.data.cases import Case, DatasetFolder
from mednextv2.data.check import check_image
from mednextv2.data.image_folders import SPLIT_ADVICE
from mednextv2.distributed import is_main_process
from mednextv2.errors import InputError
from mednextv2.images.itk_loading import load_itk_for
from mednextv2.images.volume import read_volume
from mednextv2.paths import expand, prepare_folder, writing
from mednextv2.wording import count

logger = logging.getLogger(__name__)

#: What happens to an image that is damaged, constant or not one of one channel.
DEFECTIVE = ("stop", "exclude")
#: The list of images that were left out, in the folder of the results.
LEFT_OUT_NAME = "left_out.csv"
_LISTED = 50  # largest number of defects in a message


def check_images(
    dataset: DatasetFolder,
    check_data: bool = True,
    defective: str = "stop",
    output_dir: str | os.PathLike | None = None,
    workers: int = 4,
) -> DatasetFolder:
    """Read every image, and return those that can be used.

    Under `torch.distributed`, rank 0 reads the files and the other ranks wait for its result.

    Args:
        dataset: The images: see :func:`mednextv2.data.read_image_folders`.
        check_data: Whether to read them at all; if not, all are returned.
        defective: `stop`: an image with a defect ends the training; `exclude`: it is left out.
        output_dir: The folder in which the names of images that were left out are listed, with the reasons, as
            :data:`LEFT_OUT_NAME`.
        workers: Threads that read files.

    Returns:
        The images without those that are left out.

    Raises:
        InputError: If there are defects and they stop the training, with one line for each; or if no image is left.
    """
    found: list[tuple[str, str, str]] = []
    if check_data and is_main_process():
        load_itk_for(file for case in dataset.cases for file in case.images)
        with ThreadPoolExecutor(workers) as pool:
            defects = tqdm(
                pool.map(find_defect, dataset.cases), total=len(dataset.cases), desc="checking the images",
                unit="image", mininterval=1,
            )  # fmt: skip
            found = [(c.name, c.images[0], d) for c, d in zip(dataset.cases, defects, strict=True) if d]
    if dist.is_available() and dist.is_initialized():
        box: list[Any] = [found]
        dist.broadcast_object_list(box, src=0)
        found = box[0]
    if found and defective != "exclude":
        raise InputError(
            "\n".join(
                [
                    f"{count(len(found), 'image')} of {len(dataset.cases)} cannot be used: mend or remove them, or "
                    "leave them out with --defective exclude"
                ]
                + [f"- {defect}" for _, _, defect in found[:_LISTED]]
                + [f"- … and {len(found) - _LISTED} more"] * (len(found) > _LISTED)
            )
        )
    if len(found) == len(dataset.cases):
        raise InputError(f"dataset_dir {dataset.path}: none of its images can be used; the first: {found[0][2]}")
    if output_dir is not None and is_main_process():
        _write_list(output_dir, found)
    left_out = {name for name, _, _ in found}
    return replace(dataset, cases=tuple(case for case in dataset.cases if case.name not in left_out))


def find_defect(case: Case) -> str:
    """Return what makes an image unusable, with its file and what to do; an empty text if nothing does.

    Args:
        case: The image, of one channel or with the number of one.
    """
    file, channel = case.images[0], getattr(case, "channel", None)
    try:
        array, affine = read_volume(file)
    except InputError as e:
        return str(e)
    several = array.ndim > 3
    if channel is not None and several:
        array = array[..., channel]
    if problems := check_image(array, affine, 1, 3):
        split = f"; {SPLIT_ADVICE}" if several and channel is None else ""
        where = f" (channel {channel})" if channel is not None else ""
        return f"{file}{where}: {'; '.join(problems)}{split}"
    return f"{file}: has no content: every voxel is 0" if not np.any(array) else ""


def _write_list(output_dir: str | os.PathLike, found: Sequence[tuple[str, str, str]]) -> None:
    file = expand(output_dir) / LEFT_OUT_NAME
    if not found:
        file.unlink(missing_ok=True)  # of an earlier run
        return
    prepare_folder(output_dir, "output_dir")
    with writing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["case", "file", "reason"])
        writer.writerows(found)
    logger.warning("%s cannot be used and left out: %s lists them with the reasons", count(len(found), "image"), file)
