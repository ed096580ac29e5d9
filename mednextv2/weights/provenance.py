"""What a file of weights records about its training: an extra entry beside the tensors, which other readers skip.

In a file of safetensors, it is among the metadata: see :mod:`mednextv2.weights.safetensors_file`.

A file that `torch.save` writes is a ZIP archive. The entry is JSON, so it can be displayed with
`unzip -p model.pt "*/mednextv2/about.json"`.
It stays when the file is copied or renamed, and the tensors remain a bare state dict.
"""

import json
import logging
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from mednextv2.errors import InputError
from mednextv2.paths import expand
from mednextv2.weights import onnx_file, safetensors_file
from mednextv2.wording import count

logger = logging.getLogger(__name__)

#: The name of the entry within the archive's own folder, since PyTorch allows no entries outside that folder.
ENTRY = "mednextv2/about.json"
#: The folder within that folder for the entries of others in archives of TorchScript and torch.export.
EXTRA = "extra/"
#: The name in a record under which that of the training before stands.
PRETRAINED = "pretrained"
#: The name in a record under which the names of images stand that were trained on without their labels.
UNLABELLED = "images"
_LONGEST = 100  # number of trainings, each started from the one before, that are looked at
_SHOWN = 10  # largest number of settings or labels in a message
_LIMIT = 50 * 2**20  # the largest number of bytes of JSON that are read


def add_about(
    path: str | os.PathLike | IO[bytes], about: Mapping[str, Any], within: str = "", entry: str = ENTRY
) -> None:
    """Add what is known about a training to a file of weights that was just written.

    Args:
        path: A file written by `torch.save`, `torch.jit.save` or `torch.export.save`, or its content.
        about: Plain values, such as `fold`, `training` (the names of the cases trained on), `epoch` and `epochs`.
        within: The folder of the entry; :data:`EXTRA` for an exported network.
        entry: The name of the entry.
    """
    with zipfile.ZipFile(path, "a", compression=zipfile.ZIP_DEFLATED) as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(
            zipfile.ZipInfo(f"{folder}/{within}{entry}"), json.dumps(dict(about), ensure_ascii=False),
            zipfile.ZIP_DEFLATED,
        )  # fmt: skip


def read_about(path: str | os.PathLike) -> dict[str, Any]:
    """Return what a file of weights or of an exported network records about its training.

    Returns:
        The record; an empty dictionary if the file records nothing.
    """
    try:
        if safetensors_file.is_safetensors(expand(path)):
            return safetensors_file.read_header(expand(path))
        content = json.loads(_onnx_record(path) if Path(path).suffix.lower() == ".onnx" else _archived_record(path))
    except (OSError, LookupError, TypeError, ValueError, RecursionError, zipfile.BadZipFile, zlib.error):
        return {}
    return content if isinstance(content, dict) else {}


def _onnx_record(path: str | os.PathLike) -> str:
    return onnx_file.read_metadata(expand(path))[onnx_file.KEY]


def _archived_record(path: str | os.PathLike) -> bytes:
    with zipfile.ZipFile(expand(path)) as archive:
        names = archive.namelist()
        folder = names[0].split("/")[0]
        entry = next(
            name for name in (f"{folder}/{ENTRY}", f"{folder}/{EXTRA}{ENTRY}", "") if name in names or not name
        )
        if archive.getinfo(entry).file_size > _LIMIT:
            raise ValueError(f"{path}: its record is too large")
        return archive.read(entry)


def trained_cases(files: Sequence[str | os.PathLike]) -> set[str]:
    """Return the names of all cases that any of these files of weights were trained on, as far as they record them.

    Fine-tuned weights have also seen the cases of their pretraining: see :func:`pretraining_cases`.
    """
    records = [read_about(file) for file in files]
    return {name for about in records for name in _names(about) | pretraining_cases(about)}


