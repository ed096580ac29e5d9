"""The command line: `mednextv2 VERB …` or `python -m mednextv2 VERB …`."""

import sys

import fire

from mednextv2.commands import VERBS
from mednextv2.commands.help import check_options, find_help
from mednextv2.errors import find_input_error


def main() -> None:
    """Run a verb; a user's mistake ends with its message and exit code 1, anything else with a traceback."""
    try:
        text = find_help(VERBS, sys.argv[1:])
        if text is not None:
            print(text)
            return
        if sys.argv[1] in VERBS:
            check_options(VERBS[sys.argv[1]], sys.argv[2:])
        fire.Fire(VERBS, name="mednextv2")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as e:
        error = find_input_error(e)
        if error is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
