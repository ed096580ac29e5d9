"""Building of a bundle: `task.yaml` (facts) and recipes (workflow) joined as text.

Every configuration consists of the task's facts and then the recipes in :data:`RECIPES`, so that a reader finds
everything in one file and in reading order, and comments survive. There is no template language: whatever differs
between tasks is a fact, and the configurations refer to facts by name. Overlays (`finetune.yaml`,
`multi_gpu_train.yaml`) and `logging.conf` are copied unchanged.
"""

import json
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Any

from mednextv2.bundle.readme import autoencoding_readme, readme_text
from mednextv2.bundle.task import AUTOENCODING, Task, read_task
from mednextv2.nets.legal_sizes import DIVISOR
from mednextv2.paths import new_folder, writing
from mednextv2.version import __version__

#: The recipes of each workflow: the one that all share, its own, and the one that evaluation and inference share.
RECIPES = {
    "train": ("common", "train"),
    "evaluate": ("common", "evaluate", "prediction"),
    "inference": ("common", "inference", "prediction"),
}
#: The same of bundles for masked autoencoding. Of the recipe that all others share, they have the part about the device
#: and the network's settings: see :func:`_recipe_part`.
AUTOENCODING_RECIPES = {
    "train": ("mae_common", ("common", "device", "experiment"), "mae_network", "mae_train"),
    "evaluate": ("mae_common", ("common", "device", "experiment"), "mae_network", "mae_evaluate"),
}
#: Overlays of train, in the order in which they are merged.
OVERLAYS = ("finetune", "multi_gpu_train")
#: Overlays that only those bundles have whose task asks for them; merged before the others.
OPTIONAL_OVERLAYS = ("pretrain",)
#: The ready-made collections of data sets of bundles with the overlay pretrain.
COLLECTIONS = ("cads", "totalsegmentator")
AUTOENCODING_OVERLAYS = {"multi_gpu_train": "mae_multi_gpu_train"}
_SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
#: The packages in the metadata, with the versions of constraints.txt for Python 3.10, which all Pythons can install.
_TESTED = {
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "numpy_version": "2.2.6",
}
_PACKAGES = {
    "nibabel": "5.4.2",
    "pytorch-ignite": "0.5.5",
    "fire": "0.7.1",
    "itk": "5.4.7",
    "pydicom": "3.0.2",
    "scipy": "1.15.3",
}


def build_bundle(task_file: str | os.PathLike) -> dict[str, str]:
    """Build the text of every generated file of a bundle.

    Args:
        task_file: The bundle's `task.yaml`.

    Returns:
        Text by path relative to the bundle's folder.

    Raises:
        InputError: If the facts are incomplete or impossible.
    """
    task = read_task(task_file)
    autoencoding = task.objective == AUTOENCODING
    recipes = AUTOENCODING_RECIPES if autoencoding else RECIPES
    overlays = AUTOENCODING_OVERLAYS if autoencoding else {name: name for name in (*OVERLAYS, *task.overlays)}
    files = {f"configs/{name}.yaml": _configuration(task, name, recipes[name]) for name in recipes}
    files |= {f"configs/{name}.yaml": _recipe(f"{recipe}.yaml") for name, recipe in overlays.items()}
    if "pretrain" in overlays:
        files |= {f"collections/{name}.yaml": _recipe(f"collections/{name}.yaml") for name in COLLECTIONS}
    files["configs/metadata.json"] = json.dumps(_metadata(task), indent=4, ensure_ascii=False) + "\n"
    files["configs/logging.conf"] = _recipe("logging.conf")
    files["docs/README.md"] = (
        autoencoding_readme(task, _recipe("mae_README.md")) if autoencoding else readme_text(task, _recipe("README.md"))
    )
    files["docs/data_license.txt"] = f"{task.public['data_source']}\n{task.public['data_license']}\n"
    files["LICENSE"] = _recipe("LICENSE")
    return files


