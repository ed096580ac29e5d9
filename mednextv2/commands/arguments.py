"""The words of a command line, which become the options and arguments of a verb.

A word is the text that was typed. It becomes a number, a switch or a list only if the verb's annotation, or the
setting of a workflow, asks for one, since a folder may be called 2024_01, 1e5, None, [a,b] or $HOME.
"""

import difflib
import inspect
import re
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from mednextv2.commands.peers import hint_for
from mednextv2.errors import UsageError
from mednextv2.paths import PATHS, expand

Verb = Callable[..., Any]
#: Settings of workflows whose values are names or texts, as typed.
_NAMES = (
    "augment_on",
    "dataset_name",
    "device",
    "experiment",
    "freeze",
    "group",
    "network",
    "optimizer_name",
    "pretrained_sha256",
    "series",
    "variant",
)
#: Those of them, and those paths, that may be None.
_OPTIONAL = (
    "freeze", "group", "labels_dir", "postprocessing_file", "pretrained", "pretrained_sha256", "series", "splits",
)  # fmt: skip
_NOTHING = ("none", "null")


def find_verb(verbs: Mapping[str, Verb], name: str) -> Verb:
    """Return the verb with a name.

    Raises:
        UsageError: If there is none; the message names similar verbs.
    """
    if name in verbs:
        return verbs[name]
    hint = hint_for("", name)
    if not hint:
        near = difflib.get_close_matches(name, verbs, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(verbs)}"
    raise UsageError(f"{name}: mednextv2 has no such verb; {hint}")


def read_arguments(verb: Verb, words: Sequence[str]) -> dict[str, Any]:
    """Return the arguments with which a verb is called.

    Args:
        verb: A function. Its parameters without a default are arguments, in this order, and the others are options.
            The last argument takes one word or more if its annotation is `list[str]`. With `**settings`, the function
            takes any further option.
        words: The words of the command line after the verb.

    Raises:
        UsageError: If an option does not exist, lacks its value, or occurs twice, if a value is not a number where one
            is needed, or if arguments are missing or left over.
    """
    parameters = {p.name: p for p in inspect.signature(verb).parameters.values()}
    named, unnamed = _split(verb, parameters, words)
    several: list[str] = []
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    free = [name for name in needed if name not in named]
    usage = " ".join(["mednextv2", verb.__name__, *map(str.upper, needed), "[options]"])
    if free and parameters[free[-1]].annotation == list[str]:
        several, unnamed = unnamed[len(free) :], unnamed[: len(free)]
    if len(unnamed) > len(free):
        left = " ".join(unnamed[len(free) :])
        taken = "".join(f"; {value} was given as --{name}" for name, value in named.items() if name in needed)
        raise UsageError(f"{left}: {verb.__name__} takes no more words ({usage}); give options by name{taken}")
    if missing := free[len(unnamed) :]:
        words = " and ".join(map(str.upper, missing)) + (" are" if len(missing) > 1 else " is")
        raise UsageError(f"{verb.__name__}: {words} missing; usage: {usage}")
    named |= dict(zip(free, unnamed, strict=False))
    values = {
        name: read_value(name, value, parameters[name].annotation) if name in parameters else read_setting(name, value)
        for name, value in named.items()
    }
    for name in needed:
        if parameters[name].annotation == list[str]:
            values[name] = [values[name], *(read_value(name, word, str) for word in several)]
    return values


def short_names(verb: Verb) -> dict[str, str]:
    """Return the letters that stand for parameters: each stands for the first parameter that begins with it."""
    letters: dict[str, str] = {}
    for p in inspect.signature(verb).parameters.values():
        if p.kind is not p.VAR_KEYWORD:
            letters.setdefault(p.name[0], p.name)
    letters.pop("h", None)  # -h is the option for help
    return letters


def read_value(name: str, value: str | bool, kind: Any) -> Any:
    """Return a typed word as a value of the annotated type.

    Args:
        name: The parameter's name, for messages.
        value: The word, or True for a switch without a word.
        kind: `str`, `int`, `float`, `bool`, one of them `| None`, or Any for the result of :func:`read_literal`. With
            `Sequence[str]`, weights may be several files.

    Raises:
        UsageError: If the word is not such a value.
    """
    kinds = get_args(kind) or (kind,)
    if bool in kinds:
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise UsageError(f"--{name} {value}: is a switch and takes no value")
    if value is True:
        raise UsageError(f"--{name}: needs a value")
    if value == "":  # as of a shell's variable that is not set; as a path it would be the working directory
        raise UsageError(f"{name}: is empty; give a value (a variable of the shell may not be set)")
    if type(None) in kinds and str(value).lower() in _NOTHING and str not in kinds:
        return None
    if name == "weights" and Sequence[str] in kinds:
        return _weights(str(value))
    if str in kinds:
        return value
    if kind is Any:
        return read_literal(str(value))
    number = int if int in kinds else float
    try:
        return number(str(value))
    except ValueError:
        words = "a whole number" if number is int else "a number"
        raise UsageError(f"--{name} {value}: should be {words}") from None


