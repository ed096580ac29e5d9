"""Settings that a user gives, compared with those that a configuration has."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser

from mednextv2.wording import brief

_RUN_ARGUMENTS = ("run_id", "init_id", "final_id", "meta_file", "logging_file")  # MONAI's arguments, passed on


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
    known = [*more, *(k for k in config if k != ConfigParser.meta_key)]
    problems = []
    for key in overrides:
        if key in _RUN_ARGUMENTS:
            continue
        parts = key.replace("#", "::").split("::")
        node: Any = config
        for part in parts:
            if isinstance(node, Mapping) and part in node:
                node = node[part]
            elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            else:
                names = list(node) if isinstance(node, Mapping) and part != parts[0] else known
                near = difflib.get_close_matches(part, [str(n) for n in names], n=3)
                before, _, after = key.partition(part or key)
                near = [f"--{before}{name}{after}" for name in near]
                hint = f"did you mean {' or '.join(near)}?" if near else f"see {source}"
                problems.append(f"--{key}: there is no such setting; {hint}")
                break
        else:
            if len(parts) == 1 and (kind := _other_kind(node, overrides[key])):
                problems.append(f"--{key} {brief(overrides[key])}: {kind}")
    return problems


def _other_kind(default: Any, value: Any) -> str:
    """Say what should be in the place of a value that is another kind of thing than the default, or return nothing."""
    if isinstance(default, dict) and isinstance(value, (str, int, float)):
        return f"is a section, not a setting; its parts are {brief([part for part in default if part[0] != '_'])}"
    texts = isinstance(default, list) and bool(default) and isinstance(default[0], (str, dict))
    if texts and (isinstance(value, (str, int, float)) or value == []):
        example = [part for part in default if isinstance(part, str)] or ["a", "b"]
        return f"should be a list, such as {brief(str(example))}, each text in it in quotes"
    return ""
