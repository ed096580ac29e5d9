"""Running of a bundle's workflows: MONAI's `run` with the files found and the settings checked."""

import difflib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.bundle import run as monai_run

from mednextv2.bundle.build import OVERLAYS
from mednextv2.bundle.task import is_rewritten, texts_in
from mednextv2.errors import InputError, UsageError
from mednextv2.paths import PATHS, absolute

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
    places = [absolute(bundle), Path("bundles") / bundle, Path(__file__).parents[2] / "bundles" / bundle]
    with suppress(RuntimeError, KeyError):  # of a user without a home folder
        places.append(Path(torch.hub.get_dir()) / "bundle" / bundle)
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
        UsageError: For a workflow that the bundle does not have.
    """
    names = ["train", workflow] if workflow in OVERLAYS else [workflow]
    files = []
    for name in names:
        found = [f for s in (".yaml", ".yml", ".json") if (f := root / "configs" / f"{name}{s}").is_file()]
        if not found or name == "metadata":
            known = sorted({f.stem for f in (root / "configs").glob("*.*") if f.suffix in (".yaml", ".yml", ".json")})
            peers = {"predict": "inference", "val": "evaluate", "validate": "evaluate", "test": "evaluate"}
            near = difflib.get_close_matches(peers.get(workflow, workflow), known, n=1)
            raise UsageError(
                f"{root}: has no workflow {workflow!r}; it has {', '.join(k for k in known if k != 'metadata')}"
                + (f"; did you mean {near[0]}?" if near else "")
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
        raise UsageError("\n".join(problems))


def as_setting(key: str, value: Any) -> Any:
    """Return a setting in a form that MONAI's configuration parser leaves as it is.

    The parser evaluates a text that begins with `$`, looks up one that begins with `@` or `%`, and rewrites `#`. A path
    therefore becomes a `Path`, which it does not touch; it is absolute, so that it means the same whatever happens to
    the working directory. Other texts with such signs are refused, except in nested settings such as
    `train::trainer::max_epochs`, which are parts of MONAI's language themselves.

    Args:
        key: The name of the setting.
        value: Its value.

    Raises:
        InputError: If a path is missing, or a text would be evaluated.
    """
    if value is None:
        return "$None"  # MONAI drops None, so that nothing could be set to nothing
    if key in PATHS:
        several = isinstance(value, (list, tuple))
        if not all(isinstance(v, (str, os.PathLike)) and str(v) != "" for v in (value if several else [value])):
            raise UsageError(f"--{key} {value!r}: needs a path")
        return [absolute(v) for v in value] if several else absolute(value)
    if "::" in key or "#" in key:
        return value
    if rewritten := [text for text in texts_in(value) if is_rewritten(text)]:
        raise UsageError(
            f"--{key} {rewritten[0]}: MONAI would evaluate this text, since it holds # or starts with $, @ or %; give "
            "the value itself, or use python -m monai.bundle run, where expressions are allowed"
        )
    return value


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
    overrides.setdefault("bundle_root", root)
    logging_file = str(overrides.pop("logging_file", root / "configs" / "logging.conf"))
    meta_file = str(overrides.pop("meta_file", root / "configs" / "metadata.json"))
    monai_run(config_file=files, meta_file=meta_file, logging_file=logging_file, **overrides)
