"""The networks that can take the place of a bundle's own, as overlays of configurations, and what weights record."""

import difflib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mednextv2.bundle.network_file import read_network_file
from mednextv2.errors import UsageError
from mednextv2.paths import absolute
from mednextv2.weights.provenance import read_about

#: The name of the network that bundles have without an overlay.
OWN_NETWORK = "mednext"
_ENDINGS = (".yaml", ".yml", ".json")
#: Settings that weights record, besides those of an overlay, whose names begin with `network_`.
_RECORDED = ("variant", "kernel_size", "patch_size", "context", "spacing", "form", "block_size")
_PARTS = ("network_def", "network_name", "network_settings")  # of an overlay, which no file of weights may replace


def network_names() -> list[str]:
    """Return the names of the networks in the package."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def find_network(network: str | os.PathLike) -> Path:
    """Return the overlay of a network.

    Args:
        network: A name of :func:`network_names`, or the path of an overlay of one's own.

    Raises:
        UsageError: If there is none.
        InputError: If the file is not an overlay of a network.
    """
    own = os.fspath(network).endswith(_ENDINGS) or os.sep in os.fspath(network)
    file = absolute(network) if own else _folder() / f"{network}.yaml"
    if own and file.is_dir():
        found = sorted(path.name for path in file.iterdir() if path.suffix in _ENDINGS)
        there = f"; it holds {', '.join(found[:5])}" if found else ""
        raise UsageError(f"--network {network}: is a folder; give the file of a network{there}")
    if not file.is_file():
        names = network_names()
        near = difflib.get_close_matches(str(network), names, n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise UsageError(
            f"--network {network}: there is no such {'file' if own else 'network'}{hint} Give one of "
            f"{', '.join(names)}, or the path of a file of your own, such as ./my_network.yaml (see docs/networks.md)"
        )
    if own:
        read_own(file)
    return file


def own_network(network: str | os.PathLike | None) -> Path | None:
    """Return the file of a user's own network, or None for a network of the package."""
    if network is None or (file := find_network(network)).parent == _folder():
        return None
    return file


def read_own(file: Path) -> dict[str, Any]:
    """Read a user's own file: see :func:`mednextv2.bundle.network_file.read_network_file`."""
    taken = {name: "a network of the package" for name in network_names()} | {OWN_NETWORK: "the bundle's own network"}
    return read_network_file(file, taken)


def _folder() -> Path:
    return Path(str(resources.files("mednextv2.recipes"))) / "networks"


def recorded_network(weights: Sequence[str | os.PathLike]) -> tuple[str | None, dict[str, Any]]:
    """Return of which network weights are, as far as they record it, and with which settings they were trained.

    Only numbers, words and lists of numbers are taken from a file, since a configuration can also hold code.

    Args:
        weights: The files of weights that are used together.

    Returns:
        The network's name, or None, and those settings that are the same in all files.

    Raises:
        UsageError: If the weights are of different networks, or of images that were resampled to different spacings.
    """
    records = [about for file in weights if isinstance((about := read_about(file)).get("network"), str)]
    names = {about["network"]: str(file) for file, about in zip(weights, records, strict=False)}
    if len(names) > 1:
        raise UsageError(f"--weights: the files are of different networks ({', '.join(names)}); give those of one")
    found = [_plain(about.get("settings")) for about in records]
    if len(spacings := {str(settings["spacing"]) for settings in found if "spacing" in settings}) > 1:
        raise UsageError(
            f"--weights: the files were trained on images of different spacings in mm ({', '.join(sorted(spacings))}); "
            "give those of one"
        )
    same = {k: v for k, v in found[0].items() if all(other.get(k) == v for other in found)} if found else {}
    return next(iter(names), None), same


def _plain(settings: Any) -> dict[str, Any]:
    """Return those settings of a record that can be used again, whatever a file has in their place."""
    if not isinstance(settings, Mapping):
        return {}
    return {key: value for key, value in settings.items() if _is_recorded(key) and _is_plain(value)}


def _is_recorded(key: Any) -> bool:
    return key in _RECORDED or (isinstance(key, str) and key.startswith("network_") and key not in _PARTS)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 100 and all(isinstance(v, (int, float)) for v in value)
    return isinstance(value, (int, float)) or (isinstance(value, str) and value.replace("_", "").isalnum())
