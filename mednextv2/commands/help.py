"""The help of the command line, which is made from the verbs' docstrings, and the check of a verb's options."""

import difflib
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fire import docstrings

from mednextv2.errors import InputError

WIDTH = 100  # letters of a line of help


class _Doc(NamedTuple):
    """A verb's docstring in parts: its first sentence, further text, what each argument is, and examples."""

    summary: str
    text: str
    arguments: dict[str, str]
    examples: list[str]


def format_overview(verbs: Mapping[str, Callable[..., Any]]) -> str:
    """Return the help of the whole command line: one line for each verb."""
    width = max(map(len, verbs)) + 2
    lines = [_wrap(f"{name:{width}}{_read_doc(verb).summary}", "  ", " " * (width + 2)) for name, verb in verbs.items()]
    return "\n".join([
        "Train, evaluate and use MedNeXt-v2 networks for medical image segmentation, as MONAI bundles.",
        "", "Usage:", "  mednextv2 VERB [arguments] [options]", "", "Verbs:", *lines,
        "", "mednextv2 VERB --help shows the arguments, the options and examples of a verb.",
    ])  # fmt: skip


def format_help(verb: Callable[..., Any]) -> str:
    """Return the help of a verb: what it does, its usage, its arguments and options, and examples.

    Args:
        verb: A function with a Google-style docstring that has the sections `Args` and `Examples`.
    """
    doc = _read_doc(verb)
    parameters = [p for p in inspect.signature(verb).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    optional = [p for p in parameters if p not in needed]
    usage = ["mednextv2", verb.__name__, *(p.name.upper() for p in needed), *(["[options]"] if optional else [])]
    lines = [_wrap(doc.summary), *(["", _wrap(doc.text)] if doc.text else []), "", "Usage:", f"  {' '.join(usage)}"]
    if needed:
        lines += ["", "Arguments:"]
    for p in needed:
        lines += [f"  {p.name.upper()}", _wrap(doc.arguments[p.name], " " * 6)]
    if optional:
        lines += ["", "Options:"]
    for p in optional:
        lines += [f"  {_option(p)}", _wrap(doc.arguments[p.name] + _default(p), " " * 6)]
    return "\n".join([*lines, "", "Examples:", *(f"  {line}" for line in doc.examples)])


def find_help(verbs: Mapping[str, Callable[..., Any]], arguments: Sequence[str]) -> str | None:
    """Return the help that a command line asks for, or None where it asks for something else.

    Args:
        verbs: The verbs by name.
        arguments: Of the command line, the verb first.
    """
    if not arguments or arguments[0] in ("-h", "--help", "--"):
        return format_overview(verbs)
    if arguments[0] in verbs and {"-h", "--help"} & {*arguments}:
        return format_help(verbs[arguments[0]])
    return None


def check_options(verb: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Refuse options that a verb does not have; Fire would run the verb first.

    Args:
        verb: The function. One that takes any setting checks these itself, and nothing is refused here.
        arguments: Of the command line, after the verb.

    Raises:
        InputError: With the names that come near.
    """
    parameters = inspect.signature(verb).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
    problems = []
    for argument in arguments:
        if argument == "--":  # what follows is for Fire
            break
        if argument[:1] == "-" and argument[1:2].isalpha() and argument not in ("-h", *(f"-{n[0]}" for n in names)):
            problems.append(f"{argument}: {verb.__name__} has no such option; there are --{', --'.join(names)}")
            continue
        name = argument[2:].split("=")[0].replace("-", "_")
        if not argument.startswith("--") or name in ("help", *names, *(f"no{n}" for n in names)):
            continue
        near = difflib.get_close_matches(name, names, n=2)
        hint = f"did you mean {' or '.join('--' + n for n in near)}?" if near else f"there are --{', --'.join(names)}"
        problems.append(f"--{name}: {verb.__name__} has no such option; {hint}")
    if problems:
        raise InputError("\n".join(problems))


def _read_doc(verb: Callable[..., Any]) -> _Doc:
    head, _, examples = (inspect.getdoc(verb) or "").partition("\n\nExamples:\n")  # Fire knows no such section
    doc = docstrings.parse(head)
    arguments = {argument.name: argument.description for argument in doc.args or ()}
    lines = textwrap.dedent(examples).splitlines()
    return _Doc(" ".join(doc.summary.split()), " ".join((doc.description or "").split()), arguments, lines)


def _option(p: inspect.Parameter) -> str:
    if p.kind is p.VAR_KEYWORD:
        return "--SETTING VALUE"
    return f"--{p.name}" if isinstance(p.default, bool) else f"--{p.name} {p.name.upper()}"


def _default(p: inspect.Parameter) -> str:
    shown = p.kind is not p.VAR_KEYWORD and p.default is not None and not isinstance(p.default, bool)
    return f" The default is {p.default}." if shown else ""


def _wrap(text: str, first: str = "", further: str | None = None) -> str:
    further = first if further is None else further
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )
