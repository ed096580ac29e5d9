"""The check of a workflow's settings, before anything is read or trained."""

import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mednextv2.data.image_check import DEFECTIVE
from mednextv2.data.image_folders import SEVERAL_CHANNELS
from mednextv2.errors import InputError
from mednextv2.machine import machine_memory, usable_cpus
from mednextv2.nets.legal_sizes import DIVISOR, LEVELS, is_legal, nearest
from mednextv2.nets.masked_autoencoder import FORMS
from mednextv2.nets.parts import PARTS
from mednextv2.nets.training_memory import training_memory
from mednextv2.training.schedule import OPTIMIZERS
from mednextv2.wording import count


class _Rule(NamedTuple):
    fits: Callable[[Any], bool]
    words: str


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _number(low: float, high: float = sys.float_info.max) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _list(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, (list, tuple)) and 0 < len(value) <= 3 and all(fits(v) for v in value)


_finite = _number(-1e30, 1e30)
_POSITIVE = _Rule(_whole(1), "a whole number from 1")
_COUNT = _Rule(_whole(0), "a whole number from 0")
_PART = _Rule(_number(0, 1), "a number from 0 to 1")
_MOST_WORKERS = max(64, 4 * usable_cpus())  # each is a process with all libraries; more than that ends the machine
_WORKERS = _Rule(lambda n: _whole(0)(n) and n <= _MOST_WORKERS, f"a whole number from 0 to {_MOST_WORKERS}")
_SWITCH = _Rule(lambda value: isinstance(value, bool), "True or False")
_AXES = _Rule(
    lambda v: v == [] or (_list(v, lambda n: _whole(0)(n) and n <= 2) and len({*v}) == len(v)),
    'a list of axes, each once, such as "[0,1,2]" or "[]"',
)

