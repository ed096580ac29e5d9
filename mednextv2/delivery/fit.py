"""The comparison of weights with the network of a bundle's configuration, before they are given to others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mednextv2.bundle.run import read_workflow
from mednextv2.errors import InputError, find_input_error
from mednextv2.label_scheme import LabelScheme
from mednextv2.training import ReconstructedChannels
from mednextv2.weights.files import load_file
from mednextv2.weights.loading import broken_numbers, wrong_tensors
from mednextv2.weights.provenance import check_labels, describe_network, read_about

_SHOWN = 15  # number of tensors of a kind in a message


def check_fit(root: Path, weights: Path) -> None:
    """Raise an InputError if weights are not exactly those of the network in a bundle's configuration.

    MONAI and MONAI Label skip tensors that do not fit, and go on with random ones in their place. The weights must
    therefore have every name and shape of the network, and no other, and be a bare state dict.

    Args:
        root: The bundle's folder.
        weights: The file of weights.
    """
    state = load_file(weights)
    if not isinstance(state, dict) or not state or (problem := wrong_tensors(state)):
        detail = problem if isinstance(state, dict) and state else ""
        raise InputError(
            f"{weights}: is no bare state dict. {detail} Give the model.pt of a training, not a checkpoint with more "
            "in it".replace("  ", " ")
        )
    own, legend, spacing = _network(root)
    shapes = [
        f"{name} {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    lines = [
        *_listed("not in the file", [name for name in own if name not in state]),
        *_listed("not in the network", [name for name in state if name not in own]),
        *_listed("of another shape", shapes),
    ]
    if lines:
        recorded = describe_network(weights)
        raise InputError(
            f"{weights}: the weights do not fit the network of {root / 'configs'}"
            + (f"; they were {recorded}" if recorded else "")
            + ". Pack the weights of this network, or enter their settings in task.yaml and build the bundle again:\n  "
            + "\n  ".join(lines)
        )
    if problem := wrong_tensors(state, own) or broken_numbers(state):
        raise InputError(f"{weights}: {problem}")
    _check_spacing(root, weights, spacing)
    check_labels([weights], legend)


def _check_spacing(root: Path, weights: Path, spacing: Any) -> None:
    """Refuse weights of images that were resampled otherwise, whose results would be bad without a message."""
    settings = read_about(weights).get("settings")
    trained = settings.get("spacing") if isinstance(settings, dict) else None
    if isinstance(trained, list) and isinstance(spacing, list) and trained != spacing:
        raise InputError(
            f"{weights}: was trained on images that were resampled to a spacing of {trained} mm, but the configuration "
            f"in {root / 'configs'} resamples to {spacing}; enter the former in task.yaml and build the bundle again"
        )


def _listed(what: str, names: Sequence[str]) -> list[str]:
    others = len(names) - _SHOWN
    return [f"{what}: {name}" for name in names[:_SHOWN]] + [f"{what}: {others} more"] * (others > 0)


def _network(root: Path) -> tuple[dict[str, Tensor], list[str], Any]:
    """Return the tensors of the network in the inference, without numbers, the meaning of its outputs, and the spacing.

    A bundle that segments nothing has no inference; its evaluation builds the same network.
    """
    configs = root / "configs"
    inference = configs / "inference.yaml"
    parser = read_workflow([str(inference if inference.is_file() else configs / "evaluate.yaml")])
    parser.update({"bundle_root": root})
    try:
        with torch.device("meta"):
            network: nn.Module = parser.get_parsed_content("network_def")
        scheme: LabelScheme | ReconstructedChannels = parser.get_parsed_content("scheme")
    except Exception as e:
        raise find_input_error(e) or e from None
    return dict(network.state_dict()), scheme.legend, parser.get("spacing")
