"""What became of the tensors of a file: a text and a table."""

import csv

from mednextv2.weights.expectations import Expectations
from mednextv2.weights.pretrained_report import ADAPTED, LOADED, NEW, UNUSED, PretrainedReport, Row

ROWS = [
    Row("stem.weight", ADAPTED, "from 1 input channel to 2", "stem.weight", (4, 2, 1, 1, 1), (4, 1, 1, 1, 1)),
    Row("stem.bias", LOADED, "", "stem.bias", (4,), (4,)),
    *(Row(f"heads.{n}.bias", NEW, "another number of outputs", "", (3,)) for n in range(5)),
    Row("", UNUSED, "has no effect there", "dummy_tensor", (), (1,)),
]
REPORT = PretrainedReport(
    "a.pt", "checkpoint of x", ROWS, (12, 27), ["A remark."], Expectations(patch_size=(16, 16, 16))
)


def test_the_text_names_everything_that_is_not_simply_loaded():
    assert REPORT.describe().splitlines() == [
        "pretrained a.pt (checkpoint of x): 2 of 7 tensors loaded, 1 of them adapted, with 12 of 27 parameters "
        "(44.4 %)",
        "  adapted: stem.weight (from 1 input channel to 2)",
        "  newly initialised: heads.0.bias, heads.1.bias, heads.2.bias and 2 others (another number of outputs)",
        "  not used: dummy_tensor (has no effect there)",
        "  pretrained with patches of 16×16×16 voxels",
        "  A remark.",
    ]


def test_names_are_given_by_what_became_of_them():
    assert REPORT.loaded == ["stem.bias"]
    assert REPORT.adapted == {"stem.weight": "from 1 input channel to 2"}
    assert list(REPORT.new) == [f"heads.{n}.bias" for n in range(5)]
    assert REPORT.unused == {"dummy_tensor": "has no effect there"}
    assert PretrainedReport("a.pt").fraction == 0


def test_the_table_has_a_line_for_each_tensor(tmp_path):
    REPORT.save(tmp_path / "report.csv")
    rows = list(csv.DictReader((tmp_path / "report.csv").open(encoding="utf-8")))
    assert len(rows) == len(ROWS)
    assert rows[0] == {
        "tensor": "stem.weight", "status": "adapted", "how": "from 1 input channel to 2",
        "tensor_in_file": "stem.weight", "shape": "4×2×1×1×1", "shape_in_file": "4×1×1×1×1",
    }  # fmt: skip
    assert [row["status"] for row in rows] == [row.status for row in ROWS]
    assert rows[-1]["tensor_in_file"] == "dummy_tensor"


def test_weights_record_the_counts():
    assert REPORT.as_record() == {
        "tensors": {"loaded": 1, "adapted": 1, "newly initialised": 5, "not used": 1},
        "parameters": [12, 27],
        "format": "checkpoint of x",
    }
