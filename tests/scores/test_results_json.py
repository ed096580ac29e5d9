"""The manifest: what is written is read, and what cannot be used is refused."""

import json
from pathlib import Path

import pytest
from report_helpers import LOG, make_evaluation

from mednextv2.data import LabelScheme
from mednextv2.errors import InputError
from mednextv2.report import CaseFiles, Results, read_results, write_results


def results(folder, **changes):
    case = {"case": "a", "image": str(folder / "a.nii.gz"), "prediction": "/else/a_seg.nii.gz", "label": "/else/l.nii"}
    facts = {"kind": "evaluation", "title": "T", "labels": ["x", "y"], "values": [[1], [1, 2]], "cases": [case]}
    return Results(**{**facts, **changes})


def test_what_is_written_is_read(tmp_path):
    given = results(tmp_path, training_log=tmp_path / "log.csv", made_by={"mednextv2": "1"}, ignore_label=3)
    assert write_results(tmp_path, given) == tmp_path / "results.json"
    read = read_results(tmp_path)
    assert read == given
    assert read.cases == [CaseFiles("a", (str(tmp_path / "a.nii.gz"),), "/else/a_seg.nii.gz", "/else/l.nii")]
    assert read.values == [(1,), (1, 2)]
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_paths_inside_are_relative_so_that_the_folder_may_move(tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    monkeypatch.chdir(old)
    write_results("", results(old, training_log="log.csv"))  # relative to the working directory
    content = json.loads((old / "results.json").read_text())
    assert content["training_log"] == "log.csv"
    up = "/".join([".."] * (len(old.parts) - 1))
    assert content["cases"] == [
        {"case": "a", "image": "a.nii.gz", "prediction": f"{up}/else/a_seg.nii.gz", "label": f"{up}/else/l.nii"}
    ]
    monkeypatch.chdir(tmp_path)
    old.rename(new)
    assert read_results("new").cases[0].image == (str(new / "a.nii.gz"),)


def test_channels_and_names_of_any_kind_survive(tmp_path):
    case = {"case": "ö\udce9 <b>", "image": ["/i/0.nii", "/i/1.nii"], "prediction": Path("/p.nii")}
    write_results(tmp_path, results(tmp_path, kind="prediction", cases=[case]))
    (read,) = read_results(tmp_path).cases
    # of images elsewhere the names alone, since a folder may bear a patient's
    assert (read.case, read.label) == ("ö\udce9 <b>", None)
    assert read.image == (str(tmp_path / "0.nii"), str(tmp_path / "1.nii"))
    assert read_results(tmp_path).made_by.keys() >= {"mednextv2", "torch", "monai", "date"}


def test_volumes_are_kept_where_they_are_known(tmp_path):
    case = {"case": "a", "image": "a.nii", "prediction": "a_seg.nii", "volumes_ml": {"x": 0.5, "y": 0.0}}
    write_results(tmp_path, results(tmp_path, kind="prediction", cases=[case, {**CASE, "case": "b"}]))
    one, two = read_results(tmp_path).cases
    assert (one.volumes_ml, two.volumes_ml) == ({"x": 0.5, "y": 0.0}, None)
    for odd in ([1.0], {"x": "1"}, {"x": float("nan")}, {"x": -1}, {"x": True}):
        with pytest.raises(InputError, match="volumes_ml should be numbers by the structures' names"):
            results(tmp_path, kind="prediction", cases=[{**case, "volumes_ml": odd}])


@pytest.mark.parametrize("kind", ["evaluation", "prediction"])
def test_no_path_is_absolute_and_no_folder_of_a_scan_is_told(tmp_path, kind):
    scan = str(tmp_path / "DOE^JANE" / "ct")
    case = {
        "case": "a",
        "image": [scan],
        "prediction": str(tmp_path / "out" / "a.nii"),
        "label": str(tmp_path / "l.nii"),
    }
    write_results(tmp_path / "out", results(tmp_path, kind=kind, cases=[case], training_log=str(tmp_path / "log.csv")))
    text = (tmp_path / "out" / "results.json").read_text()
    assert str(tmp_path) not in text
    assert ("DOE" in text) == (kind == "evaluation")
    (read,) = read_results(tmp_path / "out").cases
    assert read.image == ((scan,) if kind == "evaluation" else (str(tmp_path / "out" / "ct"),))
    assert read.label == str(tmp_path / "l.nii")


CASE = {"case": "a", "image": "i.nii", "prediction": "p.nii", "label": "l.nii"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "test"}, "kind: should be evaluation or prediction, not 'test'"),
        ({"title": None}, "title"),
        ({"labels": []}, "labels: should be a list"),
        ({"labels": "xy"}, "labels: should be a list"),
        ({"labels": ["x", "x"]}, "same name"),
        ({"values": [[1]]}, "1 entry for 2 labels"),
        ({"values": [[1], [0]]}, "values"),
        ({"values": [[1], []]}, "values"),
        ({"values": [1, 2]}, "values"),
        ({"cases": []}, "at least one case"),
        ({"cases": {}}, "at least one case"),
        ({"cases": ["a"]}, "entry 1 should have the keys"),
        ({"cases": [CASE, CASE]}, "a is listed more than once"),
        ({"cases": [{k: v for k, v in CASE.items() if k != "image"}]}, r"entry 1 \(a\) lacks image"),
        ({"cases": [{**CASE, "label": None}]}, r"entry 1 \(a\) lacks label"),
        ({"cases": [{**CASE, "image": []}]}, "image should be a path"),
        ({"cases": [{**CASE, "prediction": 3}]}, "prediction should be a path, not 3"),
        ({"training_log": 1}, "training_log"),
        ({"made_by": "me"}, "made_by"),
        ({"ignore_label": "3"}, "ignore_label"),
    ],
)
def test_defects_are_named_with_the_file(tmp_path, change, words):
    content = {"kind": "evaluation", "title": "T", "labels": ["x", "y"], "values": [[1], [2]], "cases": [CASE]}
    (tmp_path / "results.json").write_text(json.dumps(content))
    read_results(tmp_path)  # which is sound
    (tmp_path / "results.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=words) as error:
        read_results(tmp_path)
    assert str(tmp_path / "results.json") in str(error.value)


def test_all_defects_are_named_at_once(tmp_path):
    with pytest.raises(InputError, match=r"(?s)kind.*labels.*lacks image"):
        results(tmp_path, kind="x", labels=[], cases=[{"case": "a", "prediction": "p", "label": "l"}])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "object with the keys"),
        ('{"kind": "prediction"}', "title, labels, values, cases"),
    ],
)
def test_files_that_are_no_manifest_are_refused(tmp_path, text, words):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=words):
        read_results(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "results.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match="is not UTF-8"):
        read_results(tmp_path)


def test_missing_folder_and_missing_manifest_say_what_to_do(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_results(tmp_path / "none")
    with pytest.raises(InputError, match=r"has no results\.json.*evaluate"):
        read_results(tmp_path)


def test_an_evaluation_leaves_its_manifest(tmp_path):
    weights = tmp_path / "models" / "fold_0" / "model.pt"
    weights.parent.mkdir(parents=True)
    (weights.parent / "training_log.csv").write_text(LOG)
    scheme = LabelScheme(
        ["background", "anterior", "posterior"],
        [{"name": "whole", "values": [1, 2], "paint": 1}, {"name": "posterior", "values": [2], "paint": 2}],
        ignore_label=3,
    )
    folder = make_evaluation(tmp_path, ("a", "b"), scheme, [str(weights)])
    read = read_results(folder)
    assert (read.kind, read.title, read.labels) == ("evaluation", "Test, fold 0", ["whole", "posterior"])
    assert (read.values, read.ignore_label) == ([(1, 2), (2,)], 3)
    assert read.training_log == str(weights.parent / "training_log.csv")
    assert [case.case for case in read.cases] == ["a", "b"]
    assert all(Path(p).is_file() for c in read.cases for p in (*c.image, c.prediction, c.label))


def test_weights_of_several_folds_have_no_training_log(tmp_path):
    files = [tmp_path / f"fold_{fold}" / "model.pt" for fold in range(2)]
    for file in files:
        file.parent.mkdir()
        (file.parent / "training_log.csv").write_text(LOG)
    assert read_results(make_evaluation(tmp_path, ("a",), weights=[str(f) for f in files])).training_log is None
