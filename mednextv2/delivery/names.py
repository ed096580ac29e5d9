"""Names and versions of packed bundles, as MONAI's download command reads them."""

import re

from mednextv2.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_VERSION = re.compile(r"\d\.\d\.\d")
_KEY = re.compile(r"(?P<name>.+)_v(?P<version>\d[\w.+-]*)")


def check_name(name: str) -> None:
    """Raise an InputError for a name of a bundle under which MONAI's download command would not find it.

    The command takes `_v` for the beginning of the version, and the name is a part of addresses.

    Args:
        name: The name of the bundle.
    """
    if "_v" in name:
        raise InputError(
            f"{name}: the name holds \"_v\", where MONAI's download command cuts the version off; rename the bundle's "
            "folder"
        )
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r}: the name of a bundle may only have the letters A to Z and a to z, digits, _ and -, since it "
            "becomes a part of addresses; rename the bundle's folder"
        )


def check_version(version: str, where: str) -> None:
    """Raise an InputError for a version that does not sort as text, as MONAI's download command sorts versions.

    Args:
        version: The version.
        where: The file with the version, for the message.
    """
    if not _VERSION.fullmatch(version):
        raise InputError(
            f"{where}: the version {version!r} should be three digits with points, such as 0.1.0. MONAI's download "
            "command sorts versions as text and would take 0.9.0 for newer than 0.10.0; choose 1.0.0 after 0.9.9"
        )


def versioned(name: str, version: str) -> str:
    """Return the name of a version of a bundle, as in `model_info.json` and in the name of its archive.

    Example:
        >>> versioned("mednextv2_liver", "0.1.0")
        'mednextv2_liver_v0.1.0'
    """
    return f"{name}_v{version}"


def split_versioned(text: str) -> tuple[str, str] | None:
    """Split what :func:`versioned` returned into name and version; None for another text.

    Example:
        >>> split_versioned("mednextv2_liver_v0.1.0")
        ('mednextv2_liver', '0.1.0')
    """
    match = _KEY.fullmatch(text)
    return (match["name"], match["version"]) if match else None


def sort_key(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, by which versions sort as people expect it, also those of other projects.

    Example:
        >>> max(["0.9.0", "0.10.0", "0.2.1"], key=sort_key)
        '0.10.0'
    """
    return tuple(int(digits) for digits in re.findall(r"\d+", version))
