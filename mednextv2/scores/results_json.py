"""The manifest of a folder of results: which files belong together, and what their values mean."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mednextv2.errors import InputError
from mednextv2.label_scheme import MAX_LABELS
from mednextv2.paths import expand, prepare_folder, writing
from mednextv2.text_files import read_json
from mednextv2.version import __version__
from mednextv2.wording import brief, count

#: The name of the manifest in the folder of an evaluation or a prediction.
RESULTS_NAME = "results.json"
#: The name of the file with the curves of a training, in its folder.
LOG_NAME = "training_log.csv"
#: Beginning of the name of a folder within, for a training with a smaller kernel (its number) that came before.
FIRST_STAGE = "kernel_"
KINDS = ("evaluation", "prediction")
_REQUIRED = ("kind", "title", "labels", "values", "cases")
_OPTIONAL = ("training_log", "made_by", "ignore_label")
_FILES = ("image", "prediction", "label")
_SIZES = ("volumes_ml", "areas_mm2")
_SHOWN = 20  # largest number of defects in a message


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        case: The name of the case.
        image: One file for each channel, or one file.
        prediction: The mask.
        label: The reference label map, or None.
        volumes_ml: The volume of each structure of the mask in millilitres, or None if it was not measured.
        areas_mm2: The area of each structure in square millimetres, where the image has one plane; else None.
        annotated: The structures that have a score, if the case's data set does not annotate all; else None.
    """

    case: str
    image: tuple[str | os.PathLike, ...]
    prediction: str
    label: str | None = None
    volumes_ml: Mapping[str, float] | None = None
    areas_mm2: Mapping[str, float] | None = None
    annotated: tuple[str, ...] | None = None


