"""The help of a bundle's workflow: its settings, with the values and the comments of its configuration file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mednextv2.wording import wrap

#: Parts of a configuration that are not settings, although they may be written as one value.
_PARTS = (
    "about", "bundle_root", "engine_amp", "flat_axis", "handlers", "imports", "initialize", "key_metric", "length",
    "network_name", "network_on_device", "new_layers", "new_tensors", "nnunet", "patch", "prepare_cases",
    "preprocess_keys", "run", "served", "training", "training_dir", "warmup",
)  # fmt: skip
_UPKERN = (
    "It trains twice: with kernel_size 3, and then with kernel_size 5 from these weights. The settings are those of "
    "the workflow finetune. With first_ before its name, such as --first_epochs 300, a setting holds for the first "
    "training only. The first training starts from random weights, by the workflow train, unless --pretrained is "
    "given. Of the settings below, three are different here: kernel_size is that of the second training, 5 by default, "
    "pretrained is not required, and the weights are in models/upkern, unless experiment names another folder."
)
#: Settings whose values are computed and whose names explain themselves.
_PLAIN = ("dataset_dir", "device", "num_workers")


def format_workflow_help(bundle: str, workflow: str, network: str | None = None) -> str:
    """Return the help of `mednextv2 run BUNDLE WORKFLOW`.

    Args:
        bundle: The folder or the name of the bundle.
        workflow: The workflow, such as train.
        network: The network that takes the place of the bundle's own, with settings of its own.

    Raises:
        InputError: If the bundle, the workflow or the network does not exist.
    """
    from mednextv2.bundle.run import find_bundle, workflow_files
    from mednextv2.bundle.upkern import is_upkern

    files = workflow_files(find_bundle(bundle), workflow.replace("upkern", "finetune"), network)
    chosen = f" --network {network}" if network else ""
    lines = [
        wrap(f"Settings of the workflow {workflow}, from {' and '.join(files if network else files[-1:])}."),
        "A value that begins with $ or @ is computed from other settings. A setting is given as --NAME VALUE.",
        *([wrap(_UPKERN)] if is_upkern(workflow) else []),
        "",
        "Usage:",
        f"  mednextv2 run {bundle} {workflow}{chosen} --NAME VALUE …",
        "",
        "Settings:",
    ]
    for name, value, comment in read_settings_text([Path(file).read_text(encoding="utf-8") for file in files]):
        lines.append(f"  --{name} {value}")
        lines += [wrap(comment, " " * 6)] if comment else []
    return "\n".join(lines)


def read_settings_text(texts: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return each setting at the top of configuration files: its name, its value as written, and its comment.

    Args:
        texts: The content of the files; a setting in a later file replaces that in an earlier one, whose
            comment stays if the later one has none.
    """
    found: dict[str, tuple[str, str, str]] = {}
    for text in texts:
        content: dict[str, Any] = yaml.safe_load(text)
        for line in text.splitlines():
            match = re.match(r"(\w+): +(.*)", line)
            if match is None or match[1] in _PARTS or not _is_setting(content.get(match[1])):
                continue
            value, comment = _split_comment(match[2])
            if comment or match[1] in _PLAIN or not value.strip('"').startswith(("$", "{")):
                before = found.get(match[1], ("", "", ""))
                found[match[1]] = (match[1], value, comment or before[2])
    return list(found.values())


def _is_setting(value: Any) -> bool:
    return not isinstance(value, dict) and not (isinstance(value, list) and any(isinstance(v, dict) for v in value))


def _split_comment(text: str) -> tuple[str, str]:
    """Separate a value from its comment; a # inside quotes or without a space before it is part of the value."""
    match = re.match(r"""((?:"[^"]*"|'[^']*'|[^"'#]|(?<! )#)*?) +# *(.*)""", text)
    return (match[1], match[2]) if match else (text.strip(), "")
