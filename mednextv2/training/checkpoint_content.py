"""The content of a training's checkpoint, checked before any of it is used: kinds, sizes and numbers of everything."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from mednextv2.errors import InputError
from mednextv2.label_scheme import is_whole
from mednextv2.weights.files import load_file
from mednextv2.weights.loading import broken_numbers, wrong_tensors
from mednextv2.weights.mismatch import describe_mismatch
from mednextv2.wording import brief

#: Names of the checkpoints of the last epoch, and of the one before.
LATEST_NAME, PREVIOUS_NAME = "checkpoint_latest.pt", "checkpoint_previous.pt"
#: What to do about a folder with another training.
ANEW = "Choose another --experiment or --output_dir, or start anew with --resume False"
_OTHER_OPTIMIZER = "was trained with another optimizer or schedule, or with another --freeze or --layer_decay"
_OWN_SETTING = {"adamw": "betas", "sgd": "momentum"}  # by name in `create_optimizer`: a setting that the other lacks
_MAPPINGS = ("model", "optimizer", "lr_scheduler", "scaler", "metric")
_MAX_EPOCHS = 10**7


def advice(file: Path) -> str:
    """Return what to do when a checkpoint cannot be used; it offers the one of the epoch before, if it exists."""
    before = file.with_name(PREVIOUS_NAME)
    if not before.is_file():
        return ANEW
    return f"{before} is of the epoch before: rename it to {LATEST_NAME} to go on from there. {ANEW}"


def read_checkpoint(file: Path, network: nn.Module, cases: list[str]) -> dict[str, Any]:
    """Read a checkpoint and check what does not depend on the optimizer.

    Args:
        file: The checkpoint.
        network: The network that is trained.
        cases: Names of the training cases.

    Returns:
        The checkpoint.

    Raises:
        InputError: If the checkpoint is damaged, belongs to another network or other cases, or contains a value of a
            wrong type.
    """
    try:
        content = load_file(file)
    except InputError as e:
        raise InputError(f"{e}. {advice(file)}") from e
    if not isinstance(content, dict) or not {"model", "optimizer", "epoch"} <= content.keys():
        raise InputError(f"{file}: not a checkpoint of this training. {advice(file)}")
    wrong = [
        key
        for key in _MAPPINGS
        if not isinstance(content.get(key), dict) and (key in ("model", "optimizer") or content.get(key) is not None)
    ]
    wrong += [key for key, fits in _COUNTERS.items() if key in content and not fits(content[key])]
    if content.get("best_metric") is not None and content.get("best_metric_epoch") is None:
        wrong.append("best_metric_epoch")
    if wrong:
        shown = ", ".join(f"{key} is {brief(content.get(key))}" for key in wrong)
        raise InputError(f"{file}: is damaged, since {shown}. {advice(file)}")
    own = network.state_dict()
    if problem := wrong_tensors(content["model"]) or describe_mismatch(own, content["model"]):
        raise InputError(f"{file}: a training of another network is there. {problem} {ANEW}")
    if problem := wrong_tensors(content["model"], own):
        raise InputError(f"{file}: is damaged. {problem} {advice(file)}")
    if problem := broken_numbers(content["model"]):
        raise InputError(f"{file}: is damaged, since it {problem}. {advice(file)}")
    if content.get("cases", cases) != cases:
        raise InputError(f"{file}: a training on other cases is there, of another fold or data set. {ANEW}")
    return {key: part for key, part in content.items() if key not in _MAPPINGS or part is not None}


def case_names(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of training items as a checkpoint records them."""
    return sorted(str(item.get("case")) for item in cases)


def find_optimizer_name(settings: Mapping[str, Any]) -> str | None:
    """Return the name of the optimizer that has these settings of a group, or None; each has a setting of its own."""
    return next((name for name, setting in _OWN_SETTING.items() if setting in settings), None)


