"""The content of the page."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from mednextv2.data.sizes import AREA
from mednextv2.report.box_plots import BoxPlots, box_plots
from mednextv2.report.curves import Curves, curves
from mednextv2.report.figures import case_figure
from mednextv2.report.learning_curves import draw_learning_curves
from mednextv2.report.number_format import NONE, number
from mednextv2.report.rendering import render_page
from mednextv2.report.score_reading import Scores
from mednextv2.report.tables import TITLES, case_table, class_table, size_table
from mednextv2.report.training_logs import TrainingCurve
from mednextv2.report.views import CaseViews
from mednextv2.scores.evaluation import METRICS
from mednextv2.scores.results_json import Results
from mednextv2.version import __version__


def build_page(
    results: Results,
    scores: Scores,
    shown: Sequence[tuple[str, CaseViews]],
    training: TrainingCurve | None = None,
    notes: Sequence[str] = (),
    others: Sequence[TrainingCurve] = (),
) -> str:
    """Build a report.

    Args:
        results: The manifest.
        scores: The scores and the sizes of structures.
        shown: The heading and the slices of each case that is drawn.
        training: What the training logged, or None.
        notes: Sentences about what could not be shown.
        others: Further trainings whose learning curves are shown beside that of the training.

    Returns:
        An HTML document that needs no other file.
    """
    evaluation = results.kind == "evaluation"
    return render_page(
        title=results.title,
        evaluation=evaluation,
        facts=_facts(results, scores),
        means=_means(scores) if evaluation else [],
        notes=notes,
        planes=scores.size_kind is AREA,
        class_table=class_table(scores) if evaluation else size_table(scores),
        distributions=[_distribution(metric, scores) for metric in METRICS] if evaluation else [],
        cases=[case_figure(heading, views, results, scores) for heading, views in shown],
        loss=None if training is None else _loss(training),
        dice=None if training is None else _dice(training),
        learning=Markup(draw_learning_curves([*filter(None, [training]), *others], standalone=False)) if others else "",
        case_table=case_table(scores),
    )


def _facts(results: Results, scores: Scores) -> list[str]:
    made = dict(results.made_by)
    date = made.pop("date", "")
    facts = [_count(len(scores.cases), "case"), _count(len(scores.labels), "class", "classes")]
    facts += [f"made {date.replace('T', ' ')}"] if date else []
    facts += [f"{name} {version}" for name, version in made.items()]
    if __version__ != made.get("mednextv2"):
        facts.append(f"report by mednextv2 {__version__}")
    return facts


def _means(scores: Scores) -> list[tuple[str, str]]:
    """Return names and values of the means over all classes, and the number of distances that were left out."""
    facts = []
    for metric, (title, digits, _) in TITLES.items():
        means = [column[np.isfinite(column)] for column in scores.values[metric].T]
        means = [float(column.mean()) for column in means if column.size]
        facts.append((f"Mean {title}", number(float(np.mean(means)), digits) if means else NONE))
    infinite = int(np.isinf(scores.values["hd95_mm"]).sum())
    return facts + ([("Infinite distances", str(infinite))] if infinite else [])


def _distribution(metric: str, scores: Scores) -> BoxPlots:
    title, _, unit = TITLES[metric]
    return box_plots(title, scores.labels, scores.cases, scores.values[metric], unit, score=metric != "hd95_mm")


def _loss(training: TrainingCurve) -> Curves:
    log, epochs = training.log, training.log["epoch"]
    name = f"training loss over {len(epochs)} epochs"
    return curves(name, epochs, [("loss", log["train_loss"])], training.joints)


def _dice(training: TrainingCurve) -> Curves | None:
    log, epochs = training.log, training.log["epoch"]
    lines = [
        (title, log[name])
        for name, title in (("val_ema_dice", "moving average"), ("val_mean_dice", "each validation"))
        if name in log and np.isfinite(log[name]).any()
    ]
    name = f"pseudo Dice of random validation patches over {len(epochs)} epochs"
    return curves(name, epochs, lines, training.joints) if lines else None


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
