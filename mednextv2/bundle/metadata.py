"""The facts in a bundle's metadata that other parts need: its name, its version and the modality of its images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mednextv2.text_files import read_json

_DICOM_MODALITIES = {"MRI": "MR", "PET": "PT"}  # common names of modalities, and DICOM's codes


@dataclass(frozen=True)
class BundleFacts:
    """Facts about a bundle.

    Attributes:
        name: The name of its folder.
        version: Its version; empty if the metadata do not give it.
        modalities: DICOM's codes of the modalities that its images may have, such as `CT`; empty if the metadata do not
            give them, or give them in words.
    """

    name: str
    version: str
    modalities: tuple[str, ...]


def is_without_labels(root: Path) -> bool:
    """Tell whether a bundle trains a network without labels, for others to fine-tune.

    Args:
        root: The bundle's folder.

    Raises:
        InputError: When the metadata cannot be read.
    """
    return _read(root).get("label_classes") == "none"


def read_facts(root: Path) -> BundleFacts:
    """Read `configs/metadata.json`.

    Args:
        root: The bundle's folder.

    Raises:
        InputError: When the file cannot be read.
    """
    image: Any = _read(root)
    version = image.get("version")
    for key in ("network_data_format", "inputs", "image", "modality"):
        image = image.get(key) if isinstance(image, dict) else None
    words = image.replace("/", ",").split(",") if isinstance(image, str) else []
    codes = [_DICOM_MODALITIES.get(word.strip().upper(), word.strip().upper()) for word in words]
    known = tuple(code for code in codes if len(code) == 2 and code.isalpha())
    return BundleFacts(
        root.resolve().name, version if isinstance(version, str) else "", known if len(known) == len(codes) else ()
    )


def _read(root: Path) -> dict[str, Any]:
    """Return the metadata of a bundle; they are empty if it has none, or none that are a mapping."""
    file = root / "configs" / "metadata.json"
    content = read_json(file) if file.is_file() else {}
    return content if isinstance(content, dict) else {}