RULES = {
    "epochs": _POSITIVE,
    "iterations_per_epoch": _POSITIVE,
    "batch_size": _POSITIVE,
    "val_interval": _POSITIVE,
    "val_iterations": _POSITIVE,
    "early_stopping": _COUNT,
    "window_batch_size": _POSITIVE,
    "warmup_epochs": _COUNT,
    "num_workers": _WORKERS,
    "seed": _COUNT,
    "foreground_patches": _PART,
    "overlap": _Rule(lambda v: _number(0)(v) and v < 1, "a number from 0 to below 1"),
    "learning_rate": _Rule(lambda v: _number(0)(v) and v > 0, "a number above 0, such as 1e-3"),
    "gradient_clipping": _Rule(lambda v: _number(0)(v) and v > 0, "a number above 0, such as 12.0"),
    "optimizer_name": _Rule(lambda v: v in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
    "augment_on": _Rule(lambda v: v in ("workers", "device"), "workers or device"),
    "batch_dice": _SWITCH,
    "weight_decay": _Rule(_number(0), "a number from 0"),
    "kernel_size": _Rule(lambda v: _whole(1)(v) and v % 2 == 1, "an odd whole number, such as 3 or 5"),
    "resume": _SWITCH,
    "check_data": _SWITCH,
    "prepare_ahead": _Rule(lambda v: v is None or isinstance(v, bool), "True, False or None"),
    "compile": _SWITCH,
    "cuda_graph": _SWITCH,
    "context": _Rule(
        lambda v: _number(0.1, 10)(v), "a number from 0.1 to 10, such as 1.5, which is multiplied with patch_size"
    ),
    "pretrained": _Rule(
        lambda v: isinstance(v, (str, os.PathLike)) and str(v) != "",
        "the file of weights to start from, which this workflow needs, such as --pretrained model.pt",
    ),
    "warmup_new_layers": _COUNT,
    "checkpointing": _Rule(lambda v: v == "auto" or isinstance(v, bool), "auto, True or False"),
    "layer_decay": _Rule(lambda v: _number(0, 1)(v) and v > 0, "a number above 0 and up to 1, such as 0.7"),
    "freeze": _Rule(lambda v: v is None or v in PARTS, f"{' or '.join(PARTS)}, or None"),
    "pretrained_partial": _SWITCH,
    "save_safetensors": _SWITCH,
    "form": _Rule(lambda v: v in FORMS, f"one of {', '.join(FORMS)}"),
    "several_channels": _Rule(lambda v: v in SEVERAL_CHANNELS, " or ".join(SEVERAL_CHANNELS)),
    "defective": _Rule(lambda v: v in DEFECTIVE, " or ".join(DEFECTIVE)),
    "picture_interval": _COUNT,
    "pictures": _COUNT,
    "patches_per_image": _POSITIVE,
    "experiment": _Rule(
        lambda v: isinstance(v, str) and re.fullmatch(r"(?!fold_)[\w-][\w.-]*|", v) is not None,
        "the name of a folder in models, of letters, digits, _ and -, such as wide",
    ),
    "amp": _SWITCH,
    "spacing": _Rule(lambda v: _list(v, lambda n: _number(0)(n) and n > 0), 'millimetres, such as "[1.0,1.0,1.0]"'),
    "mirror_axes": _AXES,
    "test_mirror_axes": _AXES,
    "air": _Rule(
        lambda v: v is None or _finite(v) or (isinstance(v, list) and v != [] and all(map(_finite, v))),
        "a normalised intensity, one a channel, or None",
    ),
}


def check_settings(
    patch_size: Sequence[int], device: torch.device | str, spatial_dims: Sequence[int] = (2, 3), **settings: Any
) -> None:
    """Check a workflow's settings, and report everything that cannot work in one message.

    Args:
        patch_size: The size of a patch or window in voxels: two or three numbers, each a multiple of 16.
        device: The device on which the network runs.
        spatial_dims: The numbers of axes that a patch may have.
        **settings: The scalars of the configuration, by the names in `RULES`.

    Raises:
        InputError: With one line for each wrong setting: its name, its value, and what it should be.
    """
    problems = wrong_values(settings)
    problems += [p for p in (_patch_problem(patch_size, spatial_dims), _device_problem(device)) if p]
    if not problems:
        problems += filter(None, (_spacing_problem(patch_size, **settings), new_layers_problem(**settings)))
    if not problems and (problem := _memory_problem(patch_size, device, **settings)):
        problems.append(problem)
    if problems:
        raise InputError("\n".join(problems))


def wrong_values(settings: Mapping[str, Any]) -> list[str]:
    """Say which settings have values that cannot be.

    Args:
        settings: Settings by name; those without a rule in `RULES` are not looked at.

    Returns:
        A line for each of them.

    Example:
        >>> wrong_values({"epochs": 0, "seed": 1})
        ['epochs 0: should be a whole number from 1']
    """
    return [
        f"{name} {value!r}: should be {RULES[name].words}"
        for name, value in settings.items()
        if name in RULES and not RULES[name].fits(value)
    ]


def _patch_problem(patch_size: Any, spatial_dims: Sequence[int]) -> str:
    whole = isinstance(patch_size, (list, tuple)) and all(_whole(1)(n) for n in patch_size)
    if not whole or len(patch_size) not in (2, 3):
        return f'patch_size {patch_size!r}: should be whole numbers, one an axis, such as "[48,64,48]"'
    if len(patch_size) not in spatial_dims:
        return f"patch_size {list(patch_size)}: should have {' or '.join(map(str, spatial_dims))} numbers"
    if not all(map(is_legal, patch_size)):
        near = f"the nearest is {[nearest(n) for n in patch_size]}"
        larger = [DIVISOR * math.ceil(n / DIVISOR) for n in patch_size]
        if larger != [nearest(n) for n in patch_size]:
            near += f", and the next larger one {larger}"
        return f"patch_size {list(patch_size)}: every axis should be a multiple of {DIVISOR}; {near}"
    return ""


def _spacing_problem(patch_size: Sequence[int], spacing: Sequence[float] | None = None, **_: Any) -> str:
    if spacing is None or len(spacing) == len(patch_size):
        return ""
    return (
        f"spacing {list(spacing)}: should have {len(patch_size)} numbers, one for each axis of patch_size "
        f"{list(patch_size)}"
    )


def new_layers_problem(epochs: int | None = None, warmup_new_layers: int = 0, **_: Any) -> str:
    """Name a training in which most layers would never be trained, or return an empty text.

    Args:
        epochs: The length of the training; None if it is not known.
        warmup_new_layers: The number of epochs in which only new layers are trained.
    """
    if epochs is None or not warmup_new_layers or warmup_new_layers < epochs:
        return ""
    return (
        f"warmup_new_layers {warmup_new_layers}: the training has {count(epochs, 'epoch')}, so that only the new "
        "layers would ever be trained; give fewer, or more --epochs"
    )


def _memory_problem(
    patch_size: Sequence[int],
    device: Any,
    batch_size: int = 0,
    checkpointing: Any = False,
    context: float = 1,
    **_: Any,
) -> str:
    """Name a batch that even the smallest network cannot be trained with on this machine's CPU.

    The system would end the program without a word, or the machine would swap for hours.
    """
    if str(device) != "cpu" or not batch_size:
        return ""
    recomputed = [True] * LEVELS if checkpointing else []  # also where this is decided later
    memory, needed = machine_memory(), training_memory("v2_tiny", patch_size, batch_size, checkpointing=recomputed)
    if needed <= memory:
        return ""
    enlarged = f" (with context {context:g})" if context != 1 else ""
    return (
        f"batch_size {batch_size} and patch_size {list(patch_size)}{enlarged}: a training step needs at least "
        f"{needed / 2**30:.3g} GiB, but this machine has {memory / 2**30:.3g} GiB of memory; lower one of them"
    )


def _device_problem(device: Any) -> str:
    if str(device).split(":")[0] == "meta":  # nothing is computed on this device
        return f"device {device}: should be cpu, cuda, or a GPU by its number, such as cuda:1"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as e:
        detail = re.split(r"\n|: |\. ", str(e))[0]  # PyTorch goes on with lists of all that it knows
        detail = "there is no such kind of device" if detail.startswith("Expected one of") else detail
        gpu = "; a GPU is called cuda" if str(device).split(":")[0] == "gpu" else ""
        return f"device {device}: cannot be used here ({detail}){gpu}; choose another, such as --device cpu"
    return ""
