"""What a `dataset.json` says about labels, channels and the data set, checked before it is used."""

import re
from pathlib import Path
from typing import Any

from mednextv2.errors import InputError
from mednextv2.label_scheme import MAX_LABELS, MAX_NAME, is_name, is_whole
from mednextv2.text_files import read_json
from mednextv2.wording import brief

_NUMBER = re.compile("[0-9]{1,20}")


def read_description(folder: Path) -> dict[str, Any]:
    """Read the `dataset.json` of a folder.

    Raises:
        InputError: When it is missing, or is not a JSON object.
    """
    file = folder / "dataset.json"
    if not file.is_file():
        inside = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise InputError(
            f"{folder}: has no dataset.json (it holds {inside}). Give the folder of an MSD task or of an nnU-Net data "
            "set: dataset.json, imagesTr, labelsTr; or one with two folders of equal file names: images, labels"
        )
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: should hold one JSON object, but holds a {type(content).__name__}")
    return content


def channel_names(description: dict[str, Any], file: Path) -> list[str]:
    """Return the names of the image channels, in order; the list is empty if nothing names them.

    Args:
        description: The content of the file.
        file: The file, which messages name.

    Raises:
        InputError: If it does not give a name for each channel number.
    """
    channels = _numbered(description.get("channel_names", description.get("modality", {})))
    whole = isinstance(channels, dict) and all(map(_NUMBER.fullmatch, channels))
    if not whole or len({int(k) for k in channels}) < len(channels) or not all(map(is_name, channels.values())):
        raise InputError(
            f'{file}: "channel_names" (MSD: "modality") should map numbers to names, such as {{"0": "T1"}}, '
            f"but is {brief(channels)}"
        )
    return [channels[k] for k in sorted(channels, key=int)]


def label_values(description: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return what is declared as labels.

    Args:
        description: The content of the file.
        file: The file, which messages name.

    Returns:
        Label values by name; a region has a list of them. Empty if nothing is declared.

    Raises:
        InputError: If a name or value is not usable, or occurs twice.
    """
    labels = _numbered(description.get("labels", {}))
    if not isinstance(labels, dict):
        raise InputError(
            f'{file}: "labels" should map values to names, such as {{"0": "background", "1": "liver"}}, or (nnU-Net) '
            f"names to values, but is {brief(labels)}"
        )
    if all(map(_NUMBER.fullmatch, labels)):  # MSD: value to name
        pairs = [(name, int(value)) for value, name in labels.items()]
    else:  # nnU-Net: name to value, or to a region's values
        pairs = list(labels.items())
    named: dict[str, Any] = {}
    for name, entry in pairs:
        values = entry if isinstance(entry, list) else [entry]
        if not is_name(name):
            raise InputError(
                f'{file}: a name in "labels" should be a text of one line and up to {MAX_NAME} characters, '
                f"not {brief(name)}"
            )
        if not values or not all(is_whole(v) and 0 <= v < MAX_LABELS for v in values):
            raise InputError(
                f'{file}: the value of {brief(name)} in "labels" should be a whole number from 0 to {MAX_LABELS - 1}, '
                f"or a list of such, not {brief(entry)}"
            )
        if name in named:
            raise InputError(f'{file}: two values in "labels" have the name {brief(name)}; give each its own')
        named[name] = entry
    if len(single := [v for v in named.values() if is_whole(v)]) > len(set(single)):
        raise InputError(f'{file}: two names in "labels" have the same value; give each its own')
    return named


def _numbered(names: Any) -> Any:
    """Turn a list into the mapping from numbers to names that most files have."""
    return {str(number): name for number, name in enumerate(names)} if isinstance(names, list) else names


def about(description: dict[str, Any], file: Path) -> dict[str, str]:
    """Return the texts about the data set under `name`, `description`, `reference` and `licence`, if there are any.

    Args:
        description: The content of the file. Some files have a list of references.
        file: The file, which messages name.

    Raises:
        InputError: When one of them is not a text.
    """
    texts = {}
    for key in ("name", "description", "reference", "licence", "license"):
        value = description.get(key)
        parts = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(part, (str, int, float)) for part in parts):
            raise InputError(f'{file}: "{key}" should be a text, not {brief(value)}')
        texts[key] = ", ".join(map(str, parts))
    texts["licence"] = texts["licence"] or texts["license"]
    return {key: text for key, text in texts.items() if key != "license" and (text or key == "licence")}
