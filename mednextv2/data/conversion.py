"""Conversion of public data sets to nnU-Net's layout: in parallel, resumable, and with a record of what was done.

A converter (scripts/convert) says what it found in the downloaded files and how one case is read. Everything else is
here: the cases are spread over processes, cases that are there already are skipped, and nothing is described by a
`dataset.json` before it is complete.
"""

import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mednextv2.data.conversion_cases import (
    Converted,
    DatasetFacts,
    Job,
    Outcome,
    SourceCase,
    convert_case,
    relative,
)
from mednextv2.data.conversion_look import look_through
from mednextv2.data.conversion_sources import Found, describe_ignored
from mednextv2.data.conversion_target import opened_target, prepare_target, write_descriptions
from mednextv2.errors import InputError
from mednextv2.paths import absolute
from mednextv2.wording import count

_SHOWN = 50  # lines about cases or notes in the summary; the rest is counted
Convert = Callable[[SourceCase, Mapping[str, Any]], Converted]


@dataclass(frozen=True)
class Summary:
    """What a conversion did.

    Attributes:
        written: Names of the cases that were written.
        skipped: Names of the cases that were there already.
        excluded: Why other cases are not there, by name.
        text: All of it in words, without the path of the source.
    """

    written: tuple[str, ...]
    skipped: tuple[str, ...]
    excluded: Mapping[str, str]
    text: str


def run_conversion(
    facts: DatasetFacts,
    found: Found,
    convert: Convert,
    source: str | os.PathLike,
    target: str | os.PathLike,
    options: Mapping[str, Any],
    workers: int = 1,
    exclude_defective: bool = False,
) -> Summary:
    """Convert the cases that were found, and describe them by `dataset.json` and `conversion.json`.

    Args:
        facts: What `dataset.json` says.
        found: The cases in the source.
        convert: Reads one case; called in worker processes, so it must be a function of a module.
        source: The folder of the source.
        target: The folder of the converted data set, new or of an earlier run of the same conversion.
        options: The converter's own options: plain data that change the result.
        workers: The number of processes; 1 works in this one.
        exclude_defective: Leave out cases that are incomplete or cannot be read, instead of ending with an error.

    Returns:
        What was done.

    Raises:
        InputError: If cases are defective and not to be excluded, if no training case is left, or if the target holds
            something else or cannot be written. Cases that were written stay, and are skipped by the next run.
    """
    source, target = absolute(source), absolute(target)
    if source == target or source in target.parents or target in source.parents:
        raise InputError(f"{target}: the source and the target lie in each other; give another folder as TARGET")
    incomplete = {name: relative(text, source).removeprefix(f"{name}: ") for name, text in found.incomplete.items()}
    jobs = [Job(case, facts, convert, options, source, target) for case in _in_order(found.cases)]
    if incomplete and not exclude_defective:
        outcomes, unread = look_through(jobs)
        known, defective = (_defects(outcomes, known) for known in (True, False))
        raise InputError(_cannot(source, incomplete | defective, jobs, known, unread))
    if not any(job.case.part == "Tr" for job in jobs):
        raise InputError(f"{source}: has no complete training case" + _listed(incomplete | found.excluded, ": "))
    with opened_target(target):
        prepare_target(facts, found, target, options)
        outcomes = _convert_all(jobs, workers)
        known, defective = (_defects(outcomes, known) for known in (True, False))
        if defective and not exclude_defective:
            raise InputError(_cannot(source, defective, jobs, known))
        excluded = dict(sorted({**found.excluded, **incomplete, **known, **defective}.items()))
        return _finish(facts, found, outcomes, excluded, source, target, options)


def _in_order(cases: Sequence[SourceCase]) -> list[SourceCase]:
    names = Counter(case.name for case in cases)
    if twice := [name for name, number in names.items() if number > 1]:
        raise InputError(f"several cases have the name {', '.join(twice[:5])}; remove the copies from the source")
    return sorted(cases, key=lambda case: case.name)


