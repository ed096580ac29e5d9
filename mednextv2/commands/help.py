"""The help of the command line, which is made from the verbs' docstrings."""

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mednextv2.commands.arguments import short_names
from mednextv2.commands.workflow_help import format_workflow_help
from mednextv2.version import __version__
from mednextv2.wording import wrap


class _Doc(NamedTuple):
    """The parts of a verb's docstring: its first sentence, further text, the arguments, and examples."""

    summary: str
    text: str
    arguments: dict[str, str]
    examples: list[str]


def format_overview(verbs: Mapping[str, Callable[..., Any]]) -> str:
    """Return the help of the whole command line: one line for each verb."""
    width = max(map(len, verbs)) + 2
    lines = [wrap(f"{name:{width}}{_read_doc(verb).summary}", "  ", " " * (width + 2)) for name, verb in verbs.items()]
    return "\n".join([
        "Train, evaluate and use MedNeXt-v2 networks for medical image segmentation, as MONAI bundles.",
        "", "Usage:", "  mednextv2 VERB [arguments] [options]", "", "Verbs:", *lines,
        "", "mednextv2 VERB --help shows the arguments, the options and examples of a verb,",
        "mednextv2 run BUNDLE WORKFLOW --help the settings of a workflow, and mednextv2 --version the version.",
    ])  # fmt: skip


def format_help(verb: Callable[..., Any]) -> str:
    """Return the help of a verb: what it does, its usage, its arguments and options, and examples.

    Args:
        verb: A function with a Google-style docstring that has the sections `Args` and `Examples`.
    """
    doc, letters = _read_doc(verb), {name: letter for letter, name in short_names(verb).items()}
    parameters = [p for p in inspect.signature(verb).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    optional = [p for p in parameters if p not in needed]
    shown = [p.name.upper() + (" ..." if p.annotation == list[str] else "") for p in needed]
    usage = ["mednextv2", verb.__name__, *shown, *(["[options]"] if optional else [])]
    lines = [wrap(doc.summary), *(["", wrap(doc.text)] if doc.text else []), "", "Usage:", f"  {' '.join(usage)}"]
    if needed:
        lines += ["", "Arguments:"]
    for p in needed:
        lines += [f"  {p.name.upper()}", wrap(doc.arguments[p.name], " " * 6)]
    if optional:
        lines += ["", "Options:"]
    for p in optional:
        lines += [f"  {_option(p, letters)}", wrap(doc.arguments[p.name] + _default(p), " " * 6)]
    return "\n".join([*lines, "", "Examples:", *(f"  {line}" for line in doc.examples)])


def find_help(verbs: Mapping[str, Callable[..., Any]], arguments: Sequence[str]) -> str | None:
    """Return the help that a command line asks for, or None if it asks for something else.

    Args:
        verbs: The verbs by name.
        arguments: The words of the command line, starting with the verb.

    Raises:
        InputError: If the command line asks for the help of a workflow that does not exist.
    """
    if not arguments or arguments[0] in ("-h", "--help", "--"):
        return format_overview(verbs)
    if arguments[0] in ("-V", "--version"):
        return f"mednextv2 {__version__}"
    if arguments[0] == "help":
        return format_help(verbs[arguments[1]]) if arguments[1:2] and arguments[1] in verbs else format_overview(verbs)
    if arguments[0] not in verbs or not {"-h", "--help"} & {*arguments}:
        return None
    words = [word for word in arguments[1:] if not word.startswith("-")]
    if arguments[0] == "run" and len(words) >= 2:
        return format_workflow_help(words[0], words[1], _value_of("--network", arguments))
    return format_help(verbs[arguments[0]])


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """Return the word after an option, or after its =; other options do not matter to the help."""
    for word, following in zip(arguments, (*arguments[1:], ""), strict=True):
        if word == option and not following.startswith("-"):
            return following or None
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _read_doc(verb: Callable[..., Any]) -> _Doc:
    head, _, examples = (inspect.getdoc(verb) or "").partition("\n\nExamples:\n")
    head, _, listed = head.partition("\n\nArgs:\n")
    summary, _, text = head.partition("\n\n")
    # An argument begins where its name stands at the margin: any word before a colon may begin a line of its text.
    entries = re.findall(r"^(\w+): (.*(?:\n +.*)*)", textwrap.dedent(listed), re.MULTILINE)
    arguments = {name: " ".join(described.split()) for name, described in entries}
    return _Doc(" ".join(summary.split()), " ".join(text.split()), arguments, textwrap.dedent(examples).splitlines())


def _option(p: inspect.Parameter, letters: Mapping[str, str]) -> str:
    if p.kind is p.VAR_KEYWORD:
        return "--SETTING VALUE"
    letter = f"-{letters[p.name]}, " if p.name in letters else ""
    return letter + (f"--{p.name}" if isinstance(p.default, bool) else f"--{p.name} {p.name.upper()}")


def _default(p: inspect.Parameter) -> str:
    shown = p.kind is not p.VAR_KEYWORD and p.default not in (None, "") and not isinstance(p.default, bool)
    return f" The default is {p.default}." if shown else ""
