"""The command line that all converters of public data sets share."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mednextv2.data.conversion import Convert, run_conversion
from mednextv2.data.conversion_cases import DatasetFacts
from mednextv2.data.conversion_sources import Found
from mednextv2.errors import InputError, UsageError, find_input_error
from mednextv2.machine import usable_cpus
from mednextv2.paths import absolute

#: Finds the cases in the source folder, given the converter's options.
Find = Callable[[Path, Mapping[str, Any]], Found]
_SHARED = ("source", "target", "workers", "defective", "exclude")


def main(
    facts: DatasetFacts | Callable[[Mapping[str, Any]], DatasetFacts],
    find: Find,
    convert: Convert,
    doc: str | None,
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
    words: Sequence[str] | None = None,
) -> None:
    """Run a converter. A user's mistake ends with one message.

    The exit status is 1 for input that cannot be used, 2 for a mistake on the command line, and 130 for Ctrl-C.

    Args:
        facts: What `dataset.json` says, or a function that says it for the options.
        find: Finds the cases.
        convert: Reads one case.
        doc: The docstring of the converter: what it converts, and an example.
        add_options: Adds the converter's own options.
        words: The words of the command line; by default those of this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not if a test has replaced the stream
            stream.reconfigure(errors="replace")  # names of files may be no text
    arguments = vars(_parser(doc or "", add_options).parse_args(words))
    try:
        _run(facts, find, convert, arguments)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as e:
        error = find_input_error(e)
        if error is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _parser(doc: str, add_options: Callable[[argparse.ArgumentParser], None] | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="the folder of the unpacked data set, as it was downloaded")
    parser.add_argument("target", metavar="TARGET", help="the folder of the converted data set; created if missing")
    parser.add_argument(
        "--workers", type=int, default=usable_cpus(), metavar="N",
        help="number of cases that are converted at the same time (default: %(default)s, one for each processor)",
    )  # fmt: skip
    parser.add_argument(
        "--defective", choices=("stop", "exclude"), default="stop",
        help="what happens if cases are incomplete, damaged or inconsistent: stop lists them all and ends with an "
        "error; exclude leaves them out and lists them (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--exclude", default="", metavar="NAMES", help="cases to leave out, separated by commas")
    if add_options:
        add_options(parser)
    return parser


def _run(
    facts: DatasetFacts | Callable[[Mapping[str, Any]], DatasetFacts],
    find: Find,
    convert: Convert,
    arguments: Mapping[str, Any],
) -> None:
    if arguments["workers"] < 1:
        raise UsageError(f"--workers {arguments['workers']}: should be a whole number from 1")
    options = {name: value for name, value in arguments.items() if name not in _SHARED}
    source = absolute(arguments["source"])
    found = find(source, options)
    _exclude(found, [name.strip() for name in arguments["exclude"].split(",") if name.strip()])
    summary = run_conversion(
        facts(options) if callable(facts) else facts, found, convert, source, arguments["target"], options,
        arguments["workers"], arguments["defective"] == "exclude",
    )  # fmt: skip
    print(f"{arguments['target']}: {summary.text}")


def _exclude(found: Found, names: Sequence[str]) -> None:
    """Leave out the cases that the user named."""
    known = {case.name for case in found.cases} | found.incomplete.keys() | found.excluded.keys()
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--exclude {', '.join(unknown[:5])}: there is no such case; some names are {_some(known)}")
    for name in names:
        found.incomplete.pop(name, None)
        found.excluded.setdefault(name, "excluded by --exclude")
    found.cases = [case for case in found.cases if case.name not in names]


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "none"


def need(module: str, extra: str) -> Any:
    """Import a library that only some converters need.

    Args:
        module: The name of the library.
        extra: What it is needed for, for the message.

    Raises:
        InputError: If it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise InputError(f'{extra} needs {module}: pip install "mednextv2[convert]", or pip install {module}') from e
