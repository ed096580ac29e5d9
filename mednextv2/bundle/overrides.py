"""Settings that a user gives, compared with those that a configuration has."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser

from mednextv2.wording import brief

_RUN_ARGUMENTS = ("run_id", "init_id", "final_id", "meta_file", "logging_file")  # MONAI's arguments, passed on

#: Entries at the top of configurations that are computed, and where users set what they are computed from.
_COMPUTED = {"patch": " (--patch_size and --context)", "new_layers": " (--warmup_new_layers)", "new_tensors": "",
             "flat_axis": " (--patch_size and --spacing)", "length": " (--epochs)", "warmup": " (--warmup_epochs)",
             "voxels": " (--spacing)"}  # fmt: skip


def override_problems(
    config: Mapping[str, Any], overrides: Mapping[str, Any], more: Sequence[str] = (), source: str = ""
) -> list[str]:
    """Say which settings a configuration does not have, or are of another kind than its own.

    Args:
        config: The configuration.
        overrides: Settings by name; `::` and `#` lead to nested settings.
        more: Further names that are allowed.
        source: Where all settings are listed, for messages.

    Returns:
        A line for each of them.
    """
    known = [*more, *(k for k in config if k != ConfigParser.meta_key and _is_setting(k, config[k]))]
    problems = []
    for key in overrides:
        if key in _RUN_ARGUMENTS:
            continue
        parts = key.replace("#", "::").split("::")
        node, missing = find_entry(config, parts)
        if missing is None and key in _COMPUTED and key not in more:
            problems.append(f"--{key}: is computed from other settings{_COMPUTED[key]}; see {source}")
        elif missing is not None:
            names = list(node) if isinstance(node, Mapping) and node is not config else known
            near = difflib.get_close_matches(missing, [str(n) for n in names], n=3)
            before, _, after = key.partition(missing or key)
            near = [f"--{before}{name}{after}" for name in near]
            hint = f"did you mean {' or '.join(near)}?" if near else f"see {source}"
            problems.append(f"--{key}: there is no such setting; {hint}")
        elif len(parts) == 1 and (kind := _other_kind(node, overrides[key])):
            problems.append(f"--{key} {brief(overrides[key])}: {kind}")
    return problems


def _is_setting(key: str, value: Any) -> bool:
    """Return whether an entry at the top is one that users give, and not a part of the workflow."""
    return key not in _COMPUTED and not (isinstance(value, dict) and "_target_" in value) and key[:1] != "_"


def find_entry(config: Mapping[str, Any], parts: Sequence[str]) -> tuple[Any, str | None]:
    """Follow the parts of a name into a configuration.

    Args:
        config: The configuration.
        parts: The parts of the name: keys, and numbers of the entries of lists.

    Returns:
        The entry and None; or, if a part does not exist, what lies before it, and that part.

    Example:
        >>> find_entry({"a": [{"b": 1}]}, ["a", "0", "b"]), find_entry({"a": [2]}, ["a", "1"])
        ((1, None), ([2], '1'))
    """
    node: Any = config
    for part in parts:
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return node, part
    return node, None


def _other_kind(default: Any, value: Any) -> str:
    """Say what should be in the place of a value that is another kind of thing than the default, or return nothing."""
    if isinstance(default, dict) and isinstance(value, (str, int, float)):
        return f"is a section, not a setting; its parts are {brief([part for part in default if part[0] != '_'])}"
    texts = isinstance(default, list) and bool(default) and isinstance(default[0], (str, dict))
    if texts and (isinstance(value, (str, int, float)) or value == []):
        example = [part for part in default if isinstance(part, str)] or ["a", "b"]
        return f"should be a list, such as {brief(str(example))}, each text in it in quotes"
    return ""
