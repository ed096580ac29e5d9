"""Numbers in sentences that people read, and lines of a readable width."""

import textwrap
from collections.abc import Iterable

WIDTH = 100  # letters of a line of help


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun.

    Args:
        number: How many.
        noun: What, in the singular.
        plural: The noun for every number but 1, where it is not the singular with an s.

    Example:
        >>> count(1, "case"), count(3, "case"), count(0, "class", "classes")
        ('1 case', '3 cases', '0 classes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def times(sizes: Iterable[float]) -> str:
    """Join sizes along axes.

    Args:
        sizes: Voxels or millimetres.

    Example:
        >>> times((48, 64, 48)), times((1.0, 0.5))
        ('48×64×48', '1×0.5')
    """
    return "×".join(f"{size:g}" if isinstance(size, float) else str(size) for size in sizes)


def wrap(text: str, first: str = "", further: str | None = None) -> str:
    """Break a text into lines of at most `WIDTH` letters.

    Args:
        text: The text.
        first: What the first line begins with.
        further: What the other lines begin with; by default the same.
    """
    further = first if further is None else further
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )
