"""Templates: they hold all markup, escape all that they are given, and know each value that they name."""

import ast
import base64
import hashlib
import re
from pathlib import Path

import jinja2
import numpy as np
import pytest
from report_helpers import LOG, Page, label_map, make_evaluation, predicted, read_page, save

import mednextv2.report
from mednextv2.data import LabelScheme
from mednextv2.report import Results, read_results, write_report, write_results
from mednextv2.report.rendering import environment, render_page
from mednextv2.report.tables import Row, Table

ROOM = Path(mednextv2.report.__file__).parent
MARKUP = re.compile(r"</?[a-zA-Z!]|/>|[\"']>|&#?\w+;")
#: What a careless page would run, compute, or lose.
PLANTED = """<script>alert("a")</script> 'b' &amp; {{ 7*7 }} {% raw %} größe 海"""
#: The same in what cannot hold a slash.
PLANTED_NAME = PLANTED.replace("/", "")


def markup_in(code):
    """Return the texts of Python code that have markup in them, docstrings aside."""
    tree = ast.parse(code)
    homes = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, homes) and ast.get_docstring(node)
    }
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):  # f"<{tag}>"
            texts.append("".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values))
    return [text for text in texts if MARKUP.search(text)]


@pytest.mark.parametrize("file", sorted(ROOM.glob("*.py")), ids=lambda file: file.name)
def test_python_holds_no_markup(file):
    assert markup_in(file.read_text(encoding="utf-8")) == []


def test_markup_in_python_would_be_found():
    for text in ('f"<b>{x}"', '"a" "</p>"', 'f"<{tag}>"', "f'<{tag}/>'", "f'{x}\">'", "'<!-- -->'", "'a&nbsp;b'"):
        assert markup_in(f"x = {text}"), text
    assert markup_in('"""Of `<b>`."""\nx = "a < b"\ny = f"M{x} 0h1"') == []


def test_templates_trust_style_and_script_alone():
    texts = {file.name: file.read_text(encoding="utf-8") for file in (ROOM / "templates").glob("*.j2")}
    assert {name.split(".")[-1] for name in texts} == {"j2"}
    trusted = [found for text in texts.values() for found in re.findall(r"{{ (\w+) \| safe }}", text)]
    assert sorted(trusted) == ["script", "style"]
    everything = " ".join(texts.values())
    assert len(re.findall(r"\bsafe\b", everything)) == 2
    assert "autoescape" not in everything
    for name, end in (("report.css", "</style"), ("report.js", "</script")):
        assert end not in (ROOM / "templates" / name).read_text(encoding="utf-8")


def elements(page):
    """Return the kinds of elements and of attributes that a page has."""
    return {(tag, name) for tag, attributes in page.elements for name in (None, *attributes)}


@pytest.fixture(scope="module")
def tame(tmp_path_factory):
    """A page with names that need no care."""
    root = tmp_path_factory.mktemp("tame")
    (root / "training_log.csv").write_text(LOG)
    return read_page(write_report(make_evaluation(root, ("a", "b", "c"), weights=str(root / "model.pt"))))


def test_names_of_an_evaluation_are_printed_as_they_are(tmp_path, tame):
    root = tmp_path / PLANTED_NAME
    root.mkdir()
    (root / "training_log.csv").write_text(LOG)
    cases, labels = [f"{n} {PLANTED}" for n in "abc"], [f"{n} {PLANTED}" for n in "xy"]
    folder = make_evaluation(
        root, cases, LabelScheme(["background", *labels]), weights=str(root / "model.pt"), title=PLANTED
    )
    results = read_results(folder)
    results.made_by = {PLANTED: PLANTED}
    write_results(folder, results)
    file = write_report(folder)
    page = read_page(file)
    assert (page.open, page.unbalanced) == ([], [])
    assert elements(page) == elements(tame)
    assert len(page.elements) == len(tame.elements)
    assert page.of("title")[0] == page.of("h1")[0] == PLANTED
    assert f"{PLANTED} {PLANTED}" in page.of("p")[0]
    assert [row[0] for row in page.tables[0][2:4]] == labels
    assert page.tables[-1][0][2:4] == labels
    assert [row[0] for row in page.tables[-1][2:]] == cases
    assert page.of("h3")[-5:-2] == [f"{w} case: {c}" for w, c in zip(("Best", "Median", "Worst"), cases, strict=True)]
    assert {f"{label}, {kind}" for label in labels for kind in ("prediction", "reference")} <= set(page.of("title"))
    assert all(any(title.startswith(f"{case}: ") for title in page.of("title")) for case in cases)
    names = [a["aria-label"] for a in page.all("svg", **{"class": "slice"})]
    assert all(any(f" of {case}, with outlines of" in name for name in names) for case in cases)
    assert PLANTED_NAME not in " ".join(text for _, text in page.texts).replace(PLANTED, "")
    assert "49" not in {word for _, text in page.texts for word in text.split()}


def test_names_of_a_prediction_and_its_files_are_printed_as_they_are(tmp_path):
    image = save(tmp_path / PLANTED_NAME / "image.nii.gz", np.zeros(label_map().shape, np.float32))
    mask = save(tmp_path / f"{PLANTED_NAME} mask.nii.gz", predicted(0))
    case = {"case": PLANTED, "image": image, "prediction": mask}
    log = tmp_path / f"{PLANTED_NAME}.csv"  # which is not there: the page says so
    write_results(tmp_path, Results("prediction", PLANTED, [PLANTED], [[1, 2]], [case], training_log=log))
    page = read_page(write_report(tmp_path))
    assert (page.open, page.unbalanced) == ([], [])
    assert len(page.all("script")) == 1
    assert page.of("p")[1] == f"The training log {log.name} is not where it was, so there are no training curves."
    assert page.of("h3") == [PLANTED]
    assert page.tables[0][2][0] == page.tables[-1][1][0] == page.tables[-1][2][0] == PLANTED


def test_a_cell_is_text_wherever_it_stands():
    table = Table(
        PLANTED, [("", [PLANTED]), (PLANTED, [PLANTED])], [Row(PLANTED, [PLANTED], 0)], Row(PLANTED, [PLANTED])
    )
    page = Page(environment().get_template("table.html.j2").module.sortable_table(table))
    assert (page.open, page.unbalanced) == ([], [])
    assert page.tables == [[[PLANTED] * 2, [PLANTED]] + [[PLANTED] * 2] * 2]
    assert page.of("caption") == [PLANTED]
    assert page.all("div")[0]["aria-label"] == PLANTED


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="'evaluation' is undefined"):
        render_page(title="T")


def test_script_is_the_one_that_the_page_allows(tame):
    (script,), (style,) = tame.of("script"), tame.of("style")
    (policy,) = tame.all("meta", **{"http-equiv": "Content-Security-Policy"})
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["content"].endswith(f"script-src 'sha256-{digest}'")
    assert script == (ROOM / "templates" / "report.js").read_text(encoding="utf-8")
    assert style.strip() == (ROOM / "templates" / "report.css").read_text(encoding="utf-8").strip()
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
