"""Codes of structures: SNOMED CT from a table and from DICOM's context groups, and private ones for all other names."""

import colorsys
import csv
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

_TABLE = "dicom_codes.csv"
#: DICOM context groups with names of lesions, organs, substances and tissues, and the category of what is in them.
_GROUPS = {
    "cid7159": "lesion",
    **dict.fromkeys(("cid7192", "cid7153", "cid7154", "cid7155", "cid7156", "cid7160", "cid7140"), "anatomy"),
    "cid7197": "substance",
    "cid7166": "tissue",
    "cid4031": "anatomy",
}
#: Names in the groups that are no structure, or that mean another thing as the name of a label.
_TOO_GENERAL = {"back", "background", "baffle", "media", "normal", "organ", "phantom", "stripe", "subcostal"}
#: One spelling of words that have several; words without meaning are left out.
_SPELLINGS = {
    **dict.fromkeys(("of", "the"), ""),
    **dict.fromkeys(("tumor", "tumour"), "neoplasm"),
    **dict.fromkeys(("l", "lt"), "left"),
    **dict.fromkeys(("r", "rt"), "right"),
    "vertebrae": "vertebra", "oedema": "edema", "oesophagus": "esophagus", "haemorrhage": "hemorrhage",
}  # fmt: skip
_SIDES = ("left", "right")
#: Some names mean a structure only beside others: T1 is a vertebra beside L1, and a contrast of MR beside FLAIR. For
#: each group of such names in the table, the words of which one must be in another name.
_BESIDE = {
    "cervical": r"[tl]\d+|vertebra|spine|spinal|sacrum",
    "thoracic": r"[cl]\d+|vertebra|spine|spinal|sacrum",
    "lumbar": r"[ct]\d+|vertebra|spine|spinal|sacrum",
    "teeth": r"tooth|teeth|incisors?|premolars?|molars?|jawbone|mandible|maxilla",
    "cardiac": r"lv|rv|myo|myocardium|ventricle|atrium",
    "glioma": r"ncr|net|enhancing|necrotic|edema",
}
_OWN_CODES = "99MEDNEXTV2"  # DICOM: a private scheme's name begins with 99
_LONGEST = 64  # characters of a meaning or a label


@dataclass(frozen=True)
class StructureCodes:
    """What a DICOM segment says of its structure.

    Attributes:
        kind: The structure (segmented property type).
        category: Anatomy, tissue, lesion, substance or object (DICOM CID 7150).
        modifiers: Of the kind, such as a side.
        region: Where a tissue or a lesion lies.
        region_modifiers: Of the region, such as a side.
    """

    kind: Code
    category: Code
    modifiers: tuple[Code, ...] = ()
    region: Code | None = None
    region_modifiers: tuple[Code, ...] = ()

    def on_side(self, side: Code) -> "StructureCodes":
        """Return the codes with a side: of the region if there is one, else of the kind."""
        if self.region:
            return replace(self, region_modifiers=(*self.region_modifiers, side))
        return replace(self, modifiers=(*self.modifiers, side))


def plain_name(name: str) -> str:
    """Return a structure's name as DICOM can have it: without backslashes, which part values, and not too long."""
    text = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", name.replace("\\", "/")).split())
    return text[:_LONGEST].strip() or "structure"


def display_rgb(number: int) -> tuple[int, int, int]:
    """Return a segment's colour, 0 to 255: hues by the golden ratio, which never repeat, in three shades."""
    hue, shade = number * 0.6180339887 % 1, number % 3
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.9, 0.55, 0.75)[shade], (0.95, 1.0, 0.65)[shade])
    return round(255 * red), round(255 * green), round(255 * blue)


def find_code(name: str, names: Iterable[str] = ()) -> StructureCodes:
    """Find the codes of a structure's name: in the table, else in DICOM's context groups, else private ones.

    Args:
        name: Such as `kidney_left`. The order of its words does not matter.
        names: All names of the model. Some, such as `T1` or `crown`, mean a structure only beside others.
    """
    words = _words(name)
    others = {word for other in names if other != name for word in _words(other)}
    for side in (None, *_SIDES):  # a name with a side of its own, such as left atrium, comes first
        if side and side not in words:
            continue
        if found := _look_up(_without(words, side) if side else words, others):
            return found.on_side(_terms()[side]) if side else found
    value = hashlib.sha1(name.encode()).hexdigest()[:12]  # a code has 16 characters at most
    return of_anatomy(Code(value, _OWN_CODES, plain_name(name)))


def of_anatomy(kind: Code) -> StructureCodes:
    """Return the codes of an anatomical structure."""
    return StructureCodes(kind, _terms()["anatomy"])


def _words(name: str) -> tuple[str, ...]:
    found = (_SPELLINGS.get(word, word) for word in re.findall(r"[a-z0-9]+", name.lower()))
    return tuple(sorted(word for word in found if word))


def _without(words: tuple[str, ...], word: str) -> tuple[str, ...]:
    place = words.index(word)
    return words[:place] + words[place + 1 :]


def _look_up(words: tuple[str, ...], others: set[str]) -> StructureCodes | None:
    """Find sorted words in the table or the groups, beside the words of the other names."""
    if words in _table():
        found, group = _table()[words]
        if not group or any(re.fullmatch(_BESIDE[group], word) for word in others):
            return found
    return _in_groups().get(words)


@lru_cache
def _rows() -> tuple[dict[str, str], ...]:
    text = resources.files(__package__).joinpath(_TABLE).read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@lru_cache
def _terms() -> dict[str, Code]:
    """Return each row's code by its first name."""
    return {row["names"].split("|")[0]: Code(row["value"], row["scheme"], row["meaning"]) for row in _rows()}


@lru_cache
def _table() -> dict[tuple[str, ...], tuple[StructureCodes, str]]:
    """Return the table's codes by the sorted words of each name, with the group that the name must be beside, or ''."""
    terms, table = _terms(), {}
    for row in _rows():
        if row["category"] in ("category", "modifier"):
            continue
        names = row["names"].split("|")
        modifiers = tuple(terms[name] for name in row["modifiers"].split())
        region = terms[row["region"]] if row["region"] else None
        found = StructureCodes(terms[names[0]], terms[row["category"]], modifiers, region)
        for name in names:
            text, _, group = name.partition("@")
            table[_words(text)] = found, group
    return table


@lru_cache
def _in_groups() -> dict[tuple[str, ...], StructureCodes]:
    """Return the codes in DICOM's context groups by the sorted words of their meaning; earlier groups win."""
    found: dict[tuple[str, ...], StructureCodes] = {}
    for name, category in _GROUPS.items():
        group = getattr(codes, name)
        for code in (getattr(group, keyword) for keyword in group.dir()):
            if code.meaning.lower() not in _TOO_GENERAL:
                found.setdefault(_words(code.meaning), StructureCodes(code, _terms()[category]))
    return found
