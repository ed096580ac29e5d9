"""Cases as a report shows them: slices with outlines, and the text about them."""

from dataclasses import dataclass

from mednextv2.images.png import png_data_uri
from mednextv2.report.number_format import digits, number
from mednextv2.report.score_reading import Scores
from mednextv2.report.views import CaseViews, View
from mednextv2.scores.results_json import Results


@dataclass(frozen=True)
class Outline:
    """An outline of a structure.

    Attributes:
        kind: `prediction` or `reference`.
        structure: The structure's index.
        label: The structure's name.
        path: The SVG path in pixels.
    """

    kind: str
    structure: int
    label: str
    path: str


@dataclass(frozen=True)
class SliceFigure:
    """A slice.

    Attributes:
        plane: The name of the plane.
        position: The voxel index of the slice along its axis.
        sides: The patient's sides at left, right, top and bottom.
        width: The width in mm.
        height: The height in mm.
        pixel: The width and height of a pixel in mm.
        image: The grey values as a `data:` URI.
        outlines: The outlines; those of the reference lie below the others.
    """

    plane: str
    position: int
    sides: str
    width: float
    height: float
    pixel: tuple[float, float]
    image: str
    outlines: list[Outline]


@dataclass(frozen=True)
class LegendEntry:
    """A visible structure: its index, its name, and its score or size."""

    structure: int
    label: str
    score: str


@dataclass(frozen=True)
class CaseFigure:
    """A case.

    Attributes:
        heading: The heading that says which case it is, or an empty text.
        name: The name of the case.
        facts: The facts about the whole case.
        slices: The slices on each plane.
        legend: The structures in the slices.
        compared: Whether there are outlines of a reference.
    """

    heading: str
    name: str
    facts: list[str]
    slices: list[SliceFigure]
    legend: list[LegendEntry]
    compared: bool


def case_figure(heading: str, views: CaseViews, results: Results, scores: Scores) -> CaseFigure:
    """Gather the content of a figure of a case.

    Args:
        heading: The heading that says which case it is, or an empty text.
        views: The slices of the case.
        results: The manifest.
        scores: The scores and sizes, which include those of this case.
    """
    i = scores.cases.index(views.case)
    facts = []
    if "dice" in scores.values:
        facts.append(f"mean Dice {number(scores.mean('dice')[i])}")
    if views.error_size is not None:
        facts.append(f"largest connected error {digits(views.error_size)} {scores.size_kind.unit}")
    seen = sorted({s for view in views.views for s in (*view.prediction, *view.reference)})
    legend = [LegendEntry(s, results.labels[s], _score(scores, i, s)) for s in seen]
    slices = [_slice(view, results) for view in views.views]
    return CaseFigure(heading, views.case, facts, slices, legend, any(view.reference for view in views.views))


def _score(scores: Scores, i: int, structure: int) -> str:
    if "dice" in scores.values:
        return f"Dice {number(scores.values['dice'][i, structure])}"
    kind = scores.size_kind
    return f"{digits(scores.values[kind.columns[0]][i, structure])} {kind.unit}"


def _slice(view: View, results: Results) -> SliceFigure:
    rows, columns = view.grey.shape
    outlines = [
        Outline(kind, structure, results.labels[structure], path)
        for kind, found in (("reference", view.reference), ("prediction", view.prediction))
        for structure, path in found.items()
    ]
    return SliceFigure(
        plane=view.plane,
        position=view.position,
        sides=view.sides,
        width=columns * view.pixel[0],
        height=rows * view.pixel[1],
        pixel=view.pixel,
        image=png_data_uri(view.grey),
        outlines=outlines,
    )
