"""Finding the cases of one patient by their names: such cases must be on the same side of a split."""

import re
from collections import Counter
from collections.abc import Sequence

from mednextv2.errors import InputError

#: What follows the patient's name in the names of several images of one patient: frame01, visit_2, ses-01, left, pre,
#: ….
_SEVERAL = re.compile(
    r"(.*[^_.-])[_.-](?:(?:frame|time|timepoint|tp|t|visit|v|ses|session|scan|run|day|week|month|phase|echo|series|slab|"
    r"part)[_.-]?\d+|left|right|l|r|lt|rt|pre|post|ed|es|baseline|followup|fu\d*|inspiration|expiration|insp|exp)",
    re.IGNORECASE,
)
_BIDS = re.compile(r"(sub-[A-Za-z0-9]+)_.+")


def group_cases(names: Sequence[str], pattern: str | None = None) -> list[str]:
    """Return the group of each case.

    Args:
        names: The names of the cases.
        pattern: A regular expression that matches at the start of a name. Its first group in parentheses, or else
            everything that it matches, is the name of the case's group. By default, cases such as patient001_frame01
            and patient001_frame12, or sub-01_ses-01 and sub-01_ses-02, are in one group; every other case is a group of
            its own.

    Raises:
        InputError: If the pattern is not a valid regular expression, or does not match a name.
    """
    if pattern is None:
        rules = [_BIDS, _SEVERAL]
        groups = [next((m[1] for rule in rules if (m := rule.fullmatch(name))), name) for name in names]
        return groups if len({*groups}) > 1 else list(names)
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise InputError(f"group {pattern}: is not a regular expression ({e}), such as '(patient[0-9]+)'") from e
    found = [compiled.match(name) for name in names]
    if missing := [name for name, match in zip(names, found, strict=True) if match is None]:
        raise InputError(
            f"group {pattern}: does not match {len(missing)} of {len(names)} cases ({', '.join(missing[:5])}); it "
            "should match the beginning of every case's name"
        )
    return [(m[1] if compiled.groups and m[1] is not None else m[0]) for m in found if m is not None]


def describe_groups(names: Sequence[str], groups: Sequence[str]) -> str:
    """Say in a sentence which cases are in one group; the text is empty if every case is on its own."""
    sizes = Counter(groups)
    several = [group for group, size in sizes.items() if size > 1]
    if not several:
        return ""
    members = [name for name, group in zip(names, groups, strict=True) if group == several[0]]
    shown = " and ".join(members[:2]) if len(members) == 2 else f"{members[0]}, {members[1]} and others"
    return (
        f"{len(names)} cases are of {len(sizes)} patients (for example, {shown} are of {several[0]}); "
        "the images of a patient stay on one side of the split"
    )
