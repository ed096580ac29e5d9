"""The check of a user's own network file: what it must hold, and whether the parts that it names exist."""

import difflib
import inspect
import pydoc
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser, ReferenceResolver

from mednextv2.bundle.overrides import find_entry
from mednextv2.errors import InputError, causes, find_input_error
from mednextv2.text_files import MAX_YAML_BYTES, parse_yaml, read_json, read_text
from mednextv2.training.engine import is_out_of_memory
from mednextv2.wording import brief

_SEE = "see docs/networks.md"
_FACTS = ("patch", "channels", "scheme", "spacing", "network_name")  # to which such a file usually refers
_REWRITTEN = ("$", "@", "%")
_SHOWN = 12  # number of names in a message
_LONGEST = 300  # characters of another program's message


def read_network_file(file: Path, taken: Mapping[str, str]) -> dict[str, Any]:
    """Read a network file and check that it holds what every such file needs.

    Args:
        file: The file.
        taken: Names that its network must not have, each with what has it.

    Returns:
        The content.

    Raises:
        InputError: If the file cannot be read, or something is missing or of a wrong kind.
    """
    content = read_json(file) if file.suffix == ".json" else parse_yaml(read_text(file, MAX_YAML_BYTES), file)
    if content is None:
        raise InputError(f"{file}: is empty; it needs network_name and network_def ({_SEE})")
    if not isinstance(content, dict):
        raise InputError(
            f"{file}: holds {_kind(content)}, where settings by name are expected, such as "
            f"network_name: my_unet ({_SEE})"
        )
    if odd := [key for key in content if not isinstance(key, str)]:
        raise InputError(f"{file}: its key {brief(odd[0])} should be a name; put it in quotes ({_SEE})")
    for needed, what in (("network_name", "a name that no other network has"), ("network_def", "the network")):
        if needed not in content:
            near = difflib.get_close_matches(needed, [key for key in content if key != "network_settings"], n=1)
            hint = f"; is {near[0]} meant to be it?" if near else ""
            raise InputError(f"{file}: {needed} is missing, {what}{hint} ({_SEE})")
    name, network = content["network_name"], content["network_def"]
    if not isinstance(name, str) or not re.fullmatch(r"(?!fold_)[\w-][\w.-]*", name):
        raise InputError(
            f"{file}: network_name {brief(name)} should be a name of letters, digits, _ and - that does not begin with "
            f"fold_, since a folder gets this name ({_SEE})"
        )
    if name in taken:
        raise InputError(f"{file}: network_name {name} is the name of {taken[name]}; choose another one")
    if not (isinstance(network, dict) and "_target_" in network) and not (
        isinstance(network, str) and network.startswith(("$", "@"))
    ):
        lacks = "has no _target_" if isinstance(network, dict) else f"is {brief(network)}"
        raise InputError(
            f"{file}: network_def {lacks}; it should name a class or function with its arguments, such as "
            f"{{_target_: monai.networks.nets.BasicUNet, spatial_dims: 3}} ({_SEE})"
        )
    if not isinstance(content.get("network_settings", {}), dict):
        raise InputError(
            f"{file}: network_settings {brief(content['network_settings'])} should be settings by name, such as "
            f'{{network_filters: "@network_filters"}} ({_SEE})'
        )
    return content


def _kind(content: Any) -> str:
    return "a list" if isinstance(content, list) else f"only {brief(content)}"


def check_parts(file: Path, content: Mapping[str, Any], config: Mapping[str, Any], workflow: str = "") -> None:
    """Check the parts from which a file builds its network, without building anything.

    Args:
        file: The file, for messages.
        content: Its content: see :func:`read_network_file`.
        config: The configuration of the workflow with this file, to whose entries the file may refer.
        workflow: The name of the workflow's file, for messages.

    Raises:
        InputError: With a line for each class or function that does not exist, for each keyword that it does not take
            or that is missing, and for each reference to what does not exist.
    """
    locator = ComponentLocator()
    problems: dict[str, None] = {}  # in their order, each once
    for key in _parts_of_network(content):
        for place, part in _walk(content[key], key):
            if isinstance(part, dict) and "_target_" in part:
                problems |= dict.fromkeys(_target_problems(part, locator, place))
            elif isinstance(part, str):
                found = (_reference_problem(name, content, config, workflow) for name in _references(part, place))
                problems |= {f"{place}: {text}": None for text in found if text}
    if problems:
        raise InputError("\n".join(f"{file}: {problem}" for problem in problems))


def _parts_of_network(content: Mapping[str, Any]) -> list[str]:
    """Return the keys of the network and of everything in the file to which it refers."""
    found = [key for key in ("network_def", "network_settings") if key in content]
    for key in found:  # which grows meanwhile
        for place, part in _walk(content[key], key):
            for name in _references(part, place) if isinstance(part, str) else ():
                first = name.split("::")[0]
                if first in content and first not in found:
                    found.append(first)
    return found


