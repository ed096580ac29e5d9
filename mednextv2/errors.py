"""The one exception for mistakes that a user can make and mend."""

import sys
from pathlib import Path
from types import TracebackType


class InputError(ValueError):
    """Something given by the user cannot be used: a file, a folder, a setting.

    The message names the file or setting, what is wrong with it and what to do. The command line prints it alone,
    without a traceback.
    """


class UsageError(InputError):
    """A mistake on the command line: an option, an argument or a setting that does not exist.

    The command line ends with exit status 2 for it, as is usual, and with 1 for any other :class:`InputError`.
    """


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the InputError behind an exception that a library wrapped around it, or None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None


def show_plainly() -> None:
    """Let `python -m monai.bundle run` end with an InputError's message instead of MONAI's nested traceback.

    Programs that only use the package are left alone: the hook is set where MONAI's command line is the program.
    """
    program = Path(sys.argv[0])
    if program.name == "__main__.py" and program.parent.name == "bundle" and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    cause = find_input_error(error)
    if issubclass(kind, KeyboardInterrupt):
        print("stopped by Ctrl-C", file=sys.stderr)
    elif cause is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        print(f"error: {cause}", file=sys.stderr)