def made_by() -> dict[str, str]:
    """Return the versions of the packages that produce a result, and the date and time."""
    versions = {"mednextv2": __version__}
    for package in ("torch", "monai"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions | {"date": datetime.now().astimezone().isoformat(timespec="minutes")}


@dataclass
class Results:
    """The results of an evaluation or a prediction.

    Attributes:
        kind: `evaluation`, which has scores in `cases.csv` and a label map for every case, or `prediction`.
        title: The title of the report.
        labels: Names of the structures, without background.
        values: The label values that each of them consists of; a region has several.
        cases: The cases; the dicts that :func:`as_case` takes are accepted, too.
        training_log: The `training_log.csv` of the network, or None.
        made_by: Versions by package name, and the time under `date`; by default those of now.
        ignore_label: The label value of voxels that were not annotated, or None.

    Raises:
        InputError: If these do not fit together; the message names each defect.
    """

    kind: str
    title: str
    labels: Sequence[str]
    values: Sequence[Sequence[int]]
    cases: Sequence[CaseFiles]
    training_log: str | os.PathLike | None = None
    made_by: Mapping[str, str] = field(default_factory=made_by)
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        defects = _facts(self)
        if _is_list(self.cases) and self.cases:
            found = [_case_defects(case, n, self.kind) for n, case in enumerate(self.cases, 1)]
            defects += [defect for some in found for defect in some]
        else:
            defects.append("cases: should be a list of at least one case; was anything evaluated or segmented?")
        if not defects:
            self.cases = [as_case(case) for case in self.cases]
            names = Counter(case.case for case in self.cases)
            if twice := sorted(name for name, number in names.items() if number > 1):
                defects.append(f"cases: {', '.join(twice[:_SHOWN])} is listed more than once; keep one entry a case")
        if defects:
            more = [f"and {count(len(defects) - _SHOWN, 'further defect')}"] if len(defects) > _SHOWN else []
            raise InputError("\n".join(defects[:_SHOWN] + more))
        self.labels, self.values = list(self.labels), [tuple(group) for group in self.values]
        self.training_log = None if self.training_log is None else os.fspath(self.training_log)
        self.made_by = {str(name): str(text) for name, text in self.made_by.items()}


def write_results(folder: str | os.PathLike, results: Results) -> Path:
    """Write the manifest of a folder.

    Args:
        folder: The folder of the results; created if missing. Paths are stored relative to it. For a prediction's
            images outside the folder, only the file names are stored, since the folders above a scan often contain a
            patient's name.
        results: The results in it. Relative paths are relative to the working directory.

    Returns:
        The path of `results.json`.

    Raises:
        InputError: If the file cannot be written.
    """
    folder = Path(os.path.abspath(prepare_folder(folder, "output_dir")))
    content = asdict(results)
    for case in content["cases"]:
        images = [_store(path, folder, results.kind == "prediction") for path in case["image"]]
        case["image"] = images[0] if len(images) == 1 else images
        for key in ("prediction", "label"):
            case[key] = case[key] and _store(case[key], folder)
        for key in (*_SIZES, "annotated"):
            if case[key] is None:
                del case[key]
    content["training_log"] = content["training_log"] and _store(content["training_log"], folder)
    if content["ignore_label"] is None:
        del content["ignore_label"]
    with writing(folder / RESULTS_NAME) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return folder / RESULTS_NAME


def read_results(folder: str | os.PathLike) -> Results:
    """Read the manifest of a folder. It does not check whether the files exist.

    Args:
        folder: The folder that contains `results.json`.

    Returns:
        The results, with absolute paths.

    Raises:
        InputError: If the folder or the manifest is missing, or the manifest cannot be used.
    """
    folder = Path(os.path.abspath(expand(folder)))
    file = folder / RESULTS_NAME
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give the output_dir of an evaluation or a prediction")
    if not file.is_file():
        raise InputError(
            f"{folder}: has no {RESULTS_NAME}. Give the output_dir of an evaluation (mednextv2 run BUNDLE evaluate …) "
            "or of a prediction, or of a score with --images; run it again if it was made by an older version, or "
            "write the file with mednextv2.report.write_results"
        )
    content = read_json(file, "run the evaluation or prediction again")
    try:
        return _from_content(content, folder)
    except InputError as e:
        lines = "\n".join(f"- {line}" for line in str(e).splitlines())
        raise InputError(f"{file}: cannot be used; correct it, or make the results again\n{lines}") from e


def _from_content(content: Any, folder: Path) -> Results:
    if not isinstance(content, dict):
        raise InputError(f"should hold an object with the keys {', '.join(_REQUIRED)}")
    if missing := [key for key in _REQUIRED if key not in content]:
        raise InputError(f"the keys {', '.join(missing)} are missing")
    known = {key: content[key] for key in (*_REQUIRED, *_OPTIONAL) if key in content}
    known.setdefault("made_by", {})
    results = Results(**known)
    results.cases = [
        CaseFiles(
            case.case,
            tuple(_whole(path, folder) for path in case.image),
            _whole(case.prediction, folder),
            case.label and _whole(case.label, folder),
            case.volumes_ml,
            case.areas_mm2,
            case.annotated,
        )
        for case in results.cases
    ]
    results.training_log = results.training_log and _whole(os.fspath(results.training_log), folder)
    return results


def _whole(path: str | os.PathLike, folder: Path) -> str:
    return os.path.normpath(folder / path)


def _store(path: str | os.PathLike, folder: Path, only_name: bool = False) -> str:
    """Return a path relative to the folder, or, with `only_name`, just the name of a file outside it."""
    whole = Path(os.path.abspath(expand(path)))
    if whole.is_relative_to(folder):
        return whole.relative_to(folder).as_posix()
    return whole.name if only_name else Path(os.path.relpath(whole, folder)).as_posix()


def _facts(results: Results) -> list[str]:
    """List what is wrong with everything but the cases."""
    defects = []
    if results.kind not in KINDS:
        defects.append(f"kind: should be {' or '.join(KINDS)}, not {brief(results.kind)}")
    if not isinstance(results.title, str):
        defects.append(f"title: should be a text, not {brief(results.title)}")
    labels, values = results.labels, results.values
    if not (_is_list(labels) and labels and all(isinstance(name, str) for name in labels)):
        defects.append("labels: should be a list of the structures' names, without background")
    elif _repeats(labels):
        defects.append("labels: two structures have the same name")
    if not (_is_list(values) and all(_is_list(group) and group and all(map(_is_value, group)) for group in values)):
        defects.append("values: should be a list of label values, whole numbers from 1, for each structure")
    elif _is_list(labels) and len(labels) != len(values):
        defects.append(
            f"values: has {count(len(values), 'entry', 'entries')} for {count(len(labels), 'label')}; "
            "give one list a structure"
        )
    if results.training_log is not None and not isinstance(results.training_log, (str, os.PathLike)):
        defects.append(f"training_log: should be a path or null, not {brief(results.training_log)}")
    made = results.made_by
    if not isinstance(made, Mapping) or not all(isinstance(text, (str, int, float)) for text in made.values()):
        defects.append(f"made_by: should be versions by name, not {brief(results.made_by)}")
    if results.ignore_label is not None and not _is_value(results.ignore_label):
        defects.append(f"ignore_label: should be a whole number from 1 or null, not {brief(results.ignore_label)}")
    return defects


def _case_defects(case: Any, number: int, kind: str) -> list[str]:
    """List what is wrong with one entry in the list of cases."""
    entry = asdict(case) if isinstance(case, CaseFiles) else case
    if not isinstance(entry, Mapping):
        return [f"cases: entry {number} should have the keys case, {', '.join(_FILES)}, not be {brief(entry)}"]
    missing = [key for key in ("case", "image", "prediction") if key not in entry]
    if kind == "evaluation" and entry.get("label") is None:
        missing.append("label")
    where = f"cases: entry {number} ({entry.get('case')})"
    if missing:
        return [f"{where} lacks {', '.join(missing)}"]
    wrong = [key for key in ("case", "prediction") if not isinstance(entry[key], (str, os.PathLike)) or not entry[key]]
    images = entry["image"] if _is_list(entry["image"]) else [entry["image"]]
    if not images or not all(isinstance(path, (str, os.PathLike)) and path for path in images):
        wrong.append("image")
    if entry.get("label") is not None and (not isinstance(entry["label"], (str, os.PathLike)) or not entry["label"]):
        wrong.append("label")
    for key in _SIZES:
        sizes = entry.get(key)
        if sizes is not None and not (isinstance(sizes, Mapping) and all(map(_is_size, sizes.values()))):
            wrong.append(key)
    names = entry.get("annotated")
    if names is not None and not (_is_list(names) and all(isinstance(name, str) for name in names)):
        wrong.append("annotated")
    what = {"case": "a name", "annotated": "a list of structures"} | dict.fromkeys(
        _SIZES, "numbers by the structures' names"
    )
    return [f"{where}: {key} should be {what.get(key, 'a path')}, not {brief(entry[key])}" for key in wrong]


def as_case(case: CaseFiles | Mapping[str, Any]) -> CaseFiles:
    """Return the files of a case.

    Args:
        case: A :class:`CaseFiles`, or a dict with the keys `case`, `image` (a path, or a list with one path for each
            channel), `prediction`, and, if available, `label`, `annotated`, and `volumes_ml` or `areas_mm2`.
    """
    entry = asdict(case) if isinstance(case, CaseFiles) else case
    images = entry["image"] if _is_list(entry["image"]) else [entry["image"]]
    label = entry.get("label")
    return CaseFiles(
        str(entry["case"]),
        tuple(os.fspath(path) for path in images),
        os.fspath(entry["prediction"]),
        None if label is None else os.fspath(label),
        entry.get("volumes_ml"),
        entry.get("areas_mm2"),
        None if entry.get("annotated") is None else tuple(entry["annotated"]),
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_value(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < MAX_LABELS


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _repeats(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)
