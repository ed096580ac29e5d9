"""A comparison from beginning to end."""

import os
import shutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mednextv2.bundle import find_bundle, run_bundle, write_bundle
from mednextv2.bundle.networks import find_network
from mednextv2.bundle.plan import plan_dataset
from mednextv2.bundle.plan_to_task import write_task
from mednextv2.comparison.entries import Entry
from mednextv2.comparison.figure import draw_pretraining, draw_runs
from mednextv2.comparison.preflight import check_networks
from mednextv2.comparison.pretrained import check_pretrained
from mednextv2.comparison.request import NAME, Request, store_request
from mednextv2.comparison.results import Result, gather, read_run
from mednextv2.comparison.runner import make_runs
from mednextv2.comparison.runs import list_runs
from mednextv2.comparison.table import RUN_COLUMNS, markdown, run_rows, table_rows
from mednextv2.data.dataset import read_dataset
from mednextv2.data.splits import Split, split_dataset
from mednextv2.errors import InputError, UsageError
from mednextv2.locks import hold_folder, release_folder
from mednextv2.machine import usable_cpus
from mednextv2.paths import absolute, expand, missing_folders, prepare_folder, remove_empty, writing
from mednextv2.scores.csv_tables import write_csv
from mednextv2.scores.results_json import made_by
from mednextv2.text_files import MAX_YAML_BYTES, parse_yaml, read_text
from mednextv2.weights.provenance import unlabelled_cases
from mednextv2.wording import count

_PREPARED = ".prepared"  # an empty file that says that the data were checked and prepared
_RESULTS = ("comparison.csv", "runs.csv", "comparison.md", "comparison.svg", "pretraining.svg")
_UNUSED = 0.8  # part of the time below which a run did not use what it could have used
_NOT_OF_THE_RECIPE = ("network", "cuda_graph", "variant", "imports", "warmup_epochs")


@dataclass(frozen=True)
class Comparison:
    """The outcome of a comparison: the results, the files about them, and the table as text."""

    results: list[Result]
    files: list[Path]
    text: str


def compare_networks(
    request: Request, output: str | os.PathLike, bundle: str | os.PathLike | None = None, memory: float = 24.0
) -> Comparison:
    """Train and evaluate several networks on one data set, and write a table and a figure.

    A comparison that was interrupted goes on: runs that are done are not repeated, and a training that was interrupted
    continues from its last epoch.

    Args:
        request: What is compared.
        output: The folder of the comparison.
        bundle: A bundle, or a `task.yaml`, with the facts for the recipe; None: they are planned from the data.
        memory: The memory that a training step may use, in GiB, for the plan.

    Returns:
        The results.

    Raises:
        InputError: If the data, the bundle or a setting cannot be used, or another comparison is in the folder.
        KeyboardInterrupt: After Ctrl-C; the message says how to go on.
    """
    folder = absolute(output)
    _check_free(folder)
    dataset = read_dataset(request.dataset_dir, request.labels_dir)
    if dataset.parts:
        raise InputError(f"{request.dataset_dir}: is a collection of data sets; networks are compared on one data set")
    split_of = {k: request.settings.get(k) for k in ("num_folds", "splits", "group")}
    splits = [split_dataset(dataset, fold, **split_of) for fold in request.folds]
    check_networks(request.entries)
    created = missing_folders(folder)
    prepare_folder(folder, "output")
    hold_folder(folder, "output")
    try:
        scored = {item["case"] for split in splits for item in split.validation}
        own = _start(request, folder, bundle, memory, scored)
        _prepare_data(request, folder, own)
        runs = list_runs(folder, request.entries, request.folds, request.seeds)
        failed = make_runs(runs, lambda run: request.job(run, own), lambda run: f"Dice {read_run(run).dice:.3f}")
        results = gather(runs, failed, request.settings.get("group"))
        facts = [
            f"Data: {dataset.path}, {count(len(dataset.cases), 'case')}. Split: {splits[0].source}; fold "
            f"{', '.join(map(str, request.folds))}, the same for all networks: {_sides(splits)}.",
            *_facts(request, own, results),
            *_seen_images(results, scored),
        ]
        return _write(folder, dataset.path.name, results, facts)
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(f"stopped by Ctrl-C; the same command goes on with the comparison in {folder}") from e
    finally:
        release_folder(folder)
        remove_empty(created)


