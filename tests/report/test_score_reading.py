"""Scores and training logs as they are read, and the choice of cases."""

import numpy as np
import pytest
from report_helpers import LOG

from mednextv2.errors import InputError
from mednextv2.report import Results
from mednextv2.report.score_reading import Scores, choose_cases, read_log, read_scores


@pytest.mark.parametrize(
    ("means", "chosen"),
    [
        ([0.5], [("Only case", 0)]),
        ([0.5, 0.7], [("Best case", 1), ("Worst case", 0)]),
        ([0.5, 0.9, 0.7], [("Best case", 1), ("Median case", 2), ("Worst case", 0)]),
        ([0.5, 0.9, 0.7, 0.6], [("Best case", 1), ("Median case", 3), ("Worst case", 0)]),
        ([0.5, np.nan, 0.7, 0.6], [("Best case", 2), ("Median case", 3), ("Worst case", 0)]),
        ([0.5, 0.5, 0.5], [("Best case", 2), ("Median case", 1), ("Worst case", 0)]),
        ([np.nan], []),
    ],
)
def test_choice_of_cases(means, chosen):
    values = np.array([means, means]).T
    values[:, 1] = np.nan  # a class that no case has
    assert choose_cases(Scores([str(i) for i in range(len(means))], ["x", "y"], {"dice": values})) == chosen


HEAD = "case,label,dice,surface_dice_1mm,hd95_mm,volume_ml,reference_ml\n"
#: In another order than that of the manifest.
ROWS = ["b,y,0.4,0.5,inf,4,5", "a,x,0.1,0.2,0.3,1,2", "b,x,nan,nan,nan,0,0", "a,y,0.25,0.35,7.5,3,3.5"]


def evaluation(cases="ab", labels=("x", "y")):
    files = [{"case": c, "image": f"/{c}.nii", "prediction": f"/{c}_seg.nii", "label": f"/{c}_l.nii"} for c in cases]
    return Results("evaluation", "T", labels, [[n + 1] for n in range(len(labels))], files)


def write_table(folder, rows, head=HEAD):
    (folder / "cases.csv").write_text(head + "".join(f"{row}\n" for row in rows))


def test_scores_are_sorted_as_the_manifest_is(tmp_path):
    write_table(tmp_path, ROWS)
    scores = read_scores(evaluation(), tmp_path)
    assert (scores.cases, scores.labels) == (["a", "b"], ["x", "y"])
    np.testing.assert_array_equal(scores.values["dice"], [[0.1, 0.25], [np.nan, 0.4]])
    np.testing.assert_array_equal(scores.values["hd95_mm"], [[0.3, 7.5], [np.nan, np.inf]])
    np.testing.assert_array_equal(scores.values["reference_ml"], [[2, 3.5], [0, 5]])
    assert [(row["case"], row["label"], row["volume_ml"]) for row in scores.rows()] == [
        ("a", "x", 1), ("a", "y", 3), ("b", "x", 0), ("b", "y", 4)
    ]  # fmt: skip


def test_the_mean_of_a_case_leaves_out_what_it_has_not():
    values = np.array([[0.5, np.nan, 0.9], [np.nan] * 3, [1.0, np.inf, 0.0]])
    np.testing.assert_allclose(Scores(list("abc"), list("xyz"), {"dice": values}).mean("dice"), [0.7, np.nan, np.inf])


def test_rows_that_do_not_fit_are_listed_ten_at_most(tmp_path):
    labels = [f"s{n}" for n in range(13)]
    write_table(tmp_path, [f"a,{label},1,1,0,1,1" for label in labels])
    with pytest.raises(InputError) as caught:
        read_scores(evaluation("ab", labels), tmp_path)
    first, second = str(caught.value).splitlines()
    assert first == f"{tmp_path / 'cases.csv'}: does not fit to results.json; run the evaluation again"
    listed = "; ".join(f"b, s{n}" for n in range(10))
    assert second == f"- lacks rows of results.json: {listed}; … and 3 more"


def test_several_problems_of_a_table_are_told_at_once(tmp_path):
    write_table(tmp_path, [*ROWS[:3], ROWS[0], "c,x,1,1,0,1,1"])
    with pytest.raises(InputError, match=r"(?s)lacks rows.*a, y.*not in results.json: c, x.*rows twice: b, y"):
        read_scores(evaluation(), tmp_path)


@pytest.mark.parametrize(("cell", "shown"), [("", "''"), ("high", "'high'"), ("0,5", "")])
def test_what_is_no_number_is_named_with_its_place(tmp_path, cell, shown):
    write_table(tmp_path, [*ROWS[:3], f"a,y,0.25,0.35,{cell},3"])
    if shown:
        with pytest.raises(InputError, match=f"hd95_mm of a, y is no number but {shown}; run the evaluation again"):
            read_scores(evaluation(), tmp_path)
    else:  # a decimal comma makes a cell more
        assert read_scores(evaluation(), tmp_path).values["hd95_mm"][0, 1] == 0


def test_a_log_has_its_columns_with_nan_between_validations(tmp_path):
    file = tmp_path / "training_log.csv"
    file.write_text(LOG)
    log = read_log(file)
    np.testing.assert_array_equal(log["epoch"], [1, 2, 3])
    np.testing.assert_array_equal(log["train_loss"], [0.9, 0.6, 0.5])
    np.testing.assert_array_equal(log["val_mean_dice"], [0.5, np.nan, 0.7])
    assert set(log) == set(LOG.splitlines()[0].split(","))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no columns epoch and train_loss with at least one row"),
        (b"epoch,train_loss\n", "has no columns epoch and train_loss with at least one row"),
        (b"epoch,loss\n1,0.5\n", "has no columns epoch and train_loss"),
        (b"epoch,train_loss\n1,low\n", "cannot be read as a training log .*'low'.*; restore it, or remove it"),
        (b"epoch,train_loss\n1,\xff\n", "cannot be read .*; restore it"),
        (b"epoch,train_loss\n1,0.5,7\n", None),
        (None, "there is no such file .the training log."),
    ],
)
def test_what_is_no_log_is_refused_with_its_name(tmp_path, content, words):
    file = tmp_path / "training_log.csv"
    if content is not None:
        file.write_bytes(content)
    if words is None:  # cells beyond the head are none of its columns
        assert read_log(file)["train_loss"].tolist() == [0.5]
        return
    with pytest.raises(InputError, match=words) as caught:
        read_log(file)
    assert str(file) in str(caught.value)
