"""The content of a repository at Hugging Face: one repository for each bundle, one tag for each version."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from mednextv2.bundle.task import Task
from mednextv2.delivery.folders import put_in_place, writing_folder
from mednextv2.delivery.manifest import MANIFEST, manifest_text

_README = "docs/README.md"
_CARD = "README.md"
#: Licences that Hugging Face knows, by its identifiers.
_CREATIVE_COMMONS = re.compile(r"cc[ -]by(-nc)?(-sa|-nd)?[ -](\d\.\d)", re.IGNORECASE)
_OTHERS = {
    "apache-2.0": "apache-2.0",
    "apache license 2.0": "apache-2.0",
    "mit": "mit",
    "bsd-3-clause": "bsd-3-clause",
    "cc0": "cc0-1.0",
    "cc0 1.0": "cc0-1.0",
    "cc0-1.0": "cc0-1.0",
}


def weights_licence(task: Task) -> str:
    """Return the licence of a bundle's weights in words: that of the data, unless the task gives another."""
    return str(task.public.get("weights_license") or task.public["data_license"])


def licence_identifier(licence: str) -> str:
    """Return Hugging Face's identifier of a licence; `other` for words that say more than the name of one.

    Example:
        >>> licence_identifier("CC-BY-SA 4.0"), licence_identifier("MIT"), licence_identifier("not stated")
        ('cc-by-sa-4.0', 'mit', 'other')
    """
    text = licence.strip()
    if match := _CREATIVE_COMMONS.fullmatch(text):
        return f"cc-by{match[1] or ''}{match[2] or ''}-{match[3]}".lower()
    return _OTHERS.get(text.lower(), "other")


def model_card(task: Task, readme: str) -> str:
    """Return the model card of a bundle.

    Args:
        task: The facts of the bundle.
        readme: The README of the bundle, which becomes the text of the card.
    """
    licence = weights_licence(task)
    identifier = licence_identifier(licence)
    facts: dict[str, object] = {"license": identifier}
    if identifier == "other":
        link = _CARD if "weights_license" in task.public else "docs/data_license.txt"
        facts |= {"license_name": "see-licence-of-the-weights", "license_link": link}
    segments = task.objective == "segmentation"
    facts |= {"library_name": "monai", "pipeline_tag": "image-segmentation" if segments else "image-feature-extraction"}
    facts |= {"tags": _tags(task)}
    title, _, text = readme.partition("\n")
    purpose = "segment images" if segments else "evaluate its weights"
    workflow, words = ("inference", "--input IMAGE --output_dir MASKS") if segments else (
        "evaluate", "--dataset_dir IMAGES --output_dir RESULTS"
    )  # fmt: skip
    return (
        f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n\n{title}\n\n"
        f"Version {task.public['version']}. Licence of the weights: {licence}. The code has the licence Apache-2.0.\n\n"
        f"Download this bundle and {purpose} with MONAI; the package mednextv2 is part of the bundle:\n\n"
        "```\n"
        f"python -m monai.bundle download --name {task.name} --source huggingface_hub --repo OWNER/{task.name} \\\n"
        f"  --version {task.public['version']} --bundle_dir bundles\n"
        f"python -m monai.bundle run --config_file bundles/{task.name}/configs/{workflow}.json \\\n"
        f"  --bundle_root bundles/{task.name} {words}\n"
        f"```\n{text}"
    )


def _tags(task: Task) -> list[str]:
    modality = str(task.public["modality"]).lower()
    return ["monai", "medical", "segmentation", "mednext", *re.findall(r"[a-z0-9]+", modality)]


def write_repository(target: Path, task: Task, files: Mapping[str, bytes | Path]) -> Path:
    """Write the content of a repository: the files of a pack, and the model card as its `README.md`.

    Args:
        target: The folder, which is replaced as a whole.
        task: The facts of the bundle.
        files: The files of the pack: see :func:`mednextv2.delivery.packing.collect_pack`.

    Returns:
        The folder.

    Raises:
        InputError: If the disk is full or the folder cannot be written.
    """
    readme = files[_README]
    card = model_card(task, readme.decode() if isinstance(readme, bytes) else readme.read_text(encoding="utf-8"))
    whole = {path: content for path, content in files.items() if path != MANIFEST} | {_CARD: card.encode()}
    whole[MANIFEST] = manifest_text(whole).encode()
    with writing_folder(target, "output") as temporary:
        for path, content in whole.items():
            file = temporary / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                shutil.copyfile(content, file)
        put_in_place(temporary, target, None)
    return target
