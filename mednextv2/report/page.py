"""The page: its sections, and what they are put into."""

import base64
import hashlib
from collections.abc import Sequence

import numpy as np

from mednextv2.report.charts import box_plots, curves
from mednextv2.report.markup import NONE, color, ml, number, swatch, text
from mednextv2.report.png import png_data_uri
from mednextv2.report.scores import Scores
from mednextv2.report.style import CSS, SCRIPT
from mednextv2.report.tables import TITLES, case_table, class_table, volume_table
from mednextv2.report.views import CaseViews, View
from mednextv2.scores.evaluation import METRICS
from mednextv2.scores.results import Results
from mednextv2.version import __version__

_MANY = 24  # structures from which charts scroll by themselves


def build_page(
    results: Results,
    scores: Scores,
    shown: Sequence[tuple[str, CaseViews]],
    log: dict[str, np.ndarray] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Build a report.

    Args:
        results: The manifest.
        scores: The numbers.
        shown: A heading and the slices of each case that is drawn.
        log: Columns of the training log, or None.
        notes: Sentences about what could not be shown.

    Returns:
        An HTML document that needs nothing else.
    """
    evaluation = results.kind == "evaluation"
    sections = [_header(results, scores), *(f'<p class="note">{text(note)}</p>' for note in notes)]
    sections += ["<h2>Classes</h2>", class_table(scores) if evaluation else volume_table(scores)]
    if evaluation:
        sections += ["<h2>Distribution over the cases</h2>", _distributions(scores)]
    if shown:
        how = "through the largest connected error" if evaluation else "through the middle of the labels"
        sections += [f"<h2>{'Best, median and worst case' if evaluation else 'Cases'}</h2>"]
        sections += [f'<p class="note">Slices {how}, as radiologists look at them: in axial and coronal planes the '
                     "patient’s left is on the right-hand side. Voxels have their true proportions.</p>"]  # fmt: skip
        sections += [_case(heading, views, results, scores) for heading, views in shown]
    if log is not None:
        sections += ["<h2>Training</h2>", _training(log)]
    sections += ["<h2>All cases</h2>", case_table(scores)]
    return _document(results.title, "\n".join(sections))


def _document(title: str, body: str) -> str:
    """Put sections into a document which may run its own script alone and load nothing."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>{CSS}</style>
</head>
<body>
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _header(results: Results, scores: Scores) -> str:
    made = dict(results.made_by)
    date = made.pop("date", "")
    parts = [_count(len(scores.cases), "case"), _count(len(scores.labels), "class", "classes")]
    parts += [f"made {date.replace('T', ' ')}"] if date else []
    parts += [f"{name} {version}" for name, version in made.items()]
    if __version__ != made.get("mednextv2"):
        parts.append(f"report by mednextv2 {__version__}")
    kind = "Evaluation" if results.kind == "evaluation" else "Prediction"
    head = f'<h1>{text(results.title)}</h1>\n<p class="note">{kind}: {text(" · ".join(parts))}</p>'
    if results.kind != "evaluation":
        return head
    facts = []
    for metric, (title, digits, _) in TITLES.items():
        means = [column[np.isfinite(column)] for column in scores.values[metric].T]
        means = [float(column.mean()) for column in means if column.size]
        facts.append((f"Mean {title}", number(float(np.mean(means)), digits) if means else NONE))
    infinite = int(np.isinf(scores.values["hd95_mm"]).sum())
    facts += [("Infinite distances", str(infinite))] if infinite else []
    return head + '\n<dl class="facts">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts) + "</dl>"


def _distributions(scores: Scores) -> str:
    figures = []
    for metric in METRICS:
        title, _, unit = TITLES[metric]
        chart = box_plots(title, scores.labels, scores.cases, scores.values[metric], unit, metric != "hd95_mm")
        if len(scores.labels) > _MANY:
            chart = f'<div class="tall" tabindex="0" role="region" aria-label="{text(title)}">{chart}</div>'
        figures.append(f"<figure><h3>{title}</h3>{chart}</figure>")
    return (
        '<p class="note">A dot is a case. Boxes hold the middle half of the cases with the median as a thick line; '
        "whiskers end at the last case within 1.5 times the box’s length. Infinite distances, where a class is only in "
        "one of prediction and reference, stand at ∞ and count in no box.</p>"
        f'<div class="charts">{"".join(figures)}</div>'
    )


def _case(heading: str, views: CaseViews, results: Results, scores: Scores) -> str:
    i = scores.cases.index(views.case)
    facts = []
    if "dice" in scores.values:
        facts.append(f"mean Dice {number(scores.mean('dice')[i])}")
    if views.error_ml is not None:
        facts.append(f"largest connected error {ml(views.error_ml)} ml")
    compared = any(view.reference for view in views.views)
    seen = sorted({s for view in views.views for s in (*view.prediction, *view.reference)})
    items = [f"<li>{swatch(s)}{text(results.labels[s])}{_score(scores, i, s)}</li>" for s in seen]
    items.append('<li><span class="line solid"></span>prediction</li>')
    if compared:
        items.append('<li><span class="line dashed"></span>reference</li>')
    title = f"{heading}: {views.case}" if heading else views.case
    slices = "".join(_slice(view, views.case, results, compared) for view in views.views)
    return (
        f'<figure class="case"><h3>{text(title)}</h3><div class="slices">{slices}</div>'
        f'<figcaption>{text(", ".join(facts))}<ul class="legend">{"".join(items)}</ul></figcaption></figure>'
    )


def _score(scores: Scores, i: int, structure: int) -> str:
    if "dice" in scores.values:
        return f" (Dice {number(scores.values['dice'][i, structure])})"
    return f" ({ml(scores.values['volume_ml'][i, structure])} ml)"


def _slice(view: View, case: str, results: Results, compared: bool) -> str:
    """Draw a slice in millimetres, with outlines in pixels."""
    rows, columns = view.grey.shape
    width, height = columns * view.pixel[0], rows * view.pixel[1]
    paths = []
    for kind, outlines in (("reference", view.reference), ("prediction", view.prediction)):
        paths += [
            f'<path class="{kind}" stroke="{color(s)}" d="{d}"><title>{text(results.labels[s])}, {kind}</title></path>'
            for s, d in outlines.items()
        ]
    size = 0.055 * max(width, height)
    places = ((0.5, height / 2, "start"), (width - 0.5, height / 2, "end"), (width / 2, 1.1 * size, "middle"),
              (width / 2, height - 0.4 * size, "middle"))  # fmt: skip
    letters = "".join(
        f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" font-size="{size:.2f}" stroke-width="{0.15 * size:.2f}">'
        f"{side}</text>"
        for (x, y, anchor), side in zip(places, view.sides, strict=True)
    )
    name = f"{view.plane} slice {view.position} of {case}, with outlines of prediction"
    name += " and reference" if compared else ""
    size_mm = f'width="{width:.6g}" height="{height:.6g}"'
    return (
        f'<figure style="flex-grow:{width:.6g}">'
        f'<svg class="slice" viewBox="0 0 {width:.6g} {height:.6g}" role="img" aria-label="{text(name)}">'
        f'<image href="{png_data_uri(view.grey)}" {size_mm} preserveAspectRatio="none"/>'
        f'<g transform="scale({view.pixel[0]:.6g} {view.pixel[1]:.6g})">{"".join(paths)}</g>{letters}</svg>'
        f"<figcaption>{view.plane}</figcaption></figure>"
    )


def _training(log: dict[str, np.ndarray]) -> str:
    """Draw loss and pseudo Dice over the epochs."""
    epochs = log["epoch"]
    over = f"over {len(epochs)} epochs"
    figures = [
        f"<figure><h3>Loss</h3>{curves(f'training loss {over}', epochs, [('loss', log['train_loss'])])}</figure>"
    ]
    dice = [
        (title, log[name])
        for name, title in (("val_ema_dice", "moving average"), ("val_mean_dice", "each validation"))
        if name in log and np.isfinite(log[name]).any()
    ]
    if dice:
        kinds = zip(("", " two"), dice, strict=False)
        legend = "".join(f'<li><span class="line{kind}"></span>{title}</li>' for kind, (title, _) in kinds)
        chart = curves(f"pseudo Dice of random validation patches {over}", epochs, dice)
        figures.append(f'<figure><h3>Pseudo Dice</h3>{chart}<ul class="legend">{legend}</ul></figure>')
    return f'<div class="charts two">{"".join(figures)}</div>'


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
