"""Check bundles and copy them into the app of MONAI Label: a step of scripts/monai_label.sh, in Label's environment."""

import argparse
import errno
import json
import re
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from mednextv2.bundle.run import find_bundle
from mednextv2.errors import InputError
from mednextv2.label_scheme import LabelScheme
from mednextv2.paths import expand, writing
from mednextv2.training import check_served
from mednextv2.version import __version__

#: MONAI Label decides by these parts of a bundle's name that it is no segmentation.
_OTHER_TYPES = ("deepedit", "deepgrow", "detection", "classification")
#: The endings of the images that it lists and a bundle can read.
_IMAGES = (".nii.gz", ".nii", ".nrrd")


def main(arguments: Sequence[str] | None = None) -> int:
    """Install the bundles; return 1 after a message if something does not fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--app", "--studies", "--host", "--port", "--bundles", "--names"):
        parser.add_argument(name, required=True)
    given = parser.parse_args(arguments)
    try:
        check_port(given.host, given.port)
        check_studies(given.studies)
        names = [install(bundle, given.app) for bundle in filter(None, map(str.strip, given.bundles.split(",")))]
        if not names:
            raise InputError("--bundles: names no bundle; give one or several, such as mednextv2_hippocampus")
        Path(given.names).write_text(",".join(names), encoding="utf-8")
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


def check_port(host: str, port: str) -> None:
    """Raise an InputError if no server can be started at an address."""
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--port {port}: should be a whole number from 1 to 65535, such as 8000")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server itself does
            server.bind((host, int(port)))
    except OSError as e:
        if e.errno != errno.EADDRINUSE:
            raise InputError(
                f"--host {host}: no server can be started at this address ({e.strerror}); give one of this computer's, "
                "such as 127.0.0.1"
            ) from e
        raise InputError(
            f"--port {port}: is in use at {host}; stop the program that uses it, which may be another MONAI Label, or "
            "give another --port"
        ) from e


def check_studies(folder: str) -> None:
    """Raise an InputError if a folder holds no image that MONAI Label would list."""
    if not any(file.name.endswith(_IMAGES) for file in expand(folder).iterdir()):
        raise InputError(f"--studies {folder}: holds no image; put the images to label there ({', '.join(_IMAGES)})")


def install(bundle: str, app: str) -> str:
    """Copy a bundle into the app, or bring the copy that is there up to date.

    The weights of a copy that is there stay, since a training may have made them.

    Args:
        bundle: The folder or the name of the bundle.
        app: The folder of the app.

    Returns:
        The name of the copy, which is that of the bundle.

    Raises:
        InputError: If the bundle has no weights, or is not for this version of the package.
    """
    source = find_bundle(bundle).resolve()
    target = expand(app) / "model" / source.name
    check_name(source)
    metadata = json.loads((source / "configs" / "metadata.json").read_text(encoding="utf-8"))
    check_version(source, metadata)
    weights = source / "models" / "model.pt"
    own = target / "models" / "model.pt"
    if not weights.is_file() and not own.is_file():
        raise InputError(
            f"{source}: this bundle has no weights (models/model.pt), which MONAI Label needs; leave it "
            f"out, or train it (mednextv2 run {source} train --dataset_dir DATA --fold 0; mednextv2 promote {source})"
        )
    check_weights(source, own if own.is_file() else weights)
    if own.is_file():
        print(f"{source.name}: the app keeps its weights {own}; to start from the bundle's again, delete {target}")
    copy_bundle(source, target)
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = label_values(source)
    with writing(target / "configs" / "metadata.json") as temporary:
        temporary.write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    return source.name


def check_name(bundle: Path) -> None:
    """Raise an InputError if MONAI Label would misunderstand a bundle's name."""
    if found := [word for word in (*_OTHER_TYPES, ",") if word in bundle.name.lower()]:
        raise InputError(
            f"{bundle}: MONAI Label takes a bundle with {found[0]!r} in its name for something else than a "
            "segmentation; rename the folder"
        )


def check_version(bundle: Path, metadata: Mapping[str, Any]) -> None:
    """Raise an InputError if a bundle was made by a newer version of the package than the installed one."""
    needed = str(metadata.get("required_packages_version", {}).get("mednextv2", "0"))
    if _numbers(needed) > _numbers(__version__):
        raise InputError(
            f"{bundle}: needs mednextv2 {needed}, and {__version__} is installed; get a newer version of this project, "
            "and start this script of it"
        )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def check_weights(bundle: Path, weights: Path) -> None:
    """Raise an InputError if weights are damaged or of another network: MONAI Label would use what fits of them."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.yaml")
    parser.config["bundle_root"] = str(bundle)
    check_served(weights, parser.get_parsed_content("network_def"), parser.get_parsed_content("scheme").legend)


def copy_bundle(source: Path, target: Path) -> None:
    """Copy a bundle's files, except what trainings left in it, and no weights if the copy has some."""
    models = ["models"] if (target / "models" / "model.pt").is_file() else []
    skipped = shutil.ignore_patterns("output", "fold_*", "replaced_*", "*.previous-*", ".in-use", "__pycache__")

    def ignore(folder: str, names: list[str]) -> set[str]:
        return set(skipped(folder, names)) | (set(models) & set(names) if Path(folder) == source else set())

    try:
        shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True, copy_function=_copy)
    except (OSError, shutil.Error) as e:
        raise InputError(f"{target}: the bundle cannot be copied there ({e}); make room, or give another --env") from e


def _copy(source: str, target: str) -> None:
    with writing(target) as temporary:
        shutil.copyfile(source, temporary)


def label_values(bundle: Path) -> dict[str, str]:
    """Return the names of the values in a bundle's masks, which MONAI Label reads from the names of output channels.

    The two differ for regions, whose masks have the values of the labels.
    """
    facts = yaml.safe_load((bundle / "configs" / "inference.yaml").read_text(encoding="utf-8"))
    scheme = LabelScheme(facts["labels"], facts["regions"], facts["ignore_label"])
    return {str(value): name for value, name in enumerate(scheme.declared)}


if __name__ == "__main__":
    sys.exit(main())