def _sides(splits: Sequence[Split]) -> str:
    """Say how many cases are for training and how many are scored, in each fold."""
    texts = [f"{len(s.training)} for training, {len(s.validation)} scored" for s in splits]
    return texts[0] if len({*texts}) == 1 else "; ".join(texts)


def _seen_images(results: Sequence[Result], scored: set[str]) -> list[str]:
    """Say of which scored cases the images were part of a pretraining without labels."""
    lines = []
    for result in results:
        file = result.entry.pretrained
        if file and (seen := sorted(scored & unlabelled_cases([file]))):
            lines.append(
                f"{result.entry.name}: the images of {len(seen)} of the {count(len(scored), 'scored case')} "
                f"({seen[0]}, ...) were part of the pretraining, without their labels."
            )
    return lines


def _start(
    request: Request, folder: Path, bundle: str | os.PathLike | None, memory: float, scored: Collection[str]
) -> Path:
    """Make the comparison's bundle and check what depends on it; if something is refused, a new bundle is not kept."""
    fresh = not os.path.exists(folder / "bundle")
    try:
        own = _make_bundle(request, folder / "bundle", bundle, memory)
        request.settings_of(own, "train")  # refuses names that this bundle does not have
        runs = list_runs(folder, request.entries, request.folds[:1], request.seeds[:1])
        tuned = [(run.entry.option, request.job(run, own).train) for run in runs if run.entry.pretrained]
        for line in check_pretrained(own, tuned, scored):
            print(line, file=sys.stderr)
        store_request(folder, request)
    except InputError:
        if fresh:
            shutil.rmtree(folder / "bundle", ignore_errors=True)
        raise
    return own


def _check_free(folder: Path) -> None:
    """Raise an InputError if the results of a comparison would replace files that are of no comparison."""
    foreign = [name for name in _RESULTS if os.path.exists(folder / name)]
    if foreign and not os.path.exists(folder / NAME):
        raise InputError(
            f"output {folder}: holds {', '.join(foreign)}, but no {NAME}, so these files are not of a comparison that "
            "could go on, and would be replaced; give another --output"
        )


def _make_bundle(request: Request, own: Path, bundle: str | os.PathLike | None, memory: float) -> Path:
    """Make the comparison's own bundle from a task, or from a plan, unless it is there already."""
    task = own / "task.yaml"
    if bundle is not None:
        text = read_text(_task_of(bundle), MAX_YAML_BYTES)
        if task.is_file() and task.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{own}: was made from another task than {bundle}; give the same --bundle as before, or another "
                "--output"
            )
        prepare_folder(own, "output")
        with writing(task) as temporary:
            temporary.write_text(text, encoding="utf-8")
    elif not task.is_file():
        given = {k: request.settings[k] for k in ("spacing", "patch_size", "batch_size") if k in request.settings}
        plan = plan_dataset(request.dataset_dir, request.labels_dir, **given, memory=memory)
        print(plan.table())
        write_task(plan, own)
    write_bundle(task)
    return own


def _task_of(bundle: str | os.PathLike) -> Path:
    given = expand(bundle)
    if given.is_file():
        return given
    task = (given if (given / "task.yaml").is_file() else find_bundle(bundle)) / "task.yaml"
    if not task.is_file():
        raise UsageError(f"--bundle {bundle}: has no task.yaml; give a bundle with one, or a task.yaml")
    return task


