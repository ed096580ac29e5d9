"""Download of a task of the Medical Segmentation Decathlon with MONAI's own function and checksums."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from monai.apps import DecathlonDataset, download_url, extractall

from mednextv2.errors import InputError, find_full_disk
from mednextv2.paths import prepare_folder


def fetch_msd_task(task: str, folder: str | os.PathLike, url: str | None = None, md5: str | None = None) -> Path:
    """Fetch an MSD task, unless it is there already.

    Args:
        task: A name such as `"Task04_Hippocampus"`.
        folder: The folder for the archive and the task's folder.
        url: The address of the archive on a mirror, instead of MONAI's address.
        md5: The checksum of that archive, instead of MONAI's.

    Returns:
        The task's folder, with `dataset.json`.

    Raises:
        InputError: If MONAI does not know the task, or if the download fails, has another checksum or does not contain
            the task. Nothing is left on the disk in these cases.
    """
    target = Path(folder) / task
    if (target / "dataset.json").is_file():
        return target
    if task not in DecathlonDataset.resource:
        known = ", ".join(DecathlonDataset.resource)
        raise InputError(f"{task}: is none of the tasks of the Medical Segmentation Decathlon: {known}")
    address = url or DecathlonDataset.resource[task]
    archive = Path(folder) / f"{task}.tar"
    try:
        prepare_folder(folder, "folder")
        archive.unlink(missing_ok=True)  # left by an earlier attempt
        download_url(address, archive, hash_val=md5 or DecathlonDataset.md5[task], hash_type="md5", progress=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as partial:
            extractall(archive, partial, file_type="tar", has_base=False)
            if not (Path(partial) / task / "dataset.json").is_file():
                raise InputError(f"{address}: the archive holds no {task}/dataset.json")
            shutil.rmtree(target, ignore_errors=True)  # incomplete, since it has no dataset.json
            (Path(partial) / task).rename(target)
    except InputError:
        raise
    except Exception as e:  # MONAI, urllib and tarfile raise their own exceptions, some of them plain Exceptions
        if full := find_full_disk(e):
            raise InputError(
                f"{folder}: {task} cannot be written ({full.strerror}); make room, or choose another folder"
            ) from e
        detail = " ".join(str(e).split())[:300]
        raise InputError(
            f"{task}: could not be downloaded from {address} to {folder} ({type(e).__name__}: {detail})"
        ) from e
    finally:
        with suppress(OSError):
            archive.unlink(missing_ok=True)
    return target