def read_setting(name: str, value: str | bool) -> Any:
    """Return the value of a workflow's setting: text for paths and names, otherwise what :func:`read_literal` returns.

    The words none and null mean None for a setting that may be None, such as pretrained; a file of such a name is given
    as ./none.
    """
    if value == "" and (name in PATHS or name in _NAMES):
        raise UsageError(f"--{name}: is empty; give a value (a variable of the shell may not be set)")
    if value is True:
        if name in PATHS or name in _NAMES:
            raise UsageError(f"--{name}: needs a {'path' if name in PATHS else 'value'}")
        return True
    text = str(value)
    if name == "weights":
        return _weights(text)
    if name == "dataset_dir":
        return _folders(text)
    if name in _OPTIONAL and text.lower() in _NOTHING:
        return None
    return text if name in PATHS or name in _NAMES else read_literal(text)


def read_literal(text: str) -> Any:
    """Return the number, the truth value, None or the list that a text spells, or else the text itself.

    Examples:
        >>> read_literal("1e-3"), read_literal("[0,1]"), read_literal("true"), read_literal("v2_base")
        (0.001, [0, 1], True, 'v2_base')
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in _NOTHING:
        return None
    try:
        return literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _folders(text: str) -> str | list[str]:
    """Return several folders for [a,b], unless there is a folder of that name."""
    if not re.fullmatch(r"\[.*,.*\]", text, re.DOTALL) or expand(text).exists():
        return text
    parts = [part.strip().strip("'\"") for part in text[1:-1].split(",")]
    return [part for part in parts if part]


def _weights(text: str) -> str | list[str]:
    """Return several files for [a.pt,b.pt] or a.pt,b.onnx, unless there is a file of that name."""
    if not re.fullmatch(r"\[.*\]|.*\.\w+,.*\.\w+", text, re.DOTALL) or expand(text).exists():
        return text
    parts = [part.strip().strip("'\"") for part in text.removeprefix("[").removesuffix("]").split(",")]
    return [part for part in parts if part]


def _split(
    verb: Verb, parameters: Mapping[str, inspect.Parameter], words: Sequence[str]
) -> tuple[dict[str, str | bool], list[str]]:
    """Separate the options, by name, from the words without a name."""
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD]
    named: dict[str, str | bool] = {}
    unnamed: list[str] = []
    problems = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            unnamed += rest
            break
        if not _is_option(word):
            unnamed.append(word)
            continue
        shown, equals, given = word.partition("=")
        name = _full_name(verb, shown)
        switch = name in names and bool in (get_args(parameters[name].annotation) or (parameters[name].annotation,))
        value: str | bool = given if equals else True
        if (switch and not equals and rest and rest[0].lower() in ("true", "false")) or (
            not switch and not equals and rest and not _is_option(rest[0])
        ):
            value = rest.pop(0)
        if name.startswith("no") and name[2:] in names and not equals:
            name, value = name[2:], "false"
        hint = hint_for(verb.__name__, name)
        if name in named and name in names:  # the last value of a workflow's setting counts, as on MONAI's command line
            problems.append(f"{shown}: is given twice")
        elif name not in names and (hint or not open_ended):
            problems.append(f"{shown}: {verb.__name__} has no such option; {hint or _near(name, names)}")
        named[name] = value
    if problems:
        raise UsageError("\n".join(problems))
    return named, unnamed


def _is_option(word: str) -> bool:
    return re.match(r"--.|-[A-Za-z]", word) is not None


def _full_name(verb: Verb, shown: str) -> str:
    if not shown.startswith("--"):
        return short_names(verb).get(shown[1:], shown[1:])
    first, nested, rest = shown[2:].partition("::")
    return first.replace("-", "_") + nested + rest


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=2)
    return f"did you mean {' or '.join('--' + n for n in near)}?" if near else f"there are --{', --'.join(names)}"