def _prepare_data(request: Request, folder: Path, bundle: Path) -> None:
    """Check the data and prepare all cases once, which is no part of a run's time."""
    mark = folder / _PREPARED
    if mark.exists():
        return
    settings = request.settings_of(bundle, "train")
    data = {"dataset_dir": absolute(request.dataset_dir)}
    if request.labels_dir is not None:
        data["labels_dir"] = absolute(request.labels_dir)
    run_bundle(bundle, "train", **{**settings, **data, "output_dir": folder / "preparation"}, run_id="prepare_cases")
    shutil.rmtree(folder / "preparation", ignore_errors=True)
    mark.touch()


def _facts(request: Request, bundle: Path, results: Sequence[Result]) -> list[str]:
    """Return sentences on the recipe, the budget, the machine and the versions."""
    task = parse_yaml(read_text(bundle / "task.yaml", MAX_YAML_BYTES).partition("\n---")[0], bundle / "task.yaml")
    patch, batch = (request.settings.get(k, task[k]) for k in ("patch_size", "batch_size"))
    budget = (
        f"{count(request.epochs, 'epoch')} for each run, which means equal numbers of steps"
        if request.epochs is not None
        else f"{request.minutes:g} minutes of training for each run, with its validations; the number of steps follows "
        "from a measured trial of each network"
    )
    more = ", ".join(f"{k} {v}" for k, v in request.settings.items())
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    facts = [
        f"Recipe: the same for all networks, with patches of {list(patch)} voxels, {batch} in a step"
        + (f"; changed settings: {more}." if more else "."),
        f"Budget: {budget}. Seeds: {', '.join(map(str, request.seeds))}.",
        "Dice and surface Dice are means over structures of means over cases; ± is the standard deviation over runs.",
        "The difference is of the mean Dice of a case, averaged over seeds, to that of the network with rank 1. Its "
        "95 % interval is a paired bootstrap over patients; one that holds 0 does not tell the two networks apart.",
        "The time of a step is its mean, with the reading of patches. Memory is the peak during training: of tensors "
        "on the GPU, or of the process, without the worker processes that read patches.",
        f"Machine: {where}, {usable_cpus()} processors. "
        + ", ".join(f"{name} {version}" for name, version in made_by().items()) + ".",
    ]  # fmt: skip
    for result in results:
        used = result.mean("training_seconds") / 60
        if request.minutes is not None and used < _UNUSED * request.minutes:
            facts.append(
                f"{result.entry.name} was done after {used:.3g} of {request.minutes:g} minutes, since its steps were "
                "faster than in its trial; was the machine busy then?"
            )
        if result.entry.pretrained:
            facts.append(f"{result.entry.name} starts from {result.entry.pretrained}, in the workflow finetune.")
        if changed := _own_recipe(result.entry, request.settings):
            facts.append(f"{result.entry.name} has settings of its own: {changed}.")
    return facts


def _own_recipe(entry: Entry, given: Any) -> str:
    """Say which settings of the recipe the file of a network replaces."""
    if "network" not in entry.settings:
        return ""
    file = find_network(entry.settings["network"])
    content = parse_yaml(read_text(file, MAX_YAML_BYTES), file)
    own = {
        key: value
        for key, value in content.items()
        if not key.startswith(_NOT_OF_THE_RECIPE) and key not in given and not isinstance(value, (dict, list))
    }
    return ", ".join(f"{key} {value}" for key, value in own.items())


def _write(folder: Path, name: str, results: list[Result], facts: Sequence[str]) -> Comparison:
    *files, pretraining = [folder / name for name in _RESULTS]
    write_csv(files[0], table_rows(results))
    write_csv(files[1], run_rows(results), RUN_COLUMNS)
    text = markdown(results, facts)
    pictures = {files[3]: draw_runs(results, f"{name}: Dice of each network")}
    pairs = [(r.scratch, r) for r in results if r.scratch is not None]
    if pairs:
        files.append(pretraining)
        pictures[files[-1]] = draw_pretraining(pairs, f"{name}: pretraining")
    for file, content in {files[2]: text, **pictures}.items():
        with writing(file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return Comparison(results, files, text)
