"""Weights beside an archive, for repositories that keep bundles without them, as MONAI's model zoo does."""

import shutil
from pathlib import Path

from mednextv2.paths import new_folder, writing
from mednextv2.weights.files import digest_file

_LARGE = 10**6  # bytes; the model zoo keeps larger weights out of its repository


def write_large_files(output: Path, key: str, name: str, weights: Path, address: str) -> list[Path]:
    """Write a copy of large weights, and `large_files.yml`, with which MONAI's `download_large_files` fetches them.

    Args:
        output: The folder with the archive; the copy is called `<key>_model.pt`, and the other file is
            `large_files/<name>/large_files.yml`.
        key: Name and version of the bundle.
        name: Its name.
        weights: The file of weights.
        address: The address of the folder that will have the archive and the copy.

    Returns:
        What was written; nothing for weights of at most 1 MB.

    Raises:
        InputError: If the disk is full.
    """
    if weights.stat().st_size <= _LARGE:
        return []
    copy, listing = output / f"{key}_model.pt", output / "large_files" / name / "large_files.yml"
    with new_folder(output, "output"), writing(copy) as temporary:
        shutil.copyfile(weights, temporary)
    with new_folder(listing.parent, "output"), writing(listing) as temporary:
        temporary.write_text(
            "large_files:\n- path: models/model.pt\n"
            f"  url: {address}/{copy.name}\n  hash_val: {digest_file(copy)}\n  hash_type: sha256\n",
            encoding="utf-8",
        )
    return [copy, listing]