def check_optimizer_name(file: Path, content: Mapping[str, Any], name: str | None) -> None:
    """Raise an InputError when the optimizer of a checkpoint is not the requested one.

    Args:
        file: The checkpoint.
        content: Its content.
        name: The requested optimizer, as :func:`mednextv2.training.create_optimizer` takes it; None fits any.
    """
    groups = content["optimizer"].get("param_groups") if isinstance(content["optimizer"], dict) else None
    settings = groups[0] if isinstance(groups, list) and groups and isinstance(groups[0], dict) else {}
    found = find_optimizer_name(settings)
    if name is not None and settings and found != name:  # without settings, it is damaged, which is reported later
        raise InputError(f"{file}: a training with optimizer_name {found or 'unknown'} is there, not {name}. {ANEW}")


def check_state(file: str | os.PathLike, name: str, own: Any, given: Any) -> None:
    """Raise an InputError when a part of a checkpoint does not have the same type as the state it shall replace.

    Args:
        file: The checkpoint.
        name: The name of the part, such as `optimizer`.
        own: The present state, as returned by `state_dict()`.
        given: The state in the file.
    """
    if difference := _difference(own, given, name):
        raise InputError(f"{file}: is damaged, or of another version of PyTorch: {difference}. {advice(Path(file))}")


def check_optimizer_state(file: Path, given: Mapping[str, Any], shapes: list[tuple[int, ...]], own: Any) -> None:
    """Raise an InputError when an optimizer's state does not fit the weights.

    Args:
        file: The checkpoint.
        given: The state in the file.
        shapes: The shapes of the weights, in the optimizer's order.
        own: The state of the optimizer that it is loaded into.
    """
    groups, state = given.get("param_groups"), given.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict):
        raise InputError(f"{file}: is damaged, since its optimizer has no groups or no state. {advice(file)}")
    if len(groups) != len(own["param_groups"]):
        raise InputError(f"{file}: {_OTHER_OPTIMIZER}. {ANEW}")
    for ours, theirs in zip(own["param_groups"], groups, strict=True):
        free = ("fused", "foreach", "params")  # how to compute is decided here; numbers of weights are checked below
        check_state(
            file,
            "optimizer",
            {key: value for key, value in ours.items() if key not in free},
            {key: value for key, value in theirs.items() if key not in free} if isinstance(theirs, dict) else theirs,
        )
        if not isinstance(theirs.get("params"), list) or theirs["params"] != ours["params"]:
            raise InputError(f"{file}: {_OTHER_OPTIMIZER}. {ANEW}")
    for number, entry in state.items():
        fits = is_whole(number) and 0 <= number < len(shapes) and isinstance(entry, dict)
        values = entry.values() if fits else ()
        if not fits or not all(_fits_weight(value, shapes[number]) for value in values):
            raise InputError(
                f"{file}: is damaged, since its optimizer's state of the weight {brief(number)} does not fit the "
                f"weight. {advice(file)}"
            )


def _fits_weight(value: Any, shape: tuple[int, ...]) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() and tuple(value.shape) in (shape, ()) and bool(value.isfinite().all())
    return value is None or _is_number(value)


def _difference(own: Any, given: Any, name: str) -> str:
    """Say where two states differ in type, or return an empty text."""
    if isinstance(own, dict):
        if not isinstance(given, dict):
            return f"{name} is {brief(given)}"
        return next((d for k in given if k in own if (d := _difference(own[k], given[k], f"{name}.{k}"))), "")
    if isinstance(own, (list, tuple)):
        if not isinstance(given, (list, tuple)) or len(given) != len(own):
            return f"{name} is {brief(given)}"
        parts = enumerate(zip(own, given, strict=True))
        return next((d for i, (a, b) in parts if (d := _difference(a, b, f"{name}.{i}"))), "")
    if own is None:  # a value that is unknown before the first epoch, such as the mean of a metric
        return "" if given is None or _is_number(given) else f"{name} is {brief(given)}"
    if isinstance(own, (bool, str)):
        return "" if given is None or type(given) is type(own) else f"{name} is {brief(given)}"
    if _is_number(own):
        return "" if _is_number(given) else f"{name} is {brief(given)}"
    return ""


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and math.isfinite(value.item())
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


_COUNTERS = {
    "epoch": lambda value: is_whole(value) and 0 <= value < _MAX_EPOCHS,
    "cases": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "new_layers": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "best_metric": lambda value: value is None or _is_number(value),
    "best_metric_epoch": lambda value: value is None or (is_whole(value) and -1 <= value < _MAX_EPOCHS),
}
