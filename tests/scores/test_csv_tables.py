"""Tables as CSV files."""

import csv
import math

import pytest

from mednextv2.errors import InputError
from mednextv2.scores.csv_tables import read_csv, write_csv


@pytest.mark.parametrize("name", ["=1+1", "+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "\t=1", "'=1"])
def test_names_that_are_formulas_are_kept_as_text(tmp_path, name):
    write_csv(tmp_path / "a.csv", [{"case": name, "dice": 0.5}])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as f:
        (cell, _) = list(csv.reader(f))[1]
    assert cell[0] == "'"
    if name != "'=1":
        assert read_csv(tmp_path / "a.csv") == [{"case": name, "dice": "0.5"}]


def test_numbers_and_other_names_are_as_they_are(tmp_path):
    rows = [{"case": "a,b", "x": -1.23456789, "n": -3}, {"case": 'ä"', "x": math.inf, "more": "it's"}]
    write_csv(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[0] == "case,x,n,more"
    assert read_csv(tmp_path / "a.csv") == [
        {"case": "a,b", "x": "-1.23457", "n": "-3", "more": ""},
        {"case": 'ä"', "x": "inf", "n": "", "more": "it's"},
    ]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_csv(tmp_path / "no" / "a.csv", [{"a": 1}])


def test_a_table_without_rows_has_a_header(tmp_path):
    write_csv(tmp_path / "a.csv", [], ["case", "dice"])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines() == ["case,dice"]
    write_csv(tmp_path / "a.csv", [{"more": 1, "dice": 2}], ["case", "dice"])
    assert read_csv(tmp_path / "a.csv") == [{"case": "", "dice": "2", "more": "1"}]