def pretraining_cases(about: Mapping[str, Any]) -> set[str]:
    """Return which cases of a training's data set were seen in the trainings before, under their names in it.

    Args:
        about: The record of the training: its data set, or its collection of data sets, and the trainings before.
    """
    pairs = [pair for step in _pretraining(about) for pair in _cases(step)]
    if "datasets" in about:
        return {f"{dataset}.{case}" for dataset, case in pairs}
    return {case for dataset, case in pairs if dataset == about.get("dataset")}


def namesakes(files: Sequence[str | os.PathLike]) -> set[str]:
    """Return the names of the cases of other data sets that weights were pretrained on.

    A case of the same name need not be the same image: many data sets count their cases.
    """
    found: set[str] = set()
    for about in map(read_about, files):
        steps = [] if "datasets" in about else _pretraining(about)  # names in a collection have that of the data set
        found |= {case for step in steps for dataset, case in _cases(step) if dataset != about.get("dataset")}
    return found


def overlapping(about: Mapping[str, Any]) -> list[str]:
    """Return the data sets of which the trainings before a training have seen images that are also in its own.

    Args:
        about: The record of the training.
    """
    found: dict[str, None] = {}
    for step in _pretraining(about):
        given = step.get("overlaps")
        for name, others in given.items() if isinstance(given, Mapping) else ():
            if isinstance(others, list) and about.get("dataset") in others:
                found[str(name)] = None
    return [*found]


def warn_of_overlap(weights: str, datasets: Sequence[str], dataset: str) -> None:
    """Warn that weights have seen images of a data set in others."""
    logger.warning(
        "%s: pretrained on %s, which has images that are also in %s, so scores on %s may be too high; for scores that "
        "can be compared, pretrain without it (leave_out in the collection)",
        weights, ", ".join(datasets), dataset, dataset,
    )  # fmt: skip


def _cases(about: Mapping[str, Any]) -> set[tuple[str | None, str]]:
    """Return the cases that were trained on, each with the name of its data set."""
    parts = about.get("datasets")
    if not isinstance(parts, Mapping):
        return {(about.get("dataset"), name) for name in _names(about)}
    lists = {name: cases for name, cases in parts.items() if isinstance(cases, list)}
    return {(name, case) for name, cases in lists.items() for case in cases if isinstance(case, str)}


