"""The folder that a conversion writes: new, or of an earlier run of the same conversion and not changed since."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mednextv2.data.conversion_cases import DatasetFacts
from mednextv2.data.conversion_records import FORM, RECORDS, UNFINISHED, digest, read_record
from mednextv2.data.conversion_sources import Found
from mednextv2.errors import InputError
from mednextv2.locks import hold_folder, release_folder
from mednextv2.paths import new_folder, remove_leftovers, writing
from mednextv2.text_files import read_json
from mednextv2.wording import count

_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_SETTINGS = "settings"
_NOT_MINE = ("Thumbs.db", "desktop.ini")  # written by file managers; so are hidden files
_SHOWN = 5


@contextmanager
def opened_target(target: Path) -> Iterator[None]:
    """Create the folder if it is missing, and keep other processes out; after an error, leave no empty folder.

    Raises:
        InputError: If it is a file, cannot be written, or if another process writes to it.
    """
    there = next((path for path in (target, *target.parents) if os.path.lexists(path)), target)
    if os.path.lexists(there) and not there.is_dir():
        what = "is a file" if there == target else f"{there} is a file, which cannot hold a folder"
        raise InputError(f"TARGET {target}: {what}; give as TARGET a folder that is new or of an earlier run")
    with new_folder(target, "TARGET"):
        hold_folder(target, "TARGET")
        try:
            yield
        finally:
            release_folder(target)


def prepare_target(facts: DatasetFacts, found: Found, target: Path, options: Mapping[str, Any]) -> None:
    """Create the folders in the target, or make sure that those that are there are of the same conversion.

    Args:
        facts: Of the data set.
        found: The cases to be converted.
        target: The folder.
        options: The converter's own options.

    Raises:
        InputError: If the target holds anything that this conversion did not write, or that was changed since. Nothing
            is written then.
    """
    settings = {"form": FORM, "dataset": facts.id, "options": json.loads(json.dumps(dict(options)))}
    there = _visible(target)
    if (target / RECORDS / f"{_SETTINGS}.json").is_file():
        earlier = _read_settings(target)
        if different := _differences(earlier, settings):
            raise InputError(f"{target}: {different}; give another folder as TARGET, or delete this one")
    elif there:
        raise InputError(f"{target}: holds {_some(there)} and no conversion; give a new folder as TARGET")
    else:
        earlier = {}
    known = {case.name for case in found.cases}
    done = {path.stem for path in (target / RECORDS).glob("*.json")} - {_SETTINGS}
    if lost := sorted(done - known):
        raise InputError(
            f"{target}: holds {count(len(lost), 'case')} that would not be converted now ({_some(lost)}), "
            "since the source or what is excluded has changed; give another folder as TARGET, or delete this one"
        )
    _refuse_changes(target, done, earlier.get("written", {}))
    (target / RECORDS).mkdir(exist_ok=True)
    # first, so that a run that was killed at any time can go on
    _write_settings(target, settings | {"written": earlier.get("written", {})})
    has_test_cases = any(case.part == "Ts" for case in found.cases)
    for name in (*_FOLDERS, RECORDS):
        if not name.endswith("Ts") or has_test_cases:
            (target / name).mkdir(exist_ok=True)
            remove_leftovers(target / name)
    remove_leftovers(target)


def write_descriptions(target: Path, contents: Mapping[str, Any]) -> None:
    """Write the files that describe the data set, and record them, so that a change by someone else is noticed.

    Args:
        target: The folder.
        contents: The content of each file by its name, in the order in which they are written.
    """
    settings = _read_settings(target)
    earlier = settings.get("written", {})
    new: dict[str, str] = {}
    for name, content in contents.items():
        # names of files may be no UTF-8
        text = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")
        with writing(target / name) as temporary:
            temporary.write_bytes(text)
            new[name] = digest(temporary)
            # before the file appears: after a kill, either content is known as written by this conversion
            both = {n: sorted({*earlier.get(n, []), new.get(n, "")} - {""}) for n in {*earlier, *new}}
            _write_settings(target, settings | {"written": dict(sorted(both.items()))})
    for name in earlier.keys() - new.keys():  # of an earlier run, and no longer true
        (target / name).unlink(missing_ok=True)
    _write_settings(target, settings | {"written": {name: [found] for name, found in sorted(new.items())}})


def _refuse_changes(target: Path, cases: set[str], written: Mapping[str, Sequence[str]]) -> None:
    """Refuse a target to which someone else has added files, or in which someone else has changed files."""
    recorded: dict[str, str] = {}
    for case in cases:
        recorded |= (read_record(target, case) or {}).get("files", {})
    added = [name for name in _visible(target) if name not in (*_FOLDERS, *written)]
    changed = [name for name in written if (target / name).is_file() and digest(target / name) not in written[name]]
    for folder in _FOLDERS:
        added += [f"{folder}/{name}" for name in _visible(target / folder) if f"{folder}/{name}" not in recorded]
    changed += [name for name, found in sorted(recorded.items()) if _is_changed(target / name, found)]
    if added or changed:
        holds = [f"files that this conversion did not write ({_some(added)})"] if added else []
        holds += [f"files that were changed since it wrote them ({_some(changed)})"] if changed else []
        raise InputError(
            f"{target}: holds {' and '.join(holds)}. Nothing was written. Move these files to another folder and give "
            "the same command again, or give another folder as TARGET"
        )


def _is_changed(file: Path, recorded: str) -> bool:
    """Return whether a file was replaced by another sound one; one that is missing or cut off is made anew."""
    try:
        if recorded == UNFINISHED or digest(file) == recorded:
            return False
        with gzip.open(file) as f:
            while f.read(1 << 22):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True


def _visible(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if not name.startswith(".") and name not in _NOT_MINE]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _read_settings(target: Path) -> dict[str, Any]:
    file = target / RECORDS / f"{_SETTINGS}.json"
    content = read_json(file, "give another folder as TARGET")
    kinds = {"form": int, "dataset": str, "options": dict}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise InputError(f"{file}: is no record of a conversion; give another folder as TARGET")
    return content


def _write_settings(target: Path, settings: Mapping[str, Any]) -> None:
    with writing(target / RECORDS / f"{_SETTINGS}.json") as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in words what is different between two conversions; nothing if they are the same."""
    old, new = earlier["options"], now["options"]
    options = [
        f"--{name} was {_value(old, name)} and is now {_value(new, name)}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if earlier["dataset"] != now["dataset"] and not (options and old.keys() == new.keys()):
        return f"holds a conversion of another data set ({earlier['dataset']}, not {now['dataset']})"
    if options:
        return f"holds a conversion with other options ({'; '.join(options)})"
    if earlier["form"] != now["form"]:
        return "holds a conversion by another version of the converters"
    return ""


def _value(options: Mapping[str, Any], name: str) -> str:
    value = options.get(name)
    if isinstance(value, bool) or value is None:
        return {True: "given", False: "not given", None: "not given"}[value]
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
