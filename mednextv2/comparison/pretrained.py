"""The check of weights to start from, before the first training of a comparison, which may take days."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from mednextv2.bundle.run import as_setting, configure, read_workflow
from mednextv2.errors import InputError
from mednextv2.weights.files import load_file
from mednextv2.weights.pretrained import load_pretrained
from mednextv2.weights.provenance import PRETRAINED, origin, pretraining_cases
from mednextv2.wording import count

_REMEDY = "Give other weights for this network with the same option, or leave it out"


def check_pretrained(
    bundle: Path, trainings: Sequence[tuple[str, Mapping[str, Any]]], scored: Collection[str] = ()
) -> list[str]:
    """Check that each file of weights can be read and fits its network, which is built for this.

    A network that cannot be built is left to its run, which says why without ending the comparison.

    Args:
        bundle: The folder of the bundle.
        trainings: The option that gave the weights of each training, and its settings with `pretrained`.
        scored: The names of the cases that are scored, which no weights may have been trained on.

    Returns:
        A text for each file: what would be loaded, adapted, newly initialised and not used.

    Raises:
        InputError: With a line for each file that cannot be used.
    """
    lines, problems = [], []
    for option, settings in trainings:
        try:
            lines.append(_check(bundle, settings, {*scored}))
        except InputError as e:
            problems.append(f"{option}: {str(e).removesuffix('.')}. {_REMEDY}")
    if problems:
        raise InputError("\n".join(problems))
    return lines


def _check(bundle: Path, settings: Mapping[str, Any], scored: set[str]) -> str:
    file = settings["pretrained"]
    files, settings = configure(bundle, "finetune", settings)
    parser = read_workflow(files)
    parser.update({"bundle_root": bundle, **{key: as_setting(key, value) for key, value in settings.items()}})
    with torch.random.fork_rng(devices=[]):  # keeps the host's random numbers
        network = _build(parser)
    if network is None:
        load_file(file)
        return f"pretrained {file}: can be read; whether it fits is seen when its network is built"
    about = {"dataset": parser.get_parsed_content("dataset_name"), PRETRAINED: origin(file)}
    if seen := sorted(scored & pretraining_cases(about)):
        raise InputError(
            f"{file}: was trained on {len(seen)} of the {count(len(scored), 'case')} that are scored ({seen[0]}, ...), "
            "so that its scores would be too high"
        )
    scheme = parser.get_parsed_content("scheme")
    channels = len(parser.get_parsed_content("channels"))
    partial, sha256 = (
        parser.get("pretrained_partial", False),
        parser.get("pretrained_sha256"),
    )  # older bundles lack them
    return load_pretrained(network, file, channels, scheme.outputs, scheme.legend, partial, sha256).describe()


def _build(parser: ConfigParser) -> nn.Module | None:
    try:
        network = parser.get_parsed_content("network_def")
    except Exception:  # whatever it is, the run of this network meets it, too
        return None
    return network if isinstance(network, nn.Module) else None
