"""The command line: `mednextv2 VERB …` or `python -m mednextv2 VERB …`."""

import os
import sys

from mednextv2.commands import VERBS
from mednextv2.commands.arguments import find_verb, read_arguments
from mednextv2.commands.help import find_help
from mednextv2.errors import InputError, UsageError, find_input_error
from mednextv2.machine import name_user


def main() -> None:
    """Run a verb. A user's mistake ends with its message, anything else with a traceback.

    The exit status is 1 for input that cannot be used, 2 for a mistake on the command line, and 130 for Ctrl-C.
    """
    _show_everything()
    try:
        text = find_help(VERBS, sys.argv[1:])
        if text is not None:
            print(text)
            return
        verb = find_verb(VERBS, sys.argv[1])
        arguments = read_arguments(verb, sys.argv[2:])
        _check_working_directory()
        name_user()
        verb(**arguments)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    except Exception as e:
        error = find_input_error(e)
        if error is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _show_everything() -> None:
    """Let a terminal or a log that is not UTF-8 show a question mark for what it cannot show, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test or a notebook took the stream's place
            stream.reconfigure(errors="replace")


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except OSError:
        raise InputError(
            "the working directory was deleted or cannot be entered; change to a folder that exists (cd)"
        ) from None


if __name__ == "__main__":
    main()
