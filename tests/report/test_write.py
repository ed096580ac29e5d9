"""Writing of a report: where it goes, and that what does not fit ends with one message and no page."""

import re

import numpy as np
import pytest
from report_helpers import LOG, make_evaluation, make_prediction, predicted, read_page, save
from verb_helpers import call

from mednextv2.errors import InputError
from mednextv2.report import write_report


def test_command_line_names_the_page(tmp_path, monkeypatch, capsys):
    folder = make_prediction(tmp_path, 2)
    code, out, err = call(monkeypatch, capsys, "report", folder)
    assert (code, out.strip()) == (0, str(folder / "report.html"))
    assert "drawing cases" in err
    code, out, _ = call(monkeypatch, capsys, "report", folder, "--output", tmp_path / "b.html")
    assert (code, out.strip()) == (0, str(tmp_path / "b.html"))


def test_images_and_labels_that_have_moved_are_found(tmp_path, monkeypatch, capsys):
    folder = make_evaluation(tmp_path, ("a", "b"))
    (tmp_path / "images").rename(tmp_path / "i2")
    (tmp_path / "labels").rename(tmp_path / "l2")
    code, _, err = call(monkeypatch, capsys, "report", folder)
    assert code == 1
    assert "4 of the files are missing" in err
    for name in ("a", "b"):
        assert str(tmp_path / "images" / f"{name}.nii.gz") in err
    assert "--images DIR" in err
    code, _, _ = call(monkeypatch, capsys, "report", folder, "--images", tmp_path / "i2", "--labels", tmp_path / "l2")
    assert code == 0
    code, _, err = call(monkeypatch, capsys, "report", folder, "--images", tmp_path / "none")
    assert (code, err) == (1, f"error: --images {tmp_path / 'none'}: there is no such folder\n")


def damage(folder, what):
    files = {p.name: p for p in folder.rglob("*") if p.is_file()}
    table, mask = folder / "cases.csv", files["a_seg.nii.gz"]
    lines = table.read_text().splitlines(keepends=True)
    match what:
        case "no table":
            table.unlink()
        case "empty table":
            table.write_text("")
        case "columns":
            table.write_text("".join(line.replace("hd95_mm", "x") for line in lines))
        case "row missing":
            table.write_text("".join(lines[:-1]))
        case "row twice":
            table.write_text("".join([*lines, lines[1]]))
        case "other case":
            table.write_text("".join([*lines, lines[1].replace("a,", "z,", 1)]))
        case "text":
            table.write_text("".join([*lines[:1], lines[1].replace("1", "one"), *lines[2:]]))
        case "bytes":
            table.write_bytes(b"case,label,dice\n\xff\xfe")
        case "truncated mask":
            mask.write_bytes(mask.read_bytes()[:-30])
        case "mask of fractions":
            save(mask, predicted(0).astype(np.float32) / 2)
        case "mask elsewhere":
            save(mask, predicted(0), np.diag([0.8, 1.2, 3, 1]))
        case "mask of another shape":
            save(mask, predicted(0)[:-1])
        case "log":
            (folder.parent / "training_log.csv").write_text("a,b\n1,2\n")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no table", r"cases\.csv: there is no such file"),
        ("empty table", r"cases\.csv: has no rows"),
        ("columns", r"lacks the columns hd95_mm"),
        ("row missing", r"lacks rows of results\.json: b, posterior"),
        ("row twice", r"has rows twice: a, anterior"),
        ("other case", r"has rows that are not in results\.json: z, anterior"),
        ("text", r"of a, anterior is no number but 'one"),
        ("bytes", r"cases\.csv: cannot be read"),
        ("truncated mask", r"a_seg\.nii\.gz: cannot be read; the file is truncated"),
        ("mask of fractions", r"a_seg\.nii\.gz: has voxel values that are no labels, which are whole numbers from 0"),
        ("mask elsewhere", r"a_seg\.nii\.gz: lies up to .* mm away from .*a\.nii\.gz"),
        ("mask of another shape", r"a_seg\.nii\.gz: has shape 19×24×10, but .*a\.nii\.gz has 20×24×10"),
        ("log", r"training_log\.csv: has no columns epoch and train_loss"),
    ],
)
def test_what_does_not_fit_ends_with_one_message_and_no_page(tmp_path, monkeypatch, capsys, what, words):
    (tmp_path / "training_log.csv").write_text(LOG)
    folder = make_evaluation(tmp_path, ("a", "b"), weights=str(tmp_path / "model.pt"))
    before = sorted(p.name for p in folder.iterdir())
    damage(folder, what)
    code, out, err = call(monkeypatch, capsys, "report", folder)
    assert (code, out) == (1, "")
    assert re.search(r"(?m)^error: ", err)
    assert re.search(words, err), err
    assert "Traceback" not in err
    assert sorted(p.name for p in folder.iterdir()) == [n for n in before if what != "no table" or n != "cases.csv"]


