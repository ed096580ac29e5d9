"""The page: its numbers, its structure, and that nothing in it comes from outside or runs what a name says."""

import csv
import math
import re

import numpy as np
import pytest
from report_helpers import LOG, ML, label_map, make_evaluation, make_prediction, predicted, read_page

from mednextv2.data import LabelScheme
from mednextv2.report import Results, read_results, write_report, write_results
from mednextv2.report.number_format import digits


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Five cases; the posterior class is missing in the last prediction."""
    root = tmp_path_factory.mktemp("report")
    weights = root / "fold_0" / "model.pt"
    weights.parent.mkdir()
    (weights.parent / "training_log.csv").write_text(LOG)
    folder = make_evaluation(root, weights=str(weights))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(evaluation):
    return read_page(evaluation / "report.html")


def dice(value):
    """Of every case, by counting voxels."""
    g, scores = label_map() == value, []
    for n in range(5):
        p = predicted(n) == value
        scores.append(2 * (p & g).sum() / (p.sum() + g.sum()))
    return np.array(scores)


def test_class_table_has_the_numbers_counted_by_hand(page):
    groups, names, anterior, posterior, mean = page.tables[0]
    assert groups == ["Class", "Dice", "Surface Dice (1 mm)", "HD95 (mm)", "Cases", "Volume (ml), mean ± sd"]
    assert names == [*["mean ± sd", "median"] * 3, "infinite", "prediction", "reference"]
    for row, name, value in ((anterior, "anterior", 1), (posterior, "posterior", 2)):
        scores = dice(value)
        assert row[:3] == [name, f"{scores.mean():.3f} ± {scores.std():.3f}", f"{np.median(scores):.3f}"]
    # HD95 along x of voxels of 0.8 mm, shifted by 0 to 4
    assert anterior[5:8] == [f"{0.8 * 2:.2f} ± {0.8 * math.sqrt(2):.2f}", "1.60", "0"]
    assert posterior[7:9] == ["1", "5"]
    volumes = ML * np.array([(predicted(n) == 2).sum() for n in range(5)])
    assert posterior[9] == f"{volumes.mean():.3f} ± {volumes.std():.3f}"
    assert posterior[10] == f"{ML * 6 * 8 * 4:.3f} ± 0.000"
    assert mean[:2] == ["Mean of the classes", f"{(dice(1).mean() + dice(2).mean()) / 2:.3f}"]


def test_case_table_has_every_score(page, evaluation):
    rows = {row[0]: row for row in page.tables[-1][2:]}
    assert list(rows) == list("abcde")
    d = [dice(1), dice(2)]
    assert rows["c"][1] == f"{(d[0][2] + d[1][2]) / 2:.3f}"
    assert rows["c"][4] == f"{d[0][2]:.3f}"
    assert rows["e"][9:12] == ["0.000", "0.000", "∞"]
    assert rows["e"][3] == "∞"
    assert rows["e"][12] == "0"  # ml
    assert len(rows["a"]) == 4 + 2 * 5
    with (evaluation / "cases.csv").open() as f:
        last = list(csv.DictReader(f))[-2]
    assert float(last["volume_ml"]) == pytest.approx((predicted(4) == 1).sum() * ML, rel=1e-5)
    assert float(last["reference_ml"]) == pytest.approx((label_map() == 1).sum() * ML, rel=1e-5)


def test_best_median_and_worst_are_drawn(page):
    means = (dice(1) + dice(2)) / 2
    assert list(np.argsort(-means)) == [0, 1, 2, 3, 4]
    headings = page.of("h3")
    assert [h for h in headings if "case" in h] == ["Best case: a", "Median case: c", "Worst case: e"]
    names = [a["aria-label"] for a in page.all("svg") if a["class"] == "slice"]
    assert [re.match(r"(\w+) slice", n)[1] for n in names] == ["axial", "coronal", "sagittal"] * 3
    assert all(name.endswith("of prediction and reference") for name in names)
    assert "largest connected error" in " ".join(page.of("figcaption"))


def test_box_plots_name_every_case(page):
    titles = page.of("title")
    assert titles[0] == "Test, fold 0"
    for n, name in enumerate("abcde"):
        assert f"{name}: {dice(1)[n]:.3f}" in titles
    assert "e: ∞ mm" in titles
    assert len(page.all("circle", **{"class": "dot"})) == 3 * 2 * 5


def test_training_curves_skip_epochs_without_validation(page):
    lines = {a["class"]: a["points"].split() for a in page.all("polyline")}
    assert len(page.all("polyline")) == 3
    assert len(lines["second"]) == 2  # of three epochs
    assert len(page.all("polyline")[0]["points"].split()) == 3  # the loss


def test_page_is_whole_and_needs_nothing_from_outside(evaluation, page):
    text = (evaluation / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert (page.open, page.unbalanced) == ([], [])
    assert page.all("html")[0] == {"lang": "en"}
    assert "http:" not in text
    assert "https:" not in text
    for _, attributes in page.elements:
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            assert attributes.get(key, "data:").startswith("data:")
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert str(evaluation) not in text  # a page that is passed on does not tell where it was made


def test_tables_and_pictures_can_be_read_aloud(page):
    assert len(page.all("table")) == len(page.all("caption")) == 2
    assert all(a.get("scope") in ("col", "colgroup", "row") for a in page.all("th"))
    assert all(a.get("role") == "img" and a.get("aria-label") for a in page.all("svg"))
    assert all(a.get("aria-label") for a in page.all("div", **{"class": "scroll"}))


def test_columns_of_the_head_are_those_of_the_rows(page):
    (head,) = [i for i, (tag, _) in enumerate(page.elements) if tag == "table"][-1:]
    columns = [a["data-column"] for tag, a in page.elements[head:] if tag == "th" and "data-column" in a]
    assert sorted(map(int, columns)) == list(range(len(page.tables[-1][-1])))


def test_names_are_text_never_markup(tmp_path):
    names = ("<script>alert(1)</script>", "a\"b'c&amp;", "größe 海", "x\x01y\x1b[0m")
    scheme = LabelScheme(["background", '<img src="https://x.y/z" onerror=alert(2)>', "b</title><b>"])
    folder = make_evaluation(tmp_path, names, scheme, title="</title><script>alert(3)</script>")
    write_report(folder)
    raw = (folder / "report.html").read_bytes().decode("utf-8")
    page = read_page(folder / "report.html")
    assert (page.open, page.unbalanced) == ([], [])
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not page.all("b")
    assert not re.search(r"<[^>]*\sonerror", raw)
    assert "\x01" not in raw
    assert "\x1b" not in raw
    assert page.of("title")[0] == page.of("h1")[0] == "</title><script>alert(3)</script>"
    assert [row[0] for row in page.tables[-1][2:]] == [*names[:3], "x\ufffdy\ufffd[0m"]


def test_file_names_that_are_no_utf_8_are_shown(tmp_path):
    folder = make_prediction(tmp_path, 1)
    (case,) = read_results(folder).cases
    entry = {"case": "a\udce9", "image": case.image, "prediction": case.prediction}
    write_results(folder, Results("prediction", "T\udce9", ["x"], [[1]], [entry]))
    assert read_page(write_report(folder)).tables[-1][-1][0] == "a?"


def test_regions_and_ignored_voxels(tmp_path):
    scheme = LabelScheme(
        ["background", "anterior", "posterior"],
        [{"name": "whole", "values": [1, 2], "paint": 1}, {"name": "core", "values": [2], "paint": 2}],
        ignore_label=3,
    )
    label = label_map()
    label[:, :4], label[:, 20:] = 3, 3
    label[4:6] = 3
    folder = make_evaluation(tmp_path, ("a", "b", "c"), scheme, label=label)
    expected = [ML * ((predicted(n) > 0) & (label != 3)).sum() for n in range(3)]
    write_report(folder)
    new = read_page(folder / "report.html")
    lines = (folder / "cases.csv").read_text().splitlines()  # as older versions wrote it
    (folder / "cases.csv").write_text("\n".join(",".join(line.split(",")[:5]) for line in lines) + "\n")
    write_report(folder)
    old = read_page(folder / "report.html")
    for page in (new, old):
        assert [row[0] for row in page.tables[0][2:4]] == ["whole", "core"]
        assert [row[7] for row in page.tables[-1][2:]] == [digits(v) for v in expected]
        assert page.tables[-1][2][8] == digits(ML * np.isin(label, (1, 2)).sum())


# --- predictions -----------------------------------------------------------------------------------------------------


def test_prediction_has_volumes_and_the_first_cases(tmp_path):
    page = read_page(write_report(make_prediction(tmp_path), tmp_path / "new" / "page.html"))
    volumes = ML * np.array([(predicted(n % 5) == 2).sum() for n in range(8)])
    front, back = page.tables[0][2:]
    assert front[0] == "front"
    assert back[:2] == ["back", str((volumes > 0).sum())]
    assert back[2:] == [
        f"{volumes.mean():.3f} ± {volumes.std():.3f}",
        *(digits(function(volumes)) for function in (np.median, np.min, np.max)),
    ]
    rows = page.tables[-1][2:]
    assert [row[2] for row in rows] == [digits(v) for v in volumes]
    assert [h for h in page.of("h3")] == [f"case {n}" for n in range(6)]
    assert not page.all("path", **{"class": "reference"})
    assert page.all("path", **{"class": "prediction"})
    assert "Dice" not in " ".join(text for where, text in page.texts if where not in ("style", "script"))


def test_many_classes_and_cases_stay_small(tmp_path):
    cases, classes = 60, 117
    names = [f"structure_with_a_long_name_{i}" for i in range(classes)]
    folder = make_prediction(tmp_path, 1)
    (case,) = read_results(folder).cases
    entries = [{"case": f"c{i}", "image": case.image, "prediction": case.prediction, "label": case.prediction}
               for i in range(cases)]  # fmt: skip
    write_results(folder, Results("evaluation", "T", names, [[i + 1] for i in range(classes)], entries))
    values = np.random.default_rng(0).random((cases, classes))
    head = "case,label,dice,surface_dice_1mm,hd95_mm,volume_ml,reference_ml\n"
    rows = [
        f"c{i},{names[j]},{values[i, j]:.4f},0.5,{20 * values[i, j]:.3f},1,1"
        for i in range(cases)
        for j in range(classes)
    ]
    (folder / "cases.csv").write_text(head + "\n".join(rows))
    page = read_page(write_report(folder))
    assert (folder / "report.html").stat().st_size < 1_500_000
    assert len(page.all("circle")) == 3 * classes * 5  # the worst of each class have a tooltip
    assert len(page.all("div", **{"class": "tall"})) == 3
    i = int(values[3].argmin())
    assert page.tables[-1][2 + 3][4] == names[i]
