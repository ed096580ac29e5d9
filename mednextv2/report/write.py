"""Writing of a report from a folder of results."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mednextv2.errors import InputError
from mednextv2.paths import expand, prepare_folder, writing
from mednextv2.report.page import build_page
from mednextv2.report.reconstructions import has_reconstructions, reconstruction_page
from mednextv2.report.score_reading import Scores, choose_cases, read_scores
from mednextv2.report.training_logs import TrainingCurve, read_training
from mednextv2.report.views import CaseViews, draw_case
from mednextv2.report.volumes import check_files, map_cases, move_files
from mednextv2.scores.results_json import RESULTS_NAME, Results, read_results

_SHOWN = 6  # number of cases of a prediction that are drawn


def write_report(
    folder: str | os.PathLike,
    output: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
    sources: Mapping[str, Sequence[str | os.PathLike]] | None = None,
    trainings: Sequence[str | os.PathLike] = (),
) -> Path:
    """Write one HTML page about an evaluation or a prediction: tables, box plots, slices of cases, training curves.

    About masked autoencoding, the page has training curves and pictures of reconstructions.

    Args:
        folder: The folder with `results.json`: the `output_dir` of an evaluation or a prediction; or that of a training
            or an evaluation of masked autoencoding.
        output: The `.html` file to write; by default, `report.html` in the folder.
        images: The folder in which the images are now, with the same file names.
        labels: The folder in which the label maps are now.
        sources: The images of cases, by the cases' names, if they are known better than from `results.json`: files, or
            DICOM series, one for each channel.
        trainings: Folders of further trainings whose learning curves are shown beside that of the evaluated weights.

    Returns:
        The path of the page, which needs no other file and no network.

    Raises:
        InputError: If a file is missing, damaged or does not fit the others, or the page cannot be written.
    """
    folder = expand(folder)
    if not (folder / RESULTS_NAME).is_file() and has_reconstructions(folder):
        output = _check_output(folder / "report.html" if output is None else expand(output))
        return write_page(output, reconstruction_page(folder))
    results = move_files(read_results(folder), images, labels)
    if sources is not None:
        results.cases = [replace(case, image=tuple(sources.get(case.case, case.image))) for case in results.cases]
    output = _check_output(folder / "report.html" if output is None else expand(output))
    check_files(results)
    scores = read_scores(results, folder)
    training, notes = _training(results)
    others = [read_training(place) for place in trainings]
    return write_page(output, build_page(results, scores, _draw(results, scores), training, notes, others))


def write_page(output: Path, page: str) -> Path:
    """Write a page, and return its file."""
    with writing(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output


def _check_output(output: Path) -> Path:
    if output.suffix.lower() not in (".html", ".htm") or output.is_dir():
        raise InputError(f"--output {output}: the page's file name should end in .html")
    prepare_folder(output.parent, "output")
    return output


def _training(results: Results) -> tuple[TrainingCurve | None, list[str]]:
    """Read the training log; if it no longer exists, the report is still written."""
    if results.training_log is None:
        return None, []
    file = Path(results.training_log)
    if not file.is_file():
        return None, [f"The training log {file.name} is not where it was, so there are no training curves."]
    return read_training(file), []


def _draw(results: Results, scores: Scores) -> list[tuple[str, CaseViews]]:
    """Draw the best, median and worst case, or the first ones of a prediction."""
    if results.kind == "evaluation":
        chosen = choose_cases(scores)
    else:
        chosen = [("", i) for i in range(min(_SHOWN, len(results.cases)))]
    if not chosen:
        return []
    cases = [results.cases[i] for _, i in chosen]
    drawn = map_cases(lambda case: draw_case(case, results), cases, "drawing cases", workers=1)
    return [(heading, views) for (heading, _), views in zip(chosen, drawn, strict=True)]
