"""The check, before any data are read, that a training can start from its checkpoint or from pretrained weights."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mednextv2.distributed import is_main_process
from mednextv2.errors import InputError
from mednextv2.paths import expand
from mednextv2.training.checkpoint_content import (
    ANEW,
    LATEST_NAME,
    case_names,
    check_optimizer_name,
    read_checkpoint,
)
from mednextv2.weights.files import digest_file
from mednextv2.weights.pretrained import load_pretrained
from mednextv2.weights.provenance import PRETRAINED, origin, overlapping, pretraining_cases, read_about, warn_of_overlap
from mednextv2.weights.safetensors_file import needs_safetensors
from mednextv2.wording import brief, count

logger = logging.getLogger(__name__)

_OF_IMAGES = ("spacing", "normalization")  # settings on which the prepared images depend


def check_start(
    output_dir: str | os.PathLike,
    network: nn.Module,
    cases: Sequence[dict[str, Any]],
    resume: bool = True,
    pretrained: str | os.PathLike | None = None,
    optimizer_name: str | None = None,
    in_channels: int | None = None,
    out_channels: int | None = None,
    about: Mapping[str, Any] | None = None,
    partial: bool = False,
    sha256: str | None = None,
    facts: Mapping[str, Any] | None = None,
    save_safetensors: bool = False,
    part: nn.Module | None = None,
) -> list[str]:
    """Check that a training can start from its checkpoint or weights, before its data are read.

    The network takes the pretrained weights, and a text says what was loaded. Warnings follow about what differs from
    the pretraining, and about validation cases that these weights were trained on.

    Args:
        output_dir: As of :class:`TrainingCheckpoint`, as are all that are not described here.
        network: The network.
        cases: The training items.
        resume: Whether an interrupted training is continued.
        pretrained: A file with weights to start from.
        optimizer_name: The optimizer, as :func:`mednextv2.training.create_optimizer` takes it.
        in_channels: The number of the network's input channels.
        out_channels: The number of the network's outputs.
        about: What the weights shall record about their training.
        partial: Whether whatever fits is loaded.
        sha256: The checksum of the file.
        facts: The bundle's `patch_size`, `spacing` and `normalization`, which are compared with those of the
            pretraining as far as the file records them.
        save_safetensors: Whether the training will save files of safetensors.
        part: The part of the network that takes the pretrained weights, as of :class:`TrainingCheckpoint`.

    Returns:
        The names of the network's tensors that the pretrained weights did not fill. A training that is resumed has them
        from its checkpoint; without pretrained weights, there are none.

    Raises:
        InputError: When the checkpoint or the pretrained weights belong to another network, other cases or another
            optimizer.
    """
    if save_safetensors:
        needs_safetensors("save_safetensors")
    latest = expand(output_dir) / LATEST_NAME
    if resume and latest.is_file():
        content = read_checkpoint(latest, network, case_names(cases))
        _check_same_start(latest, pretrained)
        _check_same_settings(latest, about or {})
        check_optimizer_name(latest, content, optimizer_name)
        return list(content.get("new_layers") or [])
    if pretrained:
        labels = (about or {}).get("labels")
        report = load_pretrained(
            network if part is None else part, pretrained, in_channels, out_channels, labels, partial, sha256
        )
        if is_main_process():
            logger.info(report.describe())
            for line in report.expects.differences(**(facts or {})):
                logger.warning("%s: %s", pretrained, line)
            _warn_of_seen_cases(pretrained, about or {})
        return list(report.new)
    return []


def _check_same_start(latest: os.PathLike, pretrained: str | os.PathLike | None) -> None:
    """Refuse to go on with a training that was begun from other weights than are given now."""
    begun = _mapping(read_about(latest).get(PRETRAINED))
    if pretrained is None or not begun.get("sha256"):
        return
    file = expand(pretrained)
    if not file.is_file() or not file.stat().st_size:
        logger.warning("%s: there is no such file any more; the training in %s goes on without it", pretrained, latest)
    elif digest_file(pretrained) != begun["sha256"]:
        raise InputError(
            f"{pretrained}: are other weights than those from which the training in {latest} was begun "
            f"({begun.get('file')}). {ANEW}"
        )


def _check_same_settings(latest: os.PathLike, about: Mapping[str, Any]) -> None:
    """Refuse to go on with images of another kind, as when a setting is not given again, and warn of other patches."""
    before, now = (
        {**_mapping(record.get("settings")), **{k: record[k] for k in ("normalization",) if k in record}}
        for record in (read_about(latest), about)
    )
    pairs = [(name, value, json.loads(json.dumps(now.get(name)))) for name, value in before.items() if name in now]
    other = [pair for pair in pairs if pair[1] != pair[2]]  # None, too: images that were not resampled
    listed = " and ".join(f"{name} {brief(value)} (now {brief(new)})" for name, value, new in other)
    if any(name in _OF_IMAGES for name, _, _ in other):
        raise InputError(f"{latest}: the training was begun with {listed}; give the same again. {ANEW}")
    if other and is_main_process():
        logger.warning("%s: the training was begun with %s, and goes on with the new values", latest, listed)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _warn_of_seen_cases(pretrained: str | os.PathLike, about: Mapping[str, Any]) -> None:
    """Warn before, and not after, days of training of validation cases on which the pretrained weights were trained."""
    record = {**about, PRETRAINED: origin(pretrained)}
    if others := overlapping(record):
        warn_of_overlap(str(pretrained), others, str(about.get("dataset")))
    validation = {name for name in about.get("validation", []) if isinstance(name, str)}
    seen = sorted(validation & pretraining_cases(record))
    if seen and "objective" not in about:  # without labels, no fold is chosen, and no scores are too high
        logger.warning(
            "%s: was trained on %d of the %s of this fold (%s, ...), so scores of the validation will be too high, and "
            "the workflow evaluate will refuse to score these cases; choose the --fold that these weights were not "
            "trained on", pretrained, len(seen), count(len(validation), "validation case"), seen[0],
        )  # fmt: skip
