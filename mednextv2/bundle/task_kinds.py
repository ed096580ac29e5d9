"""The type of each fact of a `task.yaml`: texts, lists of texts, numbers.

Facts become part of configurations, in which MONAI turns mappings into objects and runs expressions. So a name must be
a text and nothing else, and a mapping is allowed only where its keys are checked.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mednextv2.label_scheme import MAX_LABELS, MAX_NAME, is_name
from mednextv2.settings import RULES
from mednextv2.wording import brief

_NAME_WORDS = f"a text of one line and up to {MAX_NAME} characters"
_QUOTES = "; put what should be a text in quotes"
_LISTS = ("references", "data_traps", "assumptions", "overlays")
#: What `overlays` may contain.
_OVERLAYS = ("pretrain",)
_SCORE = ("method", "score", "source", "comparable")
#: What `eval_metrics` may contain, with the words for it: means over cases and structures.
METRICS = {
    "mean_dice": "mean Dice",
    "mean_surface_dice_1mm": "mean surface Dice at 1 mm",
    "mean_hd95_mm": "mean 95th percentile of the Hausdorff distance, in mm",
}
_SCRIPT = re.compile("[a-z][a-z0-9_]*")


def wrong_kinds(workflow: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each fact of the first document that has a wrong type; it begins with the fact's name.

    Args:
        workflow: All facts of the first document.
    """
    wrong = [
        _described(key, _NAME_WORDS, workflow[key]) + _QUOTES
        for key in ("dataset_name", "variant")
        if not is_name(workflow[key])
    ]
    for key in ("channels", "labels"):
        if key in workflow:
            wrong += _wrong_names(key, workflow[key])
    wrong += [
        _described(key, "a list", workflow[key])
        for key in ("regions", "patch_size", "normalization")
        if key in workflow and not isinstance(workflow[key], list)
    ]
    wrong += [
        _described(key, RULES[key].words, workflow[key])
        for key in ("spacing", "batch_size", "mirror_axes", "batch_dice")
        if key in workflow and not RULES[key].fits(workflow[key]) and not _keeps_spacing(key, workflow)
    ]
    regions = workflow["regions"] if isinstance(workflow.get("regions"), list) else []
    names = [region["name"] for region in regions if isinstance(region, dict) and is_name(region.get("name"))]
    return wrong + [f"regions: the name {brief(name)} stands twice" for name in _repeated(names)]


def _keeps_spacing(key: str, workflow: Mapping[str, Any]) -> bool:
    """Tell whether images keep their own spacing, which those of a bundle without labels may."""
    return key == "spacing" and workflow[key] is None and "labels" not in workflow


def wrong_public_kinds(public: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each fact of the second document that has a wrong type; it begins with the fact's name.

    Args:
        public: All facts of the second document.
    """
    wrong = [
        _described(key, "a text", value) + _QUOTES
        for key, value in public.items()
        if key not in ("changelog", "eval_metrics", "reference_scores", *_LISTS) and not _is_text(value)
    ]
    changes = public["changelog"]
    if not isinstance(changes, dict) or not all(is_name(k) and _is_text(v) for k, v in changes.items()):
        wrong.append(f"changelog should have a text for each version, not {brief(changes)}{_QUOTES}")
    wrong += [
        _described(key, "a list of texts", public[key]) + _QUOTES
        for key in _LISTS
        if key in public and not (isinstance(public[key], list) and all(map(_is_text, public[key])))
    ]
    if not wrong and (unknown := [name for name in public.get("overlays", []) if name not in _OVERLAYS]):
        wrong.append(_described("overlays", f"a list of {', '.join(_OVERLAYS)}", unknown))
    script = public.get("converter")
    if isinstance(script, str) and not _SCRIPT.fullmatch(script):
        wrong.append(_described("converter", "the name of a script in scripts/convert without its ending", script))
    if "eval_metrics" in public and not _are_metrics(public["eval_metrics"]):
        expected = f"a number for {' or '.join(METRICS)}"
        wrong.append(_described("eval_metrics", expected, public["eval_metrics"]))
    return wrong + _wrong_scores(public.get("reference_scores", []))


def _are_metrics(scores: Any) -> bool:
    return (
        isinstance(scores, dict)
        and bool(scores)
        and all(name in METRICS for name in scores)
        and all(type(value) in (int, float) and value >= 0 for value in scores.values())
    )


def _wrong_scores(scores: Any) -> list[str]:
    entries = f"a list of entries with {', '.join(_SCORE)}, each a text"
    if not isinstance(scores, list):
        return [_described("reference_scores", entries, scores)]
    return [
        _described("reference_scores", entries, entry) + _QUOTES
        for entry in scores
        if not isinstance(entry, dict) or set(entry) != set(_SCORE) or not all(map(_is_text, entry.values()))
    ][:1]


def _described(key: str, expected: str, value: Any) -> str:
    return f"{key} should be {expected}, not {brief(value)}"


def _wrong_names(key: str, names: Any) -> list[str]:
    if not isinstance(names, list) or not names:
        return [_described(key, "a list of names", names)]
    if len(names) > MAX_LABELS:
        return [f"{key} has {len(names)} entries; {MAX_LABELS} are possible"]
    wrong = next((name for name in names if not is_name(name)), None)
    if wrong is not None or None in names:
        return [f"{key}: each name should be {_NAME_WORDS}, not {brief(wrong)}{_QUOTES}"]
    return [f"{key}: the name {brief(name)} stands twice" for name in _repeated(names)]


def _repeated(names: list[str]) -> Iterator[str]:
    """Return the first name that occurs twice, if there is one."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
            return
        seen.add(name)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
