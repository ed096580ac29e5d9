"""Tables: their cells, counted by hand, and their heads."""

import numpy as np
import pytest

from mednextv2.report.score_reading import Scores
from mednextv2.report.tables import Row, Table, case_table, class_table, size_mean, size_table

NAN, INF = np.nan, np.inf
LABELS = ["liver", "tumour"]
EVALUATED = Scores(
    ["a", "b", "c"],
    LABELS,
    {
        "dice": np.array([[0.9, 0.5], [0.7, NAN], [0.8, 0.0]]),
        "surface_dice_1mm": np.array([[1, 0.5], [0.5, NAN], [0.6, 0.0]]),
        "hd95_mm": np.array([[1, 3], [2, NAN], [6, INF]]),
        "volume_ml": np.array([[10, 1], [20, 0], [30, 0.0]]),
        "reference_ml": np.array([[11, 2], [22, 0], [33, 4.0]]),
    },
)
PREDICTED = Scores(["a", "b", "c"], LABELS, {"volume_ml": np.array([[10, 0], [20, 0.5], [60, 0.0]])})


def widths(table):
    return {len(row.cells) + 1 for row in [*table.rows, *([table.foot] if table.foot else [])]}


def columns(table):
    return sum(len(names) for _, names in table.groups)


def test_classes_have_statistics_over_the_cases_that_have_them():
    table = class_table(EVALUATED)
    liver, tumour = table.rows
    assert (liver.head, liver.structure, tumour.head, tumour.structure) == ("liver", 0, "tumour", 1)
    assert liver.cells == [
        "0.800 ± 0.082", "0.800",  # 0.1 √(2/3)
        "0.700 ± 0.216", "0.600",  # of 1, 0.5, 0.6: √(0.14 / 3)
        "3.00 ± 2.16", "2.00", "0",  # √(14 / 3)
        "3", "20.0 ± 8.2", "22.0 ± 9.0",
    ]  # fmt: skip
    assert tumour.cells == [
        "0.250 ± 0.250", "0.250", "0.250 ± 0.250", "0.250", "3.00 ± 0.00", "3.00", "1",
        "2", "0.333 ± 0.471", "2.00 ± 1.63",
    ]  # fmt: skip


def test_the_foot_is_the_mean_of_the_classes_where_there_are_several():
    table = class_table(EVALUATED)
    assert table.foot.head == "Mean of the classes"
    # of 0.8 and 0.25, 0.7 and 0.25, 3 and 3
    assert [cell for cell in table.foot.cells if cell] == ["0.525", "0.475", "3.00"]
    assert widths(table) == {columns(table)} == {11}
    one = Scores(["a", "b", "c"], ["liver"], {name: v[:, :1] for name, v in EVALUATED.values.items()})
    assert class_table(one).foot is None


def test_volumes_of_a_prediction_are_those_of_all_cases():
    liver, tumour = size_table(PREDICTED).rows
    assert liver.cells == ["3", "30.0 ± 21.6", "20.0", "10.0", "60.0"]  # √(1400 / 3)
    assert tumour.cells == ["1", "0.167 ± 0.236", "0", "0", "0.500"]
    assert widths(size_table(PREDICTED)) == {6}


def test_cases_of_a_prediction_have_their_volumes():
    table = case_table(PREDICTED)
    assert [(row.head, row.cells) for row in table.rows] == [
        ("a", ["10.0", "0"]),
        ("b", ["20.0", "0.500"]),
        ("c", ["60.0", "0"]),
    ]
    assert table.groups == [("", ["Case"]), ("Volume (ml)", LABELS)]


def test_cases_of_few_classes_have_every_score():
    table = case_table(EVALUATED)
    assert [name for name, _ in table.groups] == ["", "Mean of the classes", "liver", "tumour"]
    assert [row.cells[:3] for row in table.rows] == [
        ["0.700", "0.750", "2.00"],
        ["0.700", "0.500", "2.00"],
        ["0.400", "0.300", "∞"],
    ]
    assert table.rows[1].cells[3:] == ["0.700", "0.500", "2.00", "20.0", "22.0", "–", "–", "–", "0", "0"]
    assert widths(table) == {columns(table)} == {14}


def test_cases_of_many_classes_have_the_dice_alone_and_the_lowest_class():
    labels = [f"s{n}" for n in range(7)]
    dice = np.array([[0.9, 0.8, 0.1, 0.7, NAN, 0.6, 0.5], [NAN] * 7])
    table = case_table(Scores(["a", "b"], labels, dict.fromkeys(("dice", "surface_dice_1mm", "hd95_mm"), dice)))
    assert table.groups[2:] == [("", ["Lowest Dice"]), ("Dice", labels)]
    assert table.rows[0].cells[:4] == ["0.600", "0.600", "0.60", "s2"]
    assert table.rows[0].cells[4:] == ["0.900", "0.800", "0.100", "0.700", "–", "0.600", "0.500"]
    assert table.rows[1].cells == ["–"] * 11


@pytest.mark.parametrize(
    ("values", "text"),
    [([1.0, 3], "2.00 ± 1.00"), ([1.0, NAN, 3], "2.00 ± 1.00"), ([NAN], "–"), ([5.0], "5.00 ± 0.00")],
)
def test_means_of_volumes_leave_out_what_is_unknown(values, text):
    assert size_mean(np.array(values)) == text


def test_a_head_of_groups_has_two_rows_and_numbers_every_column():
    upper, lower = Table("t", [("", ["Case"]), ("Dice", ["liver", "tumour"]), ("", ["Cases"])], [Row("a", [])]).head
    assert [(c.text, c.column, c.columns, c.rows) for c in upper] == [
        ("Case", 0, 1, 2),
        ("Dice", None, 2, 1),
        ("Cases", 3, 1, 2),
    ]
    assert [(c.text, c.column, c.columns, c.rows) for c in lower] == [("liver", 1, 1, 1), ("tumour", 2, 1, 1)]


def test_a_head_without_groups_has_one_row():
    (row,) = Table("t", [("", ["Case", "Dice"])], [Row("a", ["1"])]).head
    assert [(c.text, c.column, c.rows) for c in row] == [("Case", 0, 1), ("Dice", 1, 1)]
