"""A module of the commands for a GPU: the checks of their common options, and how they end."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from mednextv2.errors import InputError
from mednextv2.nets.legal_sizes import DIVISOR, is_legal
from mednextv2.paths import prepare_folder

LARGEST_EDGE = 1024  # voxels: larger than any scanner's volume, and small enough that no tensor size overflows
LARGEST_BATCH = 1024
SHORTEST, LONGEST = 0.1, 24 * 60  # minutes
INTERRUPTED = 130  # exit code of a program that Ctrl-C ended: 128 plus the number of the signal


def edge(text: str) -> int:
    """Return the edge of a patch in voxels; the type of an option for `argparse`, which names the option."""
    value = _number(text, int)
    if value is None or value > LARGEST_EDGE or not is_legal(value):
        raise argparse.ArgumentTypeError(
            f"{text}: give a positive multiple of {DIVISOR} up to {LARGEST_EDGE}, such as 128"
        )
    return value


def batch(text: str) -> int:
    """Return a number of samples, as :func:`edge` does."""
    value = _number(text, int)
    if value is None or not 1 <= value <= LARGEST_BATCH:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 to {LARGEST_BATCH}")
    return value


def minutes(text: str) -> float:
    """Return a time in minutes, as :func:`edge` does."""
    value = _number(text, float)
    if value is None or not SHORTEST <= value <= LONGEST:  # NaN is outside every range
        raise argparse.ArgumentTypeError(f"{text}: give minutes from {SHORTEST} to {LONGEST}")
    return value


def _number(text: str, kind: type) -> int | float | None:
    try:
        return kind(text)
    except ValueError:
        return None


def add_patch(parser: argparse.ArgumentParser, default: int | None = 128, note: str = "") -> None:
    """Add `--patch`."""
    text = f"edge of the patch in voxels, a multiple of {DIVISOR} up to {LARGEST_EDGE} (default: {default or note})"
    parser.add_argument("--patch", type=edge, default=default, metavar="VOXELS", help=text)


def add_minutes(parser: argparse.ArgumentParser, default: float, what: str) -> None:
    """Add `--minutes`."""
    text = f"{what} (from {SHORTEST} to {LONGEST}, default: {default:g})"
    parser.add_argument("--minutes", type=minutes, default=default, help=text)


def output_folder(parser: argparse.ArgumentParser, folder: str) -> Path:
    """Create the folder that `--output` names, and end the program if files cannot be written there."""
    if not folder.strip():
        parser.error("argument --output: an empty name: give a folder, or . for this one")
    try:
        return prepare_folder(folder, "output")
    except InputError as error:
        parser.error(str(error))


def end(main: Callable[[], int | None]) -> None:
    """Run a command and end the program with its exit code; an interruption or a user's mistake takes one line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that processes that were started are also stopped
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
