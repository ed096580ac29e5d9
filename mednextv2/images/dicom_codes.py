"""Codes of structures: SNOMED CT from DICOM's context groups, and private ones for all other names."""

import colorsys
import hashlib
import re
from functools import lru_cache

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

#: DICOM context groups with names of organs and tissues; 7159 has lesions.
_ANATOMY = ("cid7192", "cid7153", "cid7154", "cid7155", "cid7156", "cid7160", "cid7140", "cid7166", "cid4031")
_LESIONS = "cid7159"
_ALIASES = {"tumor": ("neoplasm",), "tumour": ("neoplasm",), "urinary": ()}  # other words for the same
#: Codes of the modifier for a side, and their meanings.
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
_OWN_CODES = "99MEDNEXTV2"  # DICOM: a private scheme's name begins with 99
_LONGEST = 64  # characters of a meaning or a label


def plain_name(name: str) -> str:
    """Return a structure's name as DICOM can have it: without backslashes, which part values, and not too long."""
    text = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", name.replace("\\", "/")).split())
    return text[:_LONGEST].strip() or "structure"


def display_rgb(number: int) -> tuple[int, int, int]:
    """Return a segment's colour, 0 to 255: hues by the golden ratio, which never repeat, in three shades."""
    hue, shade = number * 0.6180339887 % 1, number % 3
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.9, 0.55, 0.75)[shade], (0.95, 1.0, 0.65)[shade])
    return round(255 * red), round(255 * green), round(255 * blue)


def find_code(name: str) -> tuple[tuple[str, str, str], bool, str | None]:
    """Find the code of a structure's name.

    Args:
        name: Such as `kidney_left`.

    Returns:
        Value, coding scheme and meaning; whether it is a lesion; and the side, `left` or `right`, or None.
    """
    words = [w for word in re.findall(r"[a-z]+|[0-9]+", name.lower()) for w in _ALIASES.get(word, (word,))]
    for side in (None, *SIDES):
        rest = tuple(sorted(word for word in words if word != side))
        if side and (side not in words or not rest):
            continue
        for group in (_LESIONS, *_ANATOMY):
            if code := _group(group).get(rest):
                return (code.value, code.scheme_designator, code.meaning), group == _LESIONS, side
    value = hashlib.sha1(name.encode()).hexdigest()[:12]  # a code has 16 characters at most
    return (value, _OWN_CODES, plain_name(name)), False, None


@lru_cache
def _group(name: str) -> dict[tuple[str, ...], Code]:
    """Return a context group's codes by the sorted words of their meaning."""
    group = getattr(codes, name)
    found = (getattr(group, keyword) for keyword in group.dir())
    return {tuple(sorted(re.findall(r"[a-z]+|[0-9]+", code.meaning.lower()))): code for code in found}
