"""Running of a bundle's workflows: MONAI's `run` with the files found and the settings checked."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.bundle import run as monai_run

from mednextv2.bundle.build import OVERLAYS
from mednextv2.errors import InputError

_PATHS = ("dataset_dir", "output_dir", "input", "weights", "pretrained", "bundle_root")
_RUN_ARGUMENTS = ("run_id", "init_id", "final_id", "meta_file", "logging_file")  # MONAI's own, passed through


def find_bundle(bundle: str | os.PathLike) -> Path:
    """Find a bundle's folder.

    Args:
        bundle: Its path, or its name: then it is looked for in `bundles/`, beside the installed package (a source
            checkout), and where `python -m monai.bundle download` puts bundles by default.

    Returns:
        The folder, absolute.

    Raises:
        InputError: When there is none; the message says where was looked.
    """
    places = [
        Path(bundle).expanduser(),
        Path("bundles") / bundle,
        Path(__file__).parents[2] / "bundles" / bundle,
        Path(torch.hub.get_dir()) / "bundle" / bundle,
    ]
    for place in places:
        if (place / "configs").is_dir():
            return place.resolve()
    looked = ", ".join(str(p.absolute()) for p in places)
    raise InputError(f"bundle {bundle}: no folder with configs at {looked}. Give the path of the bundle's folder")


def workflow_files(root: Path, workflow: str) -> list[str]:
    """Return the configuration files of a workflow, in the order in which MONAI merges them.

    Args:
        root: The bundle's folder.
        workflow: `train`, `evaluate`, `inference`, or an overlay of train such as `multi_gpu_train`.

    Raises:
        InputError: For a workflow that the bundle does not have.
    """
    names = ["train", workflow] if workflow in OVERLAYS else [workflow]
    files = []
    for name in names:
        found = [f for s in (".yaml", ".yml", ".json") if (f := root / "configs" / f"{name}{s}").is_file()]
        if not found or name == "metadata":
            known = sorted({f.stem for f in (root / "configs").glob("*.*") if f.suffix in (".yaml", ".yml", ".json")})
            raise InputError(
                f"{root}: has no workflow {workflow!r}; it has {', '.join(k for k in known if k != 'metadata')}"
            )
        files.append(str(found[0]))
    return files


def check_overrides(files: list[str], overrides: dict[str, Any], more: Sequence[str] = ()) -> None:
    """Raise an InputError for settings that the configuration does not have, with the names that come near.

    Args:
        files: Configuration files.
        overrides: Settings by name; `::` and `#` lead into nested ones.
        more: Further names that exist.
    """
    parser = ConfigParser()
    parser.read_config(files)
    config: Any = parser.config  # a dictionary, since it was read from files
    known = [*more, *(k for k in config if k != parser.meta_key)]
    problems = []
    for key in overrides:
        if key in _RUN_ARGUMENTS:
            continue
        parts = key.replace("#", "::").split("::")
        node: Any = config
        for part in parts:
            if isinstance(node, dict) and part in node:
                node = node[part]
            elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            else:
                names = list(node) if isinstance(node, dict) and part != parts[0] else known
                near = difflib.get_close_matches(part, [str(n) for n in names], n=3)
                before, after = key.split(part, 1)
                near = [f"--{before}{name}{after}" for name in near]
                hint = f"did you mean {' or '.join(near)}?" if near else f"see {files[0]}"
                problems.append(f"--{key}: there is no such setting; {hint}")
                break
    if problems:
        raise InputError("\n".join(problems))


def as_setting(key: str, value: Any) -> Any:
    """Return a setting as MONAI's configuration parser wants it.

    Undoes what the command line's parser makes of a value.
    """
    if key in _PATHS and value is not None:
        if isinstance(value, bool) or value == "":
            raise InputError(f"--{key}: needs a path")
        # a folder named 2024 arrives as a number
        return [str(v) for v in value] if isinstance(value, (list, tuple)) else str(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return "$None" if value is None else value  # MONAI drops None, so that nothing could be set to nothing


def run_bundle(bundle: str | os.PathLike, workflow: str, **overrides: Any) -> None:
    """Run a workflow of a bundle, which sets up the process for itself: docs/predict.md says how.

    Args:
        bundle: Path or name: see :func:`find_bundle`.
        workflow: `train`, `evaluate`, `inference` or `multi_gpu_train`.
        **overrides: Settings of the configuration; nested ones as `train::trainer::max_epochs`.

    Raises:
        InputError: For a bundle, workflow or setting that does not exist, and for whatever the workflow refuses.
    """
    root = find_bundle(bundle)
    files = workflow_files(root, workflow)
    check_overrides(files, overrides)
    overrides = {key: as_setting(key, value) for key, value in overrides.items()}
    overrides.setdefault("bundle_root", str(root))
    logging_file = overrides.pop("logging_file", str(root / "configs" / "logging.conf"))
    meta_file = overrides.pop("meta_file", str(root / "configs" / "metadata.json"))
    monai_run(config_file=files, meta_file=meta_file, logging_file=logging_file, **overrides)