def _walk(part: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield a part of a configuration and all parts of it, each with its name."""
    yield place, part
    if isinstance(part, (dict, list)):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield from _walk(value, f"{place}::{key}")


def _references(text: str, place: str) -> list[str]:
    """Return the names of the entries to which a text refers, as MONAI finds them."""
    try:
        absolute = ConfigParser.resolve_relative_ids(place, text)
    except ValueError:
        return []  # a relative name that leads nowhere, which MONAI says itself
    return [name for name in ReferenceResolver.match_refs_pattern(absolute) if name]


def _reference_problem(name: str, content: Mapping[str, Any], config: Mapping[str, Any], workflow: str) -> str:
    if find_entry(config, name.split("::"))[1] is None:
        return ""
    known = [key for key in (*_FACTS, *content) if key in config]
    there = ", ".join(f"@{key}" for key in dict.fromkeys(known))
    return (
        f"refers to @{name}, which does not exist{_near(name, [str(key) for key in config], '@')}; there are {there}, "
        f"and the other names in {workflow or 'the workflow'}"
    )


def _near(name: str, known: list[str], sign: str = "") -> str:
    """Return a hint at similar names, or an empty text."""
    by_small = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), by_small, n=2)
    return f" (did you mean {' or '.join(sign + by_small[other] for other in near)}?)" if near else ""


def _target_problems(part: Mapping[str, Any], locator: ComponentLocator, place: str) -> list[str]:
    """Say what is wrong with the class or function that a part names, and with its keywords."""
    target = part["_target_"]
    if not isinstance(target, str) or not target:
        return [f"{place}: _target_ {brief(target)} should be the name of a class or function"]
    if target.startswith(_REWRITTEN):
        return []  # an expression, which is only known when it runs
    found, problem = _locate(target, locator)
    if problem:
        return [f"{place}: {problem}"]
    if part.get("_disabled_") or not callable(found):
        return []
    try:
        parameters = inspect.signature(found).parameters
    except (ValueError, TypeError):  # of classes in C
        return []
    given = [str(key) for key in part if key not in ConfigComponent.non_arg_keys]
    named = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    problems = []
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in given:
            if key not in named:
                problems.append(f"{place}: {target} takes no {key}{_near(key, named)}; it takes {', '.join(named)}")
    needed = [name for name in named if parameters[name].default is inspect.Parameter.empty and name not in given]
    if needed and not problems and part.get("_mode_", "default") == "default":
        problems.append(f"{place}: {target} needs {' and '.join(needed)}; give {'it' if len(needed) == 1 else 'them'}")
    return problems


def _locate(target: str, locator: ComponentLocator) -> tuple[Any, str]:
    """Return the class or function with a name as MONAI finds it, or what is wrong with the name."""
    modules = locator.get_component_module_name(target)
    module = modules[0] if isinstance(modules, list) else modules
    try:
        found = pydoc.locate(f"{module}.{target}" if module else target)
    except pydoc.ErrorDuringImport as e:
        return None, f"{target} cannot be imported ({str(e.value)[:_LONGEST]}); mend or install it"
    if isinstance(found, ModuleType):
        return None, f"{target} is a module; give a class or function in it, such as {target}.{_example(found)}"
    if found is not None:
        return found, ""
    parts = target.split(".")
    if len(parts) == 1:
        hint = _near(target, list(getattr(locator, "_components_table", None) or ()))
        advice = f"give its full name, such as package.{target}"
        return None, f"{target} does not exist, as MONAI has no such class{hint}; {advice}"
    for length in range(len(parts) - 1, 0, -1):
        inner = pydoc.locate(".".join(parts[:length]))
        if inner is not None:
            names = [name for name in dir(inner) if not name.startswith("_")]
            classes = [name for name in names if not isinstance(getattr(inner, name, None), ModuleType)]
            hint = _near(parts[length], classes) or _near(parts[length], names)
            return None, f"{target} does not exist, as {'.'.join(parts[:length])} has no {parts[length]}{hint}"
    return None, (
        f"{target} does not exist, as there is no module {parts[0]} here; install it, or add its folder to PYTHONPATH"
    )


def _example(module: ModuleType) -> str:
    classes = [name for name, part in vars(module).items() if inspect.isclass(part) and not name.startswith("_")]
    return classes[0] if classes else "NAME"


def explain_failure(file: Path, content: Mapping[str, Any], error: BaseException) -> InputError | None:
    """Return what a user should know about an error in building the parts of a network file, or None for any other.

    Args:
        file: The file.
        content: Its content.
        error: An exception of a workflow.
    """
    if find_input_error(error) is not None or any(map(is_out_of_memory, causes(error))):
        return None
    chain = list(causes(error))
    place = next((name for e in reversed(chain) if (name := _place(e))), "")
    if place.split("::")[0] not in content:
        return None
    deepest = chain[-1]
    text = " ".join(str(deepest).split())[:_LONGEST]
    return InputError(
        f"{file}: {place} cannot be built ({type(deepest).__name__}: {text}); correct it in this file, or in the code "
        f"that it names ({_SEE})"
    )


def _place(error: BaseException) -> str:
    """Return the name of the innermost entry that MONAI's parser was building when an error was raised."""
    place, trace = "", error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if (
            frame.f_code.co_name == "_resolve_one_item"
            and frame.f_globals.get("__name__") == ReferenceResolver.__module__
        ):
            place = str(frame.f_locals.get("id", place))
        trace = trace.tb_next
    return place
