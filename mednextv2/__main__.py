"""The command line: `mednextv2 VERB …` or `python -m mednextv2 VERB …`."""

import logging
import os
import sys
from contextlib import suppress

from mednextv2.commands import VERBS
from mednextv2.commands.arguments import find_verb, read_arguments
from mednextv2.commands.help import find_help
from mednextv2.errors import InputError, UsageError, find_input_error
from mednextv2.machine import name_user, use_utf8


def main() -> None:
    """Run a verb. A user's mistake ends with a message, any other error with a traceback.

    The exit status is 1 for input that cannot be used, 2 for a mistake on the command line, and 130 for Ctrl-C.
    """
    use_utf8()
    _show_everything()
    try:
        _run(sys.argv[1:])
    except KeyboardInterrupt as e:
        print(e.args[0] if e.args else "stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        _give_up_output()
        sys.exit(1)
    except Exception as e:
        error = find_input_error(e)
        if error is None:
            raise
        with suppress(OSError):  # raised by messages that are written to a full disk
            print(f"error: {error}", file=sys.stderr)
        _give_up_output()
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _run(words: list[str]) -> None:
    text = find_help(VERBS, words)
    if text is not None:
        print(text)
    else:
        verb = find_verb(VERBS, words[0])
        arguments = read_arguments(verb, words[1:])
        _check_working_directory()
        name_user()
        verb(**arguments)
    sys.stdout.flush()  # here, where a full disk can still be reported


def _give_up_output() -> None:
    """Keep output to a full disk or a closed pipe from failing once more when the program ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _show_everything() -> None:
    """Let a terminal or log without UTF-8 show a question mark for each character that it lacks, instead of failing.

    A line of the log that cannot be written, for example to a full disk, does not cause a traceback either.
    """
    logging.raiseExceptions = False
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the program that started this one, as with >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # MONAI imports it, and it warns if there is no home folder
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not if a test or a notebook has replaced the stream
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