def write_bundle(task_file: str | os.PathLike, check: bool = False) -> list[str]:
    """Write a bundle's generated files beside its `task.yaml`, or check whether they are up to date.

    Args:
        task_file: The bundle's `task.yaml`.
        check: Only compare the files, and write nothing.

    Returns:
        The files that were changed, or with `check` would be changed, relative to the bundle's folder.

    Raises:
        InputError: When the facts are incomplete or impossible, or a file cannot be written.
    """
    folder = Path(task_file).resolve().parent
    built = build_bundle(task_file)
    changed = [name for name, text in built.items() if not _holds(folder / name, text)]
    if not check:
        with ExitStack() as stack:  # all files are renamed at its end, so that a full disk leaves the old ones
            for name in changed:
                stack.enter_context(new_folder((folder / name).parent, "bundle"))
            for name in changed:
                temporary = stack.enter_context(writing(folder / name))
                temporary.write_text(built[name], encoding="utf-8")
    return changed


def _holds(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text


def _recipe(name: str) -> str:
    return resources.files("mednextv2.recipes").joinpath(name).read_text(encoding="utf-8")


def _recipe_part(name: str, first: str, last: str) -> str:
    """Return the lines of a recipe from one of its entries to another, both included."""
    text = _recipe(f"{name}.yaml")
    start = text.index(f"\n{first}:") + 1
    end = re.compile(r"\n(?=\S|\Z)").search(text, text.index(f"\n{last}:") + 1)
    return text[start : end.end() if end else None]


def _configuration(task: Task, workflow: str, recipes: Sequence[str | tuple[str, str, str]]) -> str:
    header = f"# {workflow} of the bundle {task.name}. Built from task.yaml and the recipes of mednextv2: edit those,\n"
    header += "# then run: python -m mednextv2 bundle task.yaml\n"
    parts = [_recipe(f"{name}.yaml") if isinstance(name, str) else _recipe_part(*name) for name in recipes]
    return header + task.text + "".join(parts)


def _metadata(task: Task) -> dict[str, Any]:
    facts, public = task.workflow, task.public
    axes = len(facts["patch_size"])
    shape = [f"{DIVISOR}*n"] * axes
    classes, outputs = _classes(task)
    return {
        "schema": _SCHEMA,
        "version": public["version"],
        "changelog": public["changelog"],
        **_TESTED,
        "required_packages_version": {**_PACKAGES, "mednextv2": __version__},
        "supported_apps": {},
        "name": public["title"],
        "task": public["task"],
        "description": public["description"],
        "authors": public["authors"],
        "copyright": public["copyright"],
        "data_source": public["data_source"],
        "data_type": "nifti, nrrd, mha",
        "image_classes": f"{len(facts['channels'])} channel(s): {', '.join(facts['channels'])}",
        **classes,
        "intended_use": public["intended_use"],
        "references": public["references"],
        **({"eval_metrics": public["eval_metrics"]} if "eval_metrics" in public else {}),
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": public["modality"],
                    "num_channels": len(facts["channels"]),
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(i): name for i, name in enumerate(facts["channels"])},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "magnitude" if task.objective == AUTOENCODING else "segmentation",
                    "num_channels": task.outputs,
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": outputs,
                }
            },
        },
    }


def _classes(task: Task) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the metadata say about labels and predictions, and the meaning of each output."""
    if task.objective == AUTOENCODING:
        outputs = {str(i): f"reconstruction of {name}" for i, name in enumerate(task.workflow["channels"])}
        return {"label_classes": "none", "pred_classes": ", ".join(outputs.values())}, outputs
    scheme = task.scheme()
    labels = {str(i): name for i, name in enumerate(task.workflow["labels"])}
    outputs = {str(i): name for i, name in enumerate(scheme.foreground)} if scheme.regions else labels
    classes = {
        "label_classes": ", ".join(f"{i} {name}" for i, name in labels.items()),
        "pred_classes": f"{scheme.outputs} channels, one a {'region' if scheme.regions else 'class'}",
    }
    return classes, outputs