def test_curves_of_further_trainings_are_shown_beside_that_of_the_weights(tmp_path, monkeypatch, capsys):
    counted = "epoch,train_loss,steps,seconds,val_ema_dice\n1,0.9,10,5,0.5\n2,0.6,20,9,0.6\n"
    for name in ("", "kernel_3", "scratch"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "training_log.csv").write_text(counted)
    folder = make_evaluation(tmp_path, ("a",), weights=str(tmp_path / "model.pt"))
    code, _, err = call(monkeypatch, capsys, "report", folder, "--trainings", str(tmp_path / "scratch"))
    assert code == 0, err
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "Learning curves of several trainings" in text
    assert "training loss over 4 epochs" in text  # of both trainings of the weights
    assert text.count('class="joint" d=') == 2  # in the charts of loss and Dice
    assert "/scratch, best 0.600" in text
    assert "(the dot is the end of kernel 3)" in text


def test_log_that_was_removed_is_only_mentioned(tmp_path):
    (tmp_path / "training_log.csv").write_text(LOG)
    folder = make_evaluation(tmp_path, ("a",), weights=str(tmp_path / "model.pt"))
    (tmp_path / "training_log.csv").unlink()
    page = read_page(write_report(folder))
    assert "The training log training_log.csv is not where it was" in " ".join(page.of("p"))
    assert not page.all("polyline")


def test_output_that_cannot_be_is_refused_before_work(tmp_path, monkeypatch, capsys):
    folder = make_prediction(tmp_path, 1)
    (tmp_path / "file").touch()
    (tmp_path / "folder.html").mkdir()
    for output, words in (
        (tmp_path / "page.txt", "should end in .html"),
        (tmp_path / "folder.html", "should end in .html"),
        (tmp_path / "file" / "page.html", "cannot be written"),
    ):
        code, _, err = call(monkeypatch, capsys, "report", folder, "--output", output)
        assert code == 1
        assert words in err
        assert "measuring" not in err
    for arguments, words in (
        ((tmp_path / "none",), "no such folder"),
        ((tmp_path / "folder.html",), "has no results.json"),
    ):
        code, _, err = call(monkeypatch, capsys, "report", *arguments)
        assert code == 1
        assert words in err


def test_the_page_is_beside_the_results_unless_another_place_is_given(tmp_path):
    folder = make_prediction(tmp_path, 1)
    assert write_report(folder) == folder / "report.html"
    other = tmp_path / "a" / "b" / "page.HTM"
    assert write_report(str(folder), str(other)) == other
    assert other.read_bytes() == (folder / "report.html").read_bytes()


def test_a_report_that_fails_leaves_the_page_of_before(tmp_path):
    folder = make_prediction(tmp_path, 1)
    before = write_report(folder).read_bytes()
    (mask,) = folder.glob("*_seg.nii.gz")
    mask.write_bytes(mask.read_bytes()[:-30])
    with pytest.raises(InputError, match="truncated"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["0_seg.nii.gz", "images", "report.html", "results.json"]


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (6, 6), (8, 6)])
def test_the_first_six_cases_of_a_prediction_are_drawn(tmp_path, count, shown):
    page = read_page(write_report(make_prediction(tmp_path, count)))
    assert page.of("h3") == [f"case {n}" for n in range(shown)]
