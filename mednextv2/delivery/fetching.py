"""Fetching of packed bundles: found, downloaded, verified, and only then put in the place of an older version."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mednextv2.bundle.metadata import read_facts
from mednextv2.delivery.folders import put_in_place, writing_folder
from mednextv2.delivery.manifest import MANIFEST, find_additions, find_changes, verify
from mednextv2.delivery.names import sort_key, versioned
from mednextv2.delivery.sources import Source, find_source
from mednextv2.errors import InputError
from mednextv2.locks import hold_folder, release_folder
from mednextv2.paths import absolute, new_folder
from mednextv2.text_files import read_json
from mednextv2.version import __version__
from mednextv2.weights.promotion import own_weights


@dataclass(frozen=True)
class Fetched:
    """What a fetch did.

    Attributes:
        folder: The bundle's folder.
        version: The version that is there now.
        before: The version that was there before, or None.
        kept: Where the folder of before is now, since it holds files of the user's; None if it holds none.
    """

    folder: Path
    version: str
    before: str | None = None
    kept: Path | None = None

    def describe(self) -> str:
        """Say in sentences what was done."""
        if self.before == self.version and self.kept is None:
            return f"{self.folder}: version {self.version} is there already, and is as it was packed"
        text = f"{self.folder}: version {self.version}, verified"
        if self.before is not None:
            text += f"; before, it was version {self.before}"
        if self.kept is not None:
            text += f", whose folder with your files is now {self.kept}"
        return text


def list_versions(name: str, source: str) -> list[str]:
    """Return the versions of a bundle at a source, the oldest first.

    Args:
        name: The name of the bundle.
        source: See :func:`mednextv2.delivery.sources.find_source`.

    Raises:
        InputError: If the source cannot be read or does not have the bundle.
    """
    return find_source(source).versions(name)


def fetch_bundle(name: str, folder: str | os.PathLike, source: str, version: str | None = None) -> Fetched:
    """Fetch a bundle, unless the version is there already.

    Args:
        name: The name of the bundle.
        folder: The folder in which the bundle's folder is created.
        source: See :func:`mednextv2.delivery.sources.find_source`.
        version: The version; None: the newest, which takes the place of an older one.

    Returns:
        What was done.

    Raises:
        InputError: If the bundle or version does not exist, cannot be verified, needs a newer mednextv2 than the one
            that is installed, or would take the place of a folder that was not fetched. What was there stays.
    """
    around = absolute(folder)
    target = around / name
    place = find_source(source)
    versions = place.versions(name)
    wanted = version or versions[-1]
    if wanted not in versions:
        raise InputError(f"{source}: has no version {wanted} of {name}; it has {', '.join(versions)}")
    with new_folder(around, "folder"):
        hold_folder(around, "FOLDER")
        try:
            return _fetch(place, name, target, wanted, source, version is None)
        finally:
            release_folder(around)


def _fetch(place: Source, name: str, target: Path, wanted: str, source: str, newest: bool) -> Fetched:
    before = _version_there(target)
    if before is not None:
        is_newer = newest and sort_key(before) > sort_key(wanted)
        if (before == wanted or is_newer) and not find_changes(target):
            return Fetched(target, before, before)
    with writing_folder(target, "folder") as temporary:
        new = place.get(name, wanted, temporary)
        verify(new, source)
        _check_content(new, wanted, source)
        kept = _place_of_before(target, before) if before is not None else None
        put_in_place(new, target, kept)
    return Fetched(target, wanted, before, kept)


def _version_there(target: Path) -> str | None:
    """Return the version of the bundle that is there, or None if there is none."""
    if not os.path.lexists(target):
        return None
    if not (target / MANIFEST).is_file():
        raise InputError(
            f"{target}: is there already and was not fetched, since it has no {MANIFEST}; it is left alone. Choose "
            "another folder, or rename this one"
        )
    return read_facts(target).version


def _place_of_before(target: Path, version: str) -> Path | None:
    """Return a free name for the folder of the version before, or None if it holds nothing of the user's."""
    if not find_changes(target) and not find_additions(target):
        return None
    names = [versioned(target.name, version), *(f"{versioned(target.name, version)}_{n}" for n in range(2, 1000))]
    return next(path for name in names if not os.path.lexists(path := target.with_name(name)))


def _check_content(new: Path, version: str, source: str) -> None:
    try:
        metadata: Any = read_json(new / "configs" / "metadata.json")
    except InputError as e:
        detail = str(e).replace(f"{new}/", "").partition("; ")[0]
        raise InputError(f"{source}: the bundle cannot be used ({detail}); tell its owner") from e
    stated = metadata.get("version") if isinstance(metadata, dict) else None
    if stated != version:
        raise InputError(f"{source}: the bundle says that it is version {stated}, not {version}; tell its owner")
    if not own_weights(new):
        raise InputError(f"{source}: the bundle has no weights (models/model.pt); tell its owner")
    packages = metadata.get("required_packages_version")
    needed = packages.get("mednextv2") if isinstance(packages, dict) else None
    if isinstance(needed, str) and sort_key(needed) > sort_key(__version__):
        raise InputError(
            f"{source}: version {version} needs mednextv2 {needed}, and {__version__} is installed. Install a newer "
            "mednextv2, or choose an older version of the bundle with --version (--list shows all)"
        )
