"""Download of a task of the Medical Segmentation Decathlon with MONAI's own function and checksums."""

import os
from pathlib import Path

from monai.apps import DecathlonDataset, download_and_extract

from mednextv2.errors import InputError


def fetch_msd_task(task: str, folder: str | os.PathLike, url: str | None = None, md5: str | None = None) -> Path:
    """Fetch an MSD task, unless it is there already.

    Args:
        task: A name such as `"Task04_Hippocampus"`.
        folder: Where the archive and the task's folder go.
        url: Another address of the archive than MONAI's, for a mirror.
        md5: The checksum of that archive, instead of MONAI's.

    Returns:
        The task's folder, with `dataset.json`.

    Raises:
        InputError: For a task that MONAI does not know, or when the download fails or has another checksum.
    """
    target = Path(folder) / task
    if (target / "dataset.json").is_file():
        return target
    if task not in DecathlonDataset.resource:
        known = ", ".join(DecathlonDataset.resource)
        raise InputError(f"{task}: is none of the tasks of the Medical Segmentation Decathlon: {known}")
    archive = Path(folder) / f"{task}.tar"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        download_and_extract(
            url=url or DecathlonDataset.resource[task],
            filepath=archive,
            output_dir=folder,
            hash_val=md5 or DecathlonDataset.md5[task],
            hash_type="md5",
            progress=True,
        )
    except (OSError, RuntimeError) as e:  # urllib's errors are OSErrors; a wrong checksum is a RuntimeError
        archive.unlink(missing_ok=True)
        raise InputError(f"{task}: could not be downloaded from {url or DecathlonDataset.resource[task]} ({e})") from e
    if not (target / "dataset.json").is_file():
        raise InputError(f"{archive}: holds no {task}/dataset.json")
    return target
