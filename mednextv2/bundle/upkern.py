"""UpKern in two trainings: with a small kernel, then with a larger one that starts from it."""

import gc
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednextv2.bundle.run import configure, find_bundle, run_bundle
from mednextv2.distributed import is_main_process, staying_joined
from mednextv2.errors import InputError, UsageError
from mednextv2.paths import absolute, writing
from mednextv2.scores.results_json import FIRST_STAGE
from mednextv2.settings import new_layers_problem, wrong_values
from mednextv2.text_files import read_json

logger = logging.getLogger(__name__)

#: The name of the two trainings, on the command line and as a folder of models.
UPKERN = "upkern"
FIRST = "first_"
_EPOCHS = 300  # of the second training by default, as in the recipe finetune
_DONE = "finished.json"  # in the folder of the first training
_ONCE = ("epochs", "kernel_size", "warmup_epochs")  # settings of which each training has its own
_LATER = ("warmup_new_layers", "layer_decay", "freeze", "checkpointing", "context")  # of the second, unless asked for


#: Settings that must be the same in both, else the second would be validated on cases that the first was trained on, or
#: would have another network.
_SHARED = (
    "dataset_dir", "labels_dir", "fold", "num_folds", "splits", "group", "labels", "regions", "ignore_label",
    "channels", "network", "variant", "experiment", "output_dir",
)  # fmt: skip
_UNIMPORTANT = ("output_dir", "resume", "device", "num_workers", "prepared_dir", "compile", "cuda_graph")  # to a result


def is_upkern(workflow: str) -> bool:
    """Tell whether a workflow's name asks for the two trainings: `upkern`, or `upkern+multi_gpu_train`."""
    return UPKERN in workflow.split("+")


def run_upkern(bundle: str | os.PathLike, workflow: str = UPKERN, **settings: Any) -> Path:
    """Train a network with small kernels, then one with larger kernels that starts from the enlarged small ones.

    The results are those of the second training; the first has the folder `kernel_3` in its folder. A command that was
    interrupted goes on where it was, in either training.

    Args:
        bundle: The path or name of the bundle.
        workflow: `upkern`, or `upkern+multi_gpu_train`.
        **settings: Settings of the workflow `finetune`, which hold for both trainings. `epochs`, `warmup_epochs` and
            `kernel_size` (5 by default) are those of the second, and so are settings that are about pretrained weights
            and the patch. With `first_` before its name, such as `first_epochs`, a setting holds for the first training
            only; `first_kernel_size` is 3 by default. With `pretrained`, the first training starts from these weights,
            in the workflow `finetune`, and otherwise from random ones, in the workflow `train`.

    Returns:
        The folder of the results.

    Raises:
        InputError: If a setting does not exist or cannot be, before anything is trained.

    Source:
        Roy et al. 2023, MedNeXt, section 2.3 (arXiv:2303.09975).
    """
    root = find_bundle(bundle)
    several = "multi_gpu_train" in workflow.split("+")
    scratch, tuned = ("multi_gpu_train", "finetune+multi_gpu_train") if several else ("train", "finetune")
    if {*workflow.split("+")} - {UPKERN, "multi_gpu_train"}:
        raise UsageError(f"{workflow}: {UPKERN} can only be joined with multi_gpu_train")
    first, second = _settings_of_each(root, settings)
    folder, before = Path(second["output_dir"]), Path(first["output_dir"])
    trainings = tuned if first.get("pretrained") else scratch, tuned
    _check(root, trainings, first, second)
    done = before / _DONE
    if second.get("resume", True) and done.is_file() and (before / "model.pt").is_file():
        _tell_of_the_first(done, first)
    else:
        done.unlink(missing_ok=True)
        with staying_joined():
            run_bundle(root, trainings[0], **first)
        gc.collect()  # its network and its cases, before the next are built
        if is_main_process():
            with writing(done) as temporary:
                temporary.write_text(json.dumps(_record(first)) + "\n", encoding="utf-8")
    run_bundle(root, trainings[1], **second)
    return folder


def _settings_of_each(root: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the first and the second training."""
    network = settings.get("network")
    if network is not None and not str(network).startswith("mednext_"):
        raise UsageError(f"--network {network}: UpKern enlarges the depthwise kernels of MedNeXt; choose a --variant")
    own = {key.removeprefix(FIRST): value for key, value in settings.items() if key.startswith(FIRST)}
    if wrong := [name for name in own if name in _SHARED]:
        raise UsageError(f"--{FIRST}{wrong[0]}: both trainings have the same {wrong[0]}; give --{wrong[0]}")
    shared = {key: value for key, value in settings.items() if not key.startswith(FIRST)}
    experiment = shared.pop("experiment", None) or (f"{network}_{UPKERN}" if network else UPKERN)
    default = root / "models" / experiment / f"fold_{shared.get('fold', 0)}"
    folder = absolute(shared.pop("output_dir", None) or default)
    pretrained = shared.pop("pretrained", None)
    second: dict[str, Any] = {"kernel_size": 5, "experiment": experiment, **shared, "output_dir": folder}
    first = {"kernel_size": 3, **{k: v for k, v in shared.items() if k not in (*_ONCE, *_LATER)}, **own}
    small, large = first["kernel_size"], second["kernel_size"]
    if wrong := wrong_values({"kernel_size": small}) + wrong_values({"kernel_size": large}):
        raise InputError("\n".join(wrong))
    if small >= large:
        raise UsageError(
            f"--{FIRST}kernel_size {small}: should be smaller than --kernel_size {large}, to which it is enlarged"
        )
    first |= {"experiment": experiment, "output_dir": folder / f"{FIRST_STAGE}{small}"}
    if pretrained:
        first["pretrained"] = absolute(pretrained)
    second["pretrained"] = Path(first["output_dir"]) / "model.pt"
    return first, second


def _check(root: Path, trainings: tuple[str, str], first: dict[str, Any], second: dict[str, Any]) -> None:
    """Refuse settings of both trainings before the first, which may take days."""
    configure(root, trainings[1], second)
    try:
        configure(root, trainings[0], first)
    except UsageError as e:  # settings that both have were found above
        raise UsageError(re.sub(r"--(?=\w)", f"--{FIRST}", str(e))) from e
    later = wrong_values(second)
    if not later and (problem := new_layers_problem(**{"epochs": _EPOCHS, **second})):
        later = [problem]
    if wrong := later + [f"{FIRST}{line}" for line in wrong_values(first) if line not in later]:
        raise InputError("\n".join(wrong))


def _record(first: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kernel_size": first["kernel_size"],
        "settings": {name: str(value) for name, value in first.items() if name not in _UNIMPORTANT},
    }


def _tell_of_the_first(done: Path, first: Mapping[str, Any]) -> None:
    """Say that the first training is done, and which settings have changed since."""
    known = read_json(done)
    logger.info("%s: the training with kernel size %s is done", done.parent, known.get("kernel_size"))
    before, now = known.get("settings"), _record(first)["settings"]
    if isinstance(before, dict) and (changed := sorted(k for k in {*before, *now} if before.get(k) != now.get(k))):
        logger.warning(
            "%s: was trained with other settings (%s), and is used as it is; with --resume False, both trainings begin "
            "anew", done.parent,
            ", ".join(f"{k} {before.get(k, 'by default')}, now {now.get(k, 'by default')}" for k in changed),
        )  # fmt: skip
