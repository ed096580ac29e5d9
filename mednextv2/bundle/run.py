"""Running of a bundle's workflows: MONAI's `run`, after finding the files and checking the settings."""

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.bundle import run as monai_run

from mednextv2.bundle.build import OPTIONAL_OVERLAYS, OVERLAYS
from mednextv2.bundle.metadata import is_without_labels
from mednextv2.bundle.network_file import check_parts, explain_failure
from mednextv2.bundle.networks import (
    OWN_NETWORK,
    find_network,
    network_names,
    own_network,
    read_own,
    recorded_network,
)
from mednextv2.bundle.overrides import override_problems
from mednextv2.bundle.task import is_rewritten, texts_in
from mednextv2.errors import InputError, UsageError, find_input_error
from mednextv2.paths import PATHS, absolute
from mednextv2.text_files import MAX_YAML_BYTES, parse_yaml, read_json, read_text
from mednextv2.wording import brief

_MONAI_LOGGER = logging.getLogger("monai.bundle.workflows")
#: Workflows that bundles have whose networks segment something.
_OF_SEGMENTATIONS = ("inference", "predict", "finetune")


def find_bundle(bundle: str | os.PathLike) -> Path:
    """Find a bundle's folder.

    Args:
        bundle: Its path, or its name. A name is looked for in `bundles/`, beside the installed package (a source
            checkout), and where `python -m monai.bundle download` puts bundles by default.

    Returns:
        The absolute path of the folder.

    Raises:
        InputError: If there is none; the message lists the places that were searched.
    """
    places = [absolute(bundle), Path("bundles") / bundle, Path(__file__).parents[2] / "bundles" / bundle]
    with suppress(RuntimeError, KeyError):  # raised for a user without a home folder
        places.append(Path(torch.hub.get_dir()) / "bundle" / bundle)
    for place in places:
        if (place / "configs").is_dir():
            return place.resolve()
    looked = ", ".join(dict.fromkeys(str(p.absolute()) for p in places))
    raise InputError(f"bundle {bundle}: no folder with configs at {looked}. Give the path of the bundle's folder")


def workflow_files(root: Path, workflow: str, network: str | os.PathLike | None = None) -> list[str]:
    """Return the configuration files of a workflow, in the order in which MONAI merges them.

    Args:
        root: The bundle's folder.
        workflow: `train`, `evaluate`, `inference`, or an overlay of train such as `finetune`. Several overlays are
            joined by `+`, as in `finetune+multi_gpu_train`.
        network: The network that takes the place of the bundle's own: see
            :func:`mednextv2.bundle.networks.find_network`.

    Raises:
        UsageError: If the bundle does not have the workflow, or there is no such network.
    """
    several = workflow.split("+")
    overlays = [name for name in (*OPTIONAL_OVERLAYS, *OVERLAYS) if name in several]
    names = ["train", *overlays] if len(overlays) == len(several) else [workflow]
    files = []
    for name in names:
        found = [f for s in (".yaml", ".yml", ".json") if (f := root / "configs" / f"{name}{s}").is_file()]
        if not found or name == "metadata":
            known = sorted({f.stem for f in (root / "configs").glob("*.*") if f.suffix in (".yaml", ".yml", ".json")})
            known += ["upkern"] if "finetune" in known else []  # two trainings of the files that are there
            peers = {"predict": "inference", "val": "evaluate", "validate": "evaluate", "test": "evaluate"}
            if workflow in _OF_SEGMENTATIONS and is_without_labels(root):
                raise UsageError(
                    f"{root}: pretrains a network on images without labels, and has no workflow {workflow!r}; "
                    "fine-tune its weights in a bundle for segmentation: mednextv2 run OTHER_BUNDLE finetune "
                    f"--pretrained {root / 'models' / 'model.pt'}"
                )
            near = difflib.get_close_matches(peers.get(workflow, workflow), known, n=1)
            raise UsageError(
                f"{root}: has no workflow {workflow!r}; it has {', '.join(k for k in known if k != 'metadata')}"
                + (f"; did you mean {near[0]}?" if near else "")
            )
        files.append(str(found[0]))
    if network is not None:  # over all but the last, which has to do with processes
        files.insert(len(files) - ("multi_gpu_train" in overlays), str(find_network(network)))
    return files


def configure(
    root: Path, workflow: str, settings: Mapping[str, Any], more: Sequence[str] = ()
) -> tuple[list[str], dict[str, Any]]:
    """Return the files and the settings of a run, with what the weights record that are evaluated or used.

    Args:
        root: The bundle's folder.
        workflow: The workflow: see :func:`workflow_files`.
        settings: The settings that the user gave. `network` is no setting of a configuration, but adds a file.
        more: Further names that are allowed.

    Returns:
        The configuration files, and the settings that replace theirs. For evaluation and inference, these begin with
        the settings with which the weights were trained, such as the size of the patch.

    Raises:
        InputError: If the workflow, the network or a setting does not exist, the weights are of a network that is not
            in the package and was not given, or the file of a network names what does not exist.
    """
    given = {key: value for key, value in settings.items() if key != "network"}
    network = settings.get("network")
    files = workflow_files(root, workflow, network)
    if own := own_network(network):  # before its weights are looked for
        check_parts(own, read_own(own), _read_config(files), Path(files[0]).name)
    if given.get("weights") is not None and given.get("folds") is not None:
        raise UsageError("--weights and --folds: both choose weights; give one of them")
    recorded: dict[str, Any] = {}
    if "weights" in _read_config(files):
        name, recorded = recorded_network(chosen_weights(files, root, given))
        if network is None and name not in (None, OWN_NETWORK):
            files = workflow_files(root, workflow, _known_network(str(name)))
        elif network is not None and name != _read_config(files).get("network_name"):
            recorded = {}
    check_overrides(files, given, more)
    config = _read_config(files)
    return files, {**{key: value for key, value in recorded.items() if key in config}, **given}


