"""Scores of predictions against references: Dice, surface Dice and Hausdorff distance, per case and class."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.meta_tensor import MetaTensor
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from monai.utils import ensure_tuple
from nibabel.affines import voxel_sizes
from torch import Tensor

from mednextv2.data.joined_labels import JoinedLabels
from mednextv2.data.partial_labels import STRUCTURES
from mednextv2.data.sizes import size_kind
from mednextv2.distributed import is_main_process
from mednextv2.images.writer import mask_path
from mednextv2.label_scheme import LabelScheme
from mednextv2.paths import expand, prepare_folder
from mednextv2.scores.csv_tables import write_csv
from mednextv2.scores.results_json import LOG_NAME
from mednextv2.warning_filters import without_warnings

logger = logging.getLogger(__name__)

METRICS = ("dice", "surface_dice_1mm", "hd95_mm")
_TOLERANCE_MM = 1.0 * (1 + 1e-4)  # a spacing of 1 mm that was stored in float32 may be a little more


def score_case(pred: Tensor, label: Tensor, spacing: Sequence[float]) -> dict[str, list[float]]:
    """Score one case.

    Args:
        pred: One-hot prediction, `(C, X, Y, Z)`, background first.
        label: One-hot reference, `(C, X, Y, Z)`, background first.
        spacing: Voxel size in mm along each axis.

    Returns:
        For each name in `METRICS`, one value for each foreground class. A class that neither mask has is NaN in all of
        them; a class that only one mask has gets Dice 0, surface Dice 0, and an infinite distance.

    Source:
        The Dice of empty classes is as in nnU-Net's evaluation. Surface Dice at 1 mm: Nikolov et al. 2021
        (arXiv:1809.04430). HD95: the larger of the two directed 95th percentiles of surface distances.
    """
    scores: dict[str, list[float]] = {name: [] for name in METRICS}
    for c in range(1, label.shape[0]):
        p, g = pred[c : c + 1][None].bool(), label[c : c + 1][None].bool()
        if not p.any() or not g.any():
            absent = not p.any() and not g.any()
            values = (np.nan, np.nan, np.nan) if absent else (0.0, 0.0, np.inf)
        else:
            with without_warnings():  # MONAI warns of deprecated arguments that it uses itself
                values = (
                    compute_dice(p.float(), g.float(), include_background=True).item(),
                    compute_surface_dice(
                        p, g, class_thresholds=[_TOLERANCE_MM], include_background=True, spacing=list(spacing)
                    ).item(),
                    compute_hausdorff_distance(
                        p, g, include_background=True, percentile=95, spacing=list(spacing)
                    ).item(),
                )
        for name, value in zip(METRICS, values, strict=True):
            scores[name].append(value)
    return scores


class EvaluationTable:
    """Score every case of an evaluation run, and write `cases.csv`, `summary.csv` and `results.json`.

    `cases.csv` has one row for each case and class, with scores and volumes in ml (areas in mm² for 2D images).
    `summary.csv` has one row for each class and one for the mean over classes, with the mean, standard deviation,
    median, minimum and maximum over the cases that have the class (infinite distances are left out and counted), and
    the number of cases. A case of a collection has rows only for what its data set annotates, and its reference, which
    is joined from the files of the data set, is written to `references`. `mednextv2 report` starts from `results.json`,
    which contains the cases' files and the meaning of their values.

    Args:
        output_dir: Folder of the tables; masks are in its subfolder `predictions`, if `items` are given.
        labels: Class names, background first.
        spatial_dims: 2 or 3.
        scheme: The meaning of the label values, for `results.json`.
        items: The cases with their files: dicts with `case`, `image` (a path, or one for each channel) and `label`.
            Without them there is no `results.json`.
        title: The title of the evaluation, such as the names of the bundle and the fold.
        weights: The files of weights. The training log beside them becomes part of a report, if they are from one fold.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        labels: Sequence[str],
        spatial_dims: int = 3,
        scheme: LabelScheme | None = None,
        items: Sequence[Mapping[str, Any]] = (),
        title: str = "Evaluation",
        weights: str | Sequence[str] = (),
    ) -> None:
        self.folder, self.labels, self.spatial_dims = expand(output_dir), list(labels), spatial_dims
        self.scheme, self.items, self.title, self.weights = scheme, items, title, ensure_tuple(weights)
        self.rows: list[dict] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose output is decollated, one-hot, and on the reference's grid."""
        engine.add_event_handler(Events.STARTED, lambda _: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _add(self, engine: Engine) -> None:
        state: Any = engine.state  # ignite annotates its batch and output as numbers
        for given, item in zip(state.batch, state.output, strict=True):
            where = item["label"].affine if isinstance(item["label"], MetaTensor) else torch.eye(4)
            affine = np.asarray(where.cpu())
            spacing = voxel_sizes(affine)[: self.spatial_dims]
            kind = size_kind(self.spatial_dims)
            voxel = kind.of_voxel(affine)
            pred, label = (item[key].as_subclass(Tensor).cpu() for key in ("pred", "label"))
            scores = score_case(pred, label, spacing.tolist())
            known = given.get(STRUCTURES)
            for c, name in enumerate(self.labels[1:]):
                if known is not None and not known[c]:  # its data set does not say where it is
                    continue
                sizes = (float(mask[c + 1].sum()) * voxel for mask in (pred, label))
                self.rows.append(
                    {"case": given["case"], "label": name}
                    | {m: scores[m][c] for m in METRICS}
                    | dict(zip(kind.columns, sizes, strict=True))
                )

    def _write(self, engine: Engine) -> None:
        if not is_main_process():
            return
        folder = prepare_folder(self.folder, "output_dir")
        write_csv(folder / "cases.csv", self.rows)
        summary = summarise(self.rows, self.labels[1:])
        write_csv(folder / "summary.csv", summary)
        if self.items:
            self._write_results(folder)
        logger.info("Scores of %d cases, in %s\n%s", len({r["case"] for r in self.rows}), folder, format_table(summary))

    def _write_results(self, folder: Path) -> None:
        from mednextv2.scores.results_json import Results, as_case, write_results  # the report imports this module

        scored = {row["case"] for row in self.rows}
        logs = {expand(file).parent / LOG_NAME for file in self.weights}
        log = logs.pop() if len(logs) == 1 else None
        values = self.scheme.members if self.scheme else [(v,) for v in range(1, len(self.labels))]
        found = case_files([item for item in self.items if item["case"] in scored], folder)
        for entry in found:
            if STRUCTURES in entry:
                known = zip(self.labels[1:], entry.pop(STRUCTURES), strict=True)
                entry["annotated"] = [name for name, there in known if there]
            if isinstance(entry["label"], JoinedLabels):
                entry["label"] = entry["label"].save(folder / "references" / f"{entry['case']}.nii.gz")
        cases = [as_case(entry) for entry in found]
        results = Results(
            "evaluation", self.title, self.labels[1:], values, cases, log if log and log.is_file() else None,
            ignore_label=self.scheme.ignore_label if self.scheme else None,
        )  # fmt: skip
        write_results(folder, results)


def case_files(items: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the files of evaluated cases: their `case`, `image` and `label`, and the mask as `prediction`.

    In a collection, what is annotated is still there as `structures`.

    Args:
        items: Dicts with `case`, `image` (a path, or one for each channel) and `label`.
        folder: The folder of the evaluation, with the masks in `predictions`.
    """
    return [
        {key: item[key] for key in ("case", "image", "label", STRUCTURES) if key in item}
        | {"prediction": mask_path(folder / "predictions", _mask_source(item))}
        for item in items
    ]


def _mask_source(item: Mapping[str, Any]) -> str:
    return item["case"] if "dataset" in item else ensure_tuple(item["image"])[0]


def summarise(rows: Sequence[dict], labels: Sequence[str]) -> list[dict]:
    """Summarise rows of cases for each class; the last row, `mean`, has the means over the classes.

    Args:
        rows: Dicts with `case`, `label` and the names in `METRICS`.
        labels: The foreground classes.
    """
    summary = []
    for name in labels:
        row: dict = {"label": name}
        mine = [r for r in rows if r["label"] == name]
        for metric in METRICS:
            values = np.array([r[metric] for r in mine], dtype=float)
            values = values[~np.isnan(values)]
            finite = values[np.isfinite(values)]
            row |= {
                f"{metric}_{statistic}": float(function(finite)) if finite.size else float("nan")
                for statistic, function in (
                    ("mean", np.mean),
                    ("std", np.std),
                    ("median", np.median),
                    ("min", np.min),
                    ("max", np.max),
                )
            }
            row[f"{metric}_cases"] = int(values.size)
            row[f"{metric}_infinite"] = int(values.size - finite.size)
        summary.append(row)
    mean: dict = {"label": "mean"}
    for metric in METRICS:
        values = np.array([r[f"{metric}_mean"] for r in summary], dtype=float)
        mean[f"{metric}_mean"] = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
    return [*summary, mean]


def format_table(summary: Sequence[dict]) -> str:
    """Return the means of a summary as a table for people."""
    lines = [f"{'class':<24}{'Dice':>8}{'surface Dice (1 mm)':>22}{'HD95 (mm)':>12}"]
    for row in summary:
        lines.append(
            f"{row['label']:<24}{row['dice_mean']:>8.3f}{row['surface_dice_1mm_mean']:>22.3f}{row['hd95_mm_mean']:>12.2f}"
        )
    return "\n".join(lines)
