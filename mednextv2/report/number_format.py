"""Numbers as a report writes them."""

import math

NONE, INFINITE = "–", "∞"


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many digits after the point; a dash for NaN, and ∞."""
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return INFINITE if value > 0 else f"-{INFINITE}"
    return f"{value:.{digits}f}"


def ml(value: float, like: float | None = None) -> str:
    """Return a volume in ml, with at least three significant digits but no more than four after the point.

    Args:
        value: The volume.
        like: Another one, which decides how many digits there are; the value itself by default.
    """
    size = abs(value if like is None else like)
    digits = min(4, max(0, 2 - math.floor(math.log10(size)))) if math.isfinite(size) and size else 0
    return number(value, digits)


def mean_sd(mean: str, sd: str) -> str:
    """Join a mean and its standard deviation, both written out."""
    return mean if mean == NONE else f"{mean} ± {sd}"