def unlabelled_cases(files: Sequence[str | os.PathLike]) -> set[str]:
    """Return the names of the images that weights, or those that they started from, were trained on without labels."""
    found: set[str] = set()
    for file in files:
        about = read_about(file)
        for step in (about, *_pretraining(about)):
            names = step.get(UNLABELLED)
            found |= {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
    return found


def recorded_labels(path: str | os.PathLike) -> list[str] | None:
    """Return the meaning of the outputs that weights were trained for, or None if they do not record it.

    Args:
        path: The file of weights.

    Returns:
        The background and the names of the classes or regions: see `LabelScheme.legend`.
    """
    labels = read_about(path).get("labels")
    known = isinstance(labels, list) and labels and all(isinstance(name, str) for name in labels)
    return labels if known else None


def other_labels(path: str | os.PathLike, labels: Sequence[str] | None) -> str:
    """Say how the labels that weights record differ from others; empty if they do not, or record none.

    Args:
        path: The file of weights.
        labels: The labels with which they shall be used: see :func:`recorded_labels`; None: nothing is compared.

    Returns:
        As of :func:`label_difference`.
    """
    return label_difference(recorded_labels(path), labels)


def label_difference(recorded: Sequence[str] | None, labels: Sequence[str] | None) -> str:
    """Say how the labels of weights differ from others; empty if they do not, or one of the two is not known.

    Args:
        recorded: The labels of the weights, the background first.
        labels: The labels with which they shall be used.

    Returns:
        A part of a sentence with both lists. Capital letters do not count.
    """
    if not recorded or labels is None:
        return ""
    pairs = list(zip_longest(recorded, map(str, labels), fillvalue="none"))
    first = next(((n, a, b) for n, (a, b) in enumerate(pairs) if a.strip().casefold() != b.strip().casefold()), None)
    if first is None:
        return ""
    where = f"; number {first[0]} is {first[1]} there and {first[2]} here" if len(pairs) > _SHOWN else ""
    return f"the weights are for the labels {_listed(recorded)}, but the labels here are {_listed(labels)}{where}"


def _listed(labels: Sequence[str]) -> str:
    return f"[{', '.join(labels[:_SHOWN])}{f' and {len(labels) - _SHOWN} others' * (len(labels) > _SHOWN)}]"


def check_labels(files: Sequence[str | os.PathLike], labels: Sequence[str] | None) -> None:
    """Raise an InputError if one of several files of weights records other labels than those it shall be used with.

    Args:
        files: The files of weights.
        labels: The labels: see :func:`other_labels`.
    """
    for file in files:
        if difference := other_labels(file, labels):
            raise InputError(
                f"{file}: {difference}; give weights of a training with these labels (--weights), or fine-tune these "
                "weights for them (the workflow finetune with --pretrained). If only the names differ, give both the "
                "same names in task.yaml"
            )


def origin(path: str | os.PathLike) -> dict[str, Any]:
    """Return what weights shall record about the file that their training started from.

    Args:
        path: The file. It may record an origin itself, which stays part of the record.
    """
    about = read_about(path)
    kept = (
        "objective", "dataset", "datasets", "overlaps", "labels", "fold", "training", UNLABELLED, "network", "settings",
        "epoch", "date", PRETRAINED,
    )  # fmt: skip
    return {"file": Path(path).name, **{key: about[key] for key in kept if key in about}}


def _names(about: Mapping[str, Any]) -> set[str]:
    names = about.get("training")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _pretraining(about: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the records of the trainings before, the latest first."""
    for _ in range(_LONGEST):
        about = about.get(PRETRAINED)  # type: ignore[assignment]
        if not isinstance(about, Mapping):
            return
        yield about


def describe_weights(path: str | os.PathLike) -> str:
    """Say in a line what a file of weights is: its name, and what it records about its training."""
    about = read_about(path)
    if not about:
        return str(path)
    parts = []
    if isinstance(about.get("training"), list):
        parts.append(f"trained on {count(len(about['training']), 'case')}")
    elif isinstance(about.get(UNLABELLED), list):
        parts.append(f"trained on {count(len(about[UNLABELLED]), 'image')} without labels")
    if isinstance(about.get("datasets"), dict):
        parts.append(f"of {count(len(about['datasets']), 'data set')}")
    elif isinstance(about.get("dataset"), str):
        parts.append(f"of {about['dataset']}")
    if isinstance(about.get("fold"), (int, str)):
        parts.append(f"fold {about['fold']}")
    epoch, epochs = about.get("epoch"), about.get("epochs")
    if isinstance(epoch, int) and isinstance(epochs, int):
        parts.append(f"epoch {epoch} of {epochs}")
    if isinstance(about.get("date"), str):
        parts.append(about["date"])
    if before := next(_pretraining(about), None):
        cases = ""
        if isinstance(before.get("training"), list):
            cases = f" (trained on {count(len(before['training']), 'case')})"
        elif isinstance(before.get(UNLABELLED), list):
            cases = f" (trained on {count(len(before[UNLABELLED]), 'image')} without labels)"
        parts.append(f"pretrained with {str(before.get('file'))[:100]}{cases}")
    return f"{path} ({', '.join(parts)})"


def describe_network(path: str | os.PathLike) -> str:
    """Say of which network a file of weights is, as far as it records it, or return an empty text."""
    about = read_about(path)
    settings = about.get("settings")
    if not isinstance(about.get("network"), str):
        return ""
    known = settings if isinstance(settings, dict) else {}
    shown = {} if about["network"] == "mednext" else {"network": about["network"]}
    shown |= {str(name): value for name, value in known.items() if isinstance(value, (str, int, float, list))}
    options = " ".join(f"--{name} {str(value)[:60]}" for name, value in [*shown.items()][:_SHOWN])
    return options and f"trained with {options}"
