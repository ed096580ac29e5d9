"""Numbers and values in sentences that people read, and lines of a readable width."""

import reprlib
import textwrap
from collections.abc import Iterable
from typing import Any

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 60
_BRIEF.maxlong = 24
_BRIEF.maxlevel = 3

WIDTH = 100  # characters in a line of help


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun.

    Args:
        number: The number.
        noun: The noun in the singular.
        plural: The noun for every number but 1, if it is not the singular with an s.

    Example:
        >>> count(1, "case"), count(3, "case"), count(0, "class", "classes")
        ('1 case', '3 cases', '0 classes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def times(sizes: Iterable[float]) -> str:
    """Join sizes along axes.

    Args:
        sizes: The sizes in voxels or millimetres.

    Example:
        >>> times((48, 64, 48)), times((1.0, 0.5))
        ('48×64×48', '1×0.5')
    """
    return "×".join(f"{size:g}" if isinstance(size, float) else str(size) for size in sizes)


def wrap(text: str, first: str = "", further: str | None = None) -> str:
    """Break a text into lines of at most `WIDTH` characters.

    Args:
        text: The text.
        first: The beginning of the first line.
        further: The beginning of the other lines; by default the same.
    """
    further = first if further is None else further
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )


def flag(setting: str) -> str:
    """Return a setting as a user types it: an option, or an argument, whose name is in capital letters.

    Example:
        >>> flag("output"), flag("TARGET")
        ('--output', 'TARGET')
    """
    return setting if setting.isupper() else f"--{setting}"


def brief(value: Any) -> str:
    """Return a value as Python writes it, shortened if it is long or nested, for messages about a file's content.

    Args:
        value: A value of any type.

    Example:
        >>> brief("liver"), brief(10**400), brief([[[[[1]]]]])
        ("'liver'", '1000000000...00000000000', '[[[[...]]]]')
    """
    return _BRIEF.repr(value)