def _read_config(files: Sequence[str]) -> dict[str, Any]:
    config: Any = read_workflow(files).config  # a dictionary, since it was read from files
    return config


def chosen_weights(files: Sequence[str], root: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return the files of weights that a workflow would load, or nothing if that cannot be told yet.

    Args:
        files: The workflow's configuration files.
        root: The bundle's folder.
        settings: The settings that the user gave.

    Raises:
        InputError: If the settings choose weights that cannot be.
    """
    parser = read_workflow(files)
    deciding = ("bundle_root", "experiment", "fold", "folds", "weights")
    parser.update({"bundle_root": root, **{k: as_setting(k, v) for k, v in settings.items() if k in deciding}})
    try:
        weights = parser.get_parsed_content("weights")
    except Exception as e:
        if found := find_input_error(e):
            raise found from e
        return []  # the workflow itself will say what is wrong
    several = weights if isinstance(weights, (list, tuple)) else [weights]
    return [os.fspath(file) for file in several if isinstance(file, (str, os.PathLike))]


def _known_network(name: str) -> str:
    if name not in network_names():
        raise UsageError(
            f"--network: the weights are of the network {brief(name)}, which is not part of the package; give the file "
            "with which it was trained, such as --network ./my_network.yaml"
        )
    return name


def read_workflow(files: Sequence[str]) -> ConfigParser:
    """Read the configuration files of a workflow, whatever a bundle from elsewhere has in their place.

    Args:
        files: As of :func:`workflow_files`.

    Raises:
        InputError: For a file that cannot be read, is no YAML or JSON, or holds no settings by name.
    """
    for file in files:
        _check_content(file)
    parser = ConfigParser()
    parser.read_config(list(files))
    return parser


def _check_content(file: str) -> None:
    """Raise an InputError for a file of a bundle that MONAI cannot read, or not in bounded time and memory."""
    content = read_json(file) if file.endswith(".json") else parse_yaml(read_text(file, MAX_YAML_BYTES), file)
    if not isinstance(content, dict):
        raise InputError(
            f"{file}: should hold settings by name, but holds {brief(content)}; copy the bundle again, or build it "
            "anew with mednextv2 bundle"
        )


def check_overrides(files: list[str], overrides: dict[str, Any], more: Sequence[str] = ()) -> None:
    """Raise an InputError for settings that the configuration does not have, and suggest similar names.

    Args:
        files: The configuration files.
        overrides: Settings by name; `::` and `#` lead to nested settings.
        more: Further names that are allowed.
    """
    if problems := override_problems(_read_config(files), overrides, more, files[0]):
        raise UsageError("\n".join(problems))


def as_setting(key: str, value: Any) -> Any:
    """Return a setting in a form that MONAI's configuration parser leaves unchanged.

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
        return "$None"  # MONAI drops None, so no setting could be set to None
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


def _is_no_hint(record: logging.LogRecord) -> bool:
    """Leave out a hint about files that are always given here."""
    return not record.getMessage().startswith("Not all config files are in")


def run_bundle(bundle: str | os.PathLike, workflow: str, **overrides: Any) -> None:
    """Run a workflow of a bundle, which changes settings of the process: see docs/predict.md.

    Args:
        bundle: The path or name of the bundle: see :func:`find_bundle`.
        workflow: `train`, `finetune`, `evaluate`, `inference` or `multi_gpu_train`: see :func:`workflow_files`.
        **overrides: Settings of the configuration; nested settings have names such as `train::trainer::max_epochs`.
            With `network`, another network takes the place of the bundle's own: see
            :func:`mednextv2.bundle.networks.find_network`.

    Raises:
        InputError: If the bundle, workflow or setting does not exist, or the workflow refuses something.
    """
    root = find_bundle(bundle)
    own = own_network(overrides.get("network"))
    files, overrides = configure(root, workflow, overrides)
    overrides = {key: as_setting(key, value) for key, value in overrides.items()}
    overrides.setdefault("bundle_root", root)
    logging_file = str(overrides.pop("logging_file", root / "configs" / "logging.conf"))
    meta_file = str(overrides.pop("meta_file", root / "configs" / "metadata.json"))
    if os.path.isfile(meta_file):  # MONAI goes without it where there is none
        _check_content(meta_file)
    _MONAI_LOGGER.addFilter(_is_no_hint)
    try:
        monai_run(config_file=files, meta_file=meta_file, logging_file=logging_file, **overrides)
    except Exception as e:
        if own and (found := explain_failure(own, read_own(own), e)):
            raise found from e
        raise
    finally:
        _MONAI_LOGGER.removeFilter(_is_no_hint)
