"""The end of a cross-validation: the scores of all folds in one table, and the post-processing that they support."""

import os
from pathlib import Path
from typing import Any

from mednextv2.bundle.run import find_bundle, read_workflow, workflow_files
from mednextv2.data.cases import DatasetFolder
from mednextv2.data.dataset import read_dataset
from mednextv2.data.splits import Split, split_dataset
from mednextv2.errors import InputError
from mednextv2.inference.postprocessing import Postprocessing
from mednextv2.inference.postprocessing_choice import choose_postprocessing
from mednextv2.inference.weights_choice import FOLDS_POSTPROCESSING, training_folder
from mednextv2.label_scheme import LabelScheme
from mednextv2.paths import prepare_folder
from mednextv2.scores.csv_tables import read_csv, write_csv
from mednextv2.scores.evaluation import case_files, format_table, summarise
from mednextv2.scores.results_json import Results, as_case, write_results
from mednextv2.weights.locations import weights_file
from mednextv2.weights.provenance import read_about


def finish_cross_validation(
    bundle: str | os.PathLike,
    dataset_dir: str | os.PathLike,
    labels_dir: str | os.PathLike | None = None,
    workers: int = 4,
    experiment: str = "",
) -> tuple[str, Postprocessing]:
    """Pool the evaluations of all folds and decide the post-processing.

    It needs `output/evaluation/fold_<k>` of every fold in the bundle, as written by the workflow evaluate. It writes
    `output/evaluation/cross_validation/cases.csv`, `summary.csv` and `results.json`, from which `mednextv2 report`
    starts, and `folds_postprocessing.json` in the folder of the folds, which inference with these weights applies from
    then on.

    Args:
        bundle: The path or name of the bundle: see :func:`mednextv2.bundle.run.find_bundle`.
        dataset_dir: The training data set: see :func:`mednextv2.data.read_dataset`.
        labels_dir: The folder of the label maps: see :func:`mednextv2.data.read_dataset`.
        workers: Number of threads.
        experiment: The folder of the trainings in `models`, and of their evaluations and the results in
            `output/evaluation`: see :func:`mednextv2.inference.find_weights`.

    Returns:
        The table of scores for people, and the decision.

    Raises:
        InputError: When a fold has not been trained or evaluated.
    """
    root = find_bundle(bundle)
    scheme = bundle_scheme(root)
    models = training_folder(root, experiment)
    dataset = read_dataset(dataset_dir, labels_dir)
    if dataset.parts:
        raise InputError(
            f"{dataset_dir}: is a collection of data sets that annotate different structures, for which no "
            "post-processing is chosen; the scores of each fold are in its summary.csv"
        )
    splits = _splits(models, dataset)
    data = f"--dataset_dir {dataset_dir}" + (f" --labels_dir {labels_dir}" if labels_dir else "")
    data += f" --experiment {experiment}" if experiment else ""
    evaluation = root / "output" / "evaluation" / experiment
    files, problems, rows = [], [], []
    for fold, split in enumerate(splits):
        folder = evaluation / f"fold_{fold}"
        found = case_files(split.validation, folder)
        missing = [entry["prediction"] for entry in found if not entry["prediction"].is_file()]
        if not weights_file(models / f"fold_{fold}").is_file():
            problems.append(f"fold {fold} is not trained: mednextv2 run {bundle} train {data} --fold {fold}")
        if missing or not (folder / "cases.csv").is_file():
            problems.append(
                f"fold {fold} is not evaluated ({len(missing)} of {len(found)} predictions missing in {folder}): "
                f"mednextv2 run {bundle} evaluate {data} --fold {fold}"
            )
            continue
        files += found
        rows += _read_scores(folder / "cases.csv")
    if problems:
        raise InputError("\n".join([f"{root}: the cross-validation is not complete", *problems]))
    folder = prepare_folder(evaluation / "cross_validation", "output")
    summary = summarise(rows, scheme.foreground)
    write_csv(folder / "cases.csv", rows)
    write_csv(folder / "summary.csv", summary)
    title = f"{root.resolve().name}, cross-validation"
    listed = [as_case(entry) for entry in files]
    ignored = scheme.ignore_label
    results = Results("evaluation", title, scheme.foreground, scheme.members, listed, ignore_label=ignored)
    write_results(folder, results)
    decision = choose_postprocessing([(entry["prediction"], entry["label"]) for entry in files], scheme, workers)
    decision.save(models / FOLDS_POSTPROCESSING)
    return format_table(summary), decision


def _splits(models: Path, dataset: DatasetFolder) -> list[Split]:
    """Return the split with which each fold's weights were trained, or would be trained."""
    trained = {int(folder.name[5:]): folder for folder in models.glob("fold_*") if folder.name[5:].isdigit()}
    counts = {k: int(about["num_folds"]) for k in sorted(trained) if "num_folds" in (about := _about(models, k))}
    if len({*counts.values()}) > 1:
        raise _different(models, ", ".join(f"fold {k} of {count}" for k, count in counts.items()))
    count = max(counts.values(), default=0) or split_dataset(dataset, 0).num_folds
    own = count if counts and count != split_dataset(dataset, 0).num_folds else None  # of folds without weights
    splits = [split_dataset(dataset, k, None if k in counts else own, trained=_about(models, k)) for k in range(count)]
    validating: dict[str, int] = {}
    for k in sorted({*counts} & {*range(count)}):
        for name in (item["case"] for item in splits[k].validation):
            if validating.setdefault(name, k) != k:
                raise _different(models, f"{name} validates in fold {validating[name]} and in fold {k}")
    return splits


def _different(models: Path, detail: str) -> InputError:
    return InputError(
        f"{models}: its folds were trained with different splits ({detail}), so their scores do not belong "
        "together; train and evaluate all of them with the same --num_folds, --group and --splits"
    )


def _about(models: Path, fold: int) -> dict[str, Any]:
    return read_about(weights_file(models / f"fold_{fold}"))


def bundle_scheme(root: Path) -> LabelScheme:
    """Return what the label values of a bundle mean, from its configuration."""
    return read_workflow(workflow_files(root, "train")).get_parsed_content("scheme")


def _read_scores(path: Path) -> list[dict[str, Any]]:
    rows = read_csv(path)
    return [{k: v if k in ("case", "label") else float(v) for k, v in row.items()} for row in rows]