def _convert_all(jobs: Sequence[Job], workers: int) -> list[Outcome]:
    """Convert cases, and show how far it is; the outcomes are in the order of the jobs."""
    found: Iterator[Outcome]
    bar = {"total": len(jobs), "desc": "converting", "unit": "case", "mininterval": 1}
    if min(workers, len(jobs)) <= 1:
        return list(tqdm(map(convert_case, jobs), **bar))
    kinds = multiprocessing.get_all_start_methods()
    # not fork: threads of ITK and PyTorch, and their locks, do not survive it
    context = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["mednextv2.data.conversion"])  # imported once, not in each process
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_prepare_worker)
    try:
        found = pool.map(convert_case, jobs)
        return list(tqdm(found, **bar))
    except BrokenProcessPool as e:
        raise InputError(
            "workers: a process was killed, probably by the system for lack of memory; give fewer --workers. The same "
            "command goes on where this one ended"
        ) from e
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    """Let a worker process end when the main process was killed, for it would wait for ever; Ctrl-C is left to that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _defects(outcomes: Sequence[Outcome], known: bool) -> dict[str, str]:
    return {outcome.name: outcome.defect for outcome in outcomes if outcome.defect and outcome.known == known}


def _cannot(
    source: Path,
    reasons: Mapping[str, str],
    jobs: Sequence[Job],
    known: Mapping[str, str],
    unread: int | None = None,
) -> str:
    """List defective cases and say what to do; `unread` is given if the others were only read and not converted."""
    sound = [job.case for job in jobs if job.case.name not in {*reasons, *known}]
    text = _listed(reasons, f"{count(len(reasons), 'case')} of {source} cannot be converted:")
    text += f"\n{count(len(sound) - (unread or 0), 'other case')} can be used"
    if unread is None:
        text += ", and the next run skips what was written"
    elif unread:
        text += f", and {unread} could not be read in a short time; the conversion will tell"
    text += ". Mend these cases and give the same command again"
    if any(case.part == "Tr" for case in sound):
        text += ", or add --defective exclude to leave them out; conversion.json then lists all of them"
    return text


def _listed(reasons: Mapping[str, str], head: str, shown: int = 10) -> str:
    """List cases below a heading, those of one reason in one line; nothing if there are none."""
    names: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        names.setdefault(reason, []).append(name)
    lines = [f"- {_first(own)}: {reason}" for reason, own in names.items()]
    rest = sum(map(len, [*names.values()][shown:]))
    more = [f"- … and {count(rest, 'more case', 'more cases')}"] if rest else []
    return "\n".join([head, *lines[:shown], *more]) if lines else ""


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _finish(
    facts: DatasetFacts,
    found: Found,
    outcomes: Sequence[Outcome],
    excluded: Mapping[str, str],
    source: Path,
    target: Path,
    options: Mapping[str, Any],
) -> Summary:
    """Write what describes the whole data set, `dataset.json` last, and sum up."""
    there = [outcome for outcome in outcomes if not outcome.defect]
    training = [outcome.name for outcome in there if outcome.part == "Tr"]
    if not training:
        raise InputError(f"{target}: no training case could be converted" + _listed(excluded, ": "))
    if not any(outcome.part == "Ts" and outcome.labelled for outcome in there):
        shutil.rmtree(target / "labelsTs", ignore_errors=True)  # which is empty
    notes = [relative(note, source) for note in found.notes]
    folds = [tuple([n for n in side if n in {*training}] for side in fold) for fold in found.split]
    contents: dict[str, Any] = {}
    if folds and all(all(fold) for fold in folds):
        contents["splits_final.json"] = [{"train": sorted(a), "val": sorted(b)} for a, b in folds]
    elif folds:
        notes.append("the data set's own split has no case on one side, so it was not written")
    contents["conversion.json"] = {
        "dataset": facts.id, "title": facts.title, "options": dict(options), "channels": list(facts.channels),
        "labels": {str(value): facts.labels[value] for value in sorted(facts.labels)},
        "notes": notes,
        "excluded": excluded,
        "ignored": sorted(relative(str(file), source) for file in found.ignored),
        "cases": {
            o.name: {"part": "training" if o.part == "Tr" else "test", "label": o.labelled, "source": o.source,
                     "notes": list(o.notes)}
            for o in there
        },
    }  # fmt: skip
    contents["dataset.json"] = describe(facts, len(training))  # written last, when everything is there
    write_descriptions(target, contents)
    text = _sum_up(found, there, excluded, notes, source)
    written = tuple(outcome.name for outcome in there if outcome.written)
    skipped = tuple(outcome.name for outcome in there if not outcome.written)
    return Summary(written, skipped, excluded, text)


def describe(facts: DatasetFacts, training: int) -> dict[str, Any]:
    """Return the content of a `dataset.json` in nnU-Net's form.

    Args:
        facts: Of the data set.
        training: The number of training cases.
    """
    labels: dict[str, Any] = {"background": 0}
    if facts.regions:
        labels |= {name: list(values) if len(values) > 1 else values[0] for name, values in facts.regions.items()}
    else:
        labels |= {facts.labels[value]: value for value in sorted(facts.labels)}
    return {
        "name": facts.title,
        "channel_names": {str(number): name for number, name in enumerate(facts.channels)},
        "labels": labels,
        **({"regions_class_order": list(facts.regions_order)} if facts.regions else {}),
        "numTraining": training,
        "file_ending": ".nii.gz",
        "reference": facts.reference,
        "licence": facts.licence,
    }


def _sum_up(
    found: Found, there: Sequence[Outcome], excluded: Mapping[str, str], notes: Sequence[str], source: Path
) -> str:
    written = sum(outcome.written for outcome in there)
    parts = Counter(outcome.part for outcome in there)
    test = f", {count(parts['Ts'], 'test case')}" if parts["Ts"] else ""
    skipped = f", {len(there) - written} skipped, since they were there already" if written < len(there) else ""
    lines = [f"{count(parts['Tr'], 'training case')}{test}: {written} written{skipped}"]
    if excluded:
        lines.append(_listed(excluded, f"{count(len(excluded), 'case')} excluded:", _SHOWN))
    if found.ignored:
        lines.append(describe_ignored(found.ignored, source))
    said = Counter(note for outcome in there for note in outcome.notes)
    lines += [f"note: {note}" for note in notes]
    lines += [f"note ({count(number, 'case')}): {note}" for note, number in sorted(said.items())[:_SHOWN]]
    if len(said) > _SHOWN:
        lines.append(f"note: {len(said) - _SHOWN} more notes on cases are in conversion.json")
    return "\n".join(lines)
