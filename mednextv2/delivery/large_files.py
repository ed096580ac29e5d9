"""Weights beside an archive, for repositories that keep bundles without them, as MONAI's model zoo does."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from mednextv2.paths import new_folder, writing
from mednextv2.weights.files import digest_file

_LARGE = 10**6  # bytes; the model zoo keeps larger weights out of its repository


def write_large_files(
    output: Path, key: str, name: str, weights: Mapping[str, bytes | Path], address: str
) -> list[Path]:
    """Write copies of large weights, and `large_files.yml`, with which MONAI's `download_large_files` fetches them.

    Args:
        output: The folder with the archive; the copies are called `<key>_model.pt` and so on, and the other file is
            `large_files/<name>/large_files.yml`.
        key: Name and version of the bundle.
        name: Its name.
        weights: The files of weights, or their contents, by their paths in the bundle, such as `models/model.pt`.
        address: The address of the folder that will have the archive and the copies.

    Returns:
        What was written; nothing if no file of weights is larger than 1 MB.

    Raises:
        InputError: If the disk is full.
    """
    sizes = {path: len(file) if isinstance(file, bytes) else file.stat().st_size for path, file in weights.items()}
    large = {path: file for path, file in weights.items() if sizes[path] > _LARGE}
    if not large:
        return []
    copies, text = [], "large_files:\n"
    for path, file in large.items():
        copy = output / f"{key}_{Path(path).name}"
        with new_folder(output, "output"), writing(copy) as temporary:
            if isinstance(file, bytes):
                temporary.write_bytes(file)
            else:
                shutil.copyfile(file, temporary)
        copies.append(copy)
        text += f"- path: {path}\n  url: {address}/{copy.name}\n  hash_val: {digest_file(copy)}\n  hash_type: sha256\n"
    listing = output / "large_files" / name / "large_files.yml"
    with new_folder(listing.parent, "output"), writing(listing) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return [*copies, listing]
