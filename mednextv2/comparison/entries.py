"""The networks that are compared: names of the command line, and the settings with which each is trained."""

import difflib
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mednextv2.bundle.networks import find_network, network_names, read_own
from mednextv2.errors import InputError, UsageError
from mednextv2.nets.variants import VARIANTS
from mednextv2.paths import absolute
from mednextv2.weights.files import folder_advice

_ENDINGS = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Entry:
    """A network of a comparison: a row of its table.

    Attributes:
        network: The name of the network.
        settings: The settings of the workflows that select it.
        pretrained: The file of weights to start from, or None.
        start: The name that the user gave these weights; empty if there is only one file for each network.
        files: SHA-256 by name of the user's files that decide what is trained.
    """

    network: str
    settings: dict[str, str]
    pretrained: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    start: str = ""

    @property
    def name(self) -> str:
        """The name in tables."""
        if not self.pretrained:
            return self.network
        return f"{self.network}, from {self.start}" if self.start else f"{self.network}, fine-tuned"

    @property
    def folder(self) -> str:
        """The name of the folder with its runs."""
        if not self.pretrained:
            return self.network
        return f"{self.network}-from-{self.start}" if self.start else f"{self.network}-finetuned"

    @property
    def workflow(self) -> str:
        """The workflow that trains it."""
        return "finetune" if self.pretrained else "train"

    @property
    def option(self) -> str:
        """The option of the command line that gave its weights, for messages."""
        return f"--initial {self.start}" if self.start else f"--pretrained {self.network}"


def choose_entries(networks: str, pretrained: str | None = None, initial: str | None = None) -> list[Entry]:
    """Return what is compared.

    Args:
        networks: Names or files of networks, separated by commas.
        pretrained: Files of weights by network, as `NAME=FILE,NAME=FILE`. Such a network is compared twice: from random
            weights, and fine-tuned.
        initial: Files of weights by names of their own, likewise. Every network is compared from random weights and
            from each of these.

    Returns:
        One entry for each network and one more for each with weights.

    Raises:
        UsageError: If a network does not exist or is named twice, or weights are of a network that is not compared or
            have a name that cannot be.
        InputError: If a file cannot be read.
    """
    given = [word.strip() for word in networks.split(",") if word.strip()]
    if not given:
        raise UsageError("networks: give the names of the networks to compare, such as v2_tiny,v1_s")
    found = [(word, _find(word)) for word in given]
    names = [entry.network for _, entry in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"networks: {', '.join(twice)} is named twice; name each network once")
    weights = _read_files("pretrained", pretrained) if pretrained else {}
    starts = _read_files("initial", initial) if initial else {}
    _check_starts(starts)
    digests = {file: _digest(Path(file)) for file in {*weights.values(), *starts.values()}}
    entries: list[Entry] = []
    for word, entry in found:
        entries.append(entry)
        own = {weights.pop(key) for key in (entry.network, word) if key in weights}
        for start, file in [*(("", file) for file in sorted(own)), *starts.items()]:
            files = {**entry.files, "pretrained": digests[file]}
            entries.append(Entry(entry.network, entry.settings, file, files, start))
    if weights:
        raise UsageError(
            f"--pretrained {next(iter(weights))}: is none of the networks that are compared ({', '.join(names)})"
        )
    return entries


def _find(word: str) -> Entry:
    if word in VARIANTS:
        return Entry(word, {"variant": word})
    if not (word.endswith(_ENDINGS) or os.sep in word):
        known = [*VARIANTS, *network_names()]
        if word not in known:
            near = difflib.get_close_matches(word, known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else "."
            raise UsageError(
                f"networks: there is no network {word}{hint} Give some of {', '.join(known)}, or the path of a file of "
                "your own, such as ./my_network.yaml (see docs/networks.md)"
            )
        return Entry(word, {"network": word})
    file = find_network(word)  # which checks it
    name = str(read_own(file)["network_name"])
    if name in VARIANTS:
        raise InputError(f"{file}: network_name {name} is the name of another network; choose another one")
    return Entry(name, {"network": str(file)}, files={"network": _digest(file)})


def _check_starts(starts: Mapping[str, str]) -> None:
    for name in starts:
        if not re.fullmatch(r"\w[\w.-]*", name) or name == "scratch":
            raise UsageError(
                f"--initial {name}: should be a name of your own for these weights, of letters, digits, _ and -, such "
                "as mae=model.pt; the network without weights, from scratch, is compared in any case"
            )


def _read_files(option: str, text: str) -> dict[str, str]:
    """Read `NAME=FILE,NAME=FILE`; a comma within a file's name is one that no NAME= follows."""
    example = {"pretrained": "the network and its weights, such as v2_tiny=model.pt"}
    weights: dict[str, str] = {}
    for part in re.split(r",(?=[^,=]+=)", text):
        name, equals, file = (word.strip() for word in part.partition("="))
        if not equals or not name or not file:
            words = example.get(option, "a name and a file of weights, such as mae=model.pt")
            raise UsageError(f"--{option} {part}: should be {words}")
        if name in weights:
            more = "; several files for one network are given as --initial NAME=FILE" if option == "pretrained" else ""
            raise UsageError(f"--{option} {name}: is given twice{more}")
        path = absolute(file)
        if path.is_dir():
            raise InputError(f"--{option} {file}: {folder_advice(path)}")
        if not path.is_file():
            whose = f" of the network {name}" if option == "pretrained" else ""
            raise InputError(f"--{option} {file}: there is no such file; give a model.pt{whose}")
        weights[name] = str(path)
    return weights


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
    except OSError as e:
        raise InputError(f"{file}: cannot be read ({e.strerror or e}); change its permissions") from e
    return digest.hexdigest()
