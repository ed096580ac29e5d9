"""Numbers as a report writes them."""

import math

NONE, INFINITE = "–", "∞"


def number(value: float, digits: int = 3) -> str:
    """Return a number with the given digits after the decimal point; NaN is a dash, and infinity is ∞."""
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return INFINITE if value > 0 else f"-{INFINITE}"
    return f"{value:.{digits}f}"


def digits(value: float, like: float | None = None) -> str:
    """Return a size with at least three significant digits but no more than four after the point.

    Args:
        value: The volume or area.
        like: Another size that decides the number of digits; by default, the value itself.
    """
    size = abs(value if like is None else like)
    after = min(4, max(0, 2 - math.floor(math.log10(size)))) if math.isfinite(size) and size else 0
    return number(value, after)


def mean_sd(mean: str, sd: str) -> str:
    """Join a mean and its standard deviation, both given as text."""
    return mean if mean == NONE else f"{mean} ± {sd}"
