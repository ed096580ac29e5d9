"""The table of a plan: its columns, its values, and a line for each data set of a collection."""

import pytest

from mednextv2.bundle.plan_table import facts_about, show, table
from mednextv2.data.cases import CollectedCase, CollectedDataset, Collection, DatasetFolder
from mednextv2.data.fingerprint import ChannelFacts, Fingerprint

CHANNEL = ChannelFacts(
    mean=40.0, std=20.0, median=38.0, minimum=-5.0, maximum=99.0, percentile_0_5=1.0, percentile_99_5=90.0
)


def fingerprint(spacings, shapes):
    return Fingerprint(len(spacings), tuple(spacings), tuple(shapes), 1.0, (CHANNEL,), {1: 9}, {1: len(spacings)})


def test_columns_are_aligned_and_long_texts_wrapped():
    text = table([("patch", "1 × 2", "short"), ("normalization", "x " * 40, "word " * 20)])
    first, *others = text.splitlines()
    start = first.index("short")
    assert all(line[start - 1 : start] in ("", " ") for line in others)
    assert max(map(len, others)) <= len("normalization") + 2 + 44 + 2 + 60
    assert len(others) == 2  # 79 characters in a column of 44, 99 in one of 60
    assert text.count("word") == 20


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        ([0, 2], "mirror_axes", "[0, 2]"),
        ((1.0, 1.25, 5.0), "spacing", "1 × 1.25 × 5"),
        ([{"scheme": "ct", "lower": -1024.0}, {"scheme": "zscore"}], "normalization", "ct, lower -1024; zscore"),
        (0.1234567, "", "0.123457"),
        (2, "batch_size", "2"),
        (True, "batch_dice", "True"),
    ],
)
def test_values_are_short_texts(value, name, text):
    assert show(value, name) == text


def test_each_data_set_of_a_collection_has_its_own_medians(tmp_path):
    cases = [
        CollectedCase(f"{d}.{i}", (f"{i}.nii.gz",), dataset=d)
        for d, n in (("heart", 3), ("liver", 2))
        for i in range(n)
    ]
    parts = tuple(CollectedDataset(tmp_path / d, ("CT",), {}, (), name=d) for d in ("heart", "liver"))
    found = fingerprint([(1, 1, 5), (1, 1, 7), (1, 1, 9), (2, 2, 2), (4, 4, 4)], [(9, 9, 9)] * 3 + [(20, 20, 4)] * 2)
    rows = facts_about(Collection(tmp_path / "c.yaml", ("CT",), {}, tuple(cases), parts=parts), found)
    assert ("data set heart", "3 cases", "median spacing 1 × 1 × 7, size 9 × 9 × 9") in rows
    assert ("data set liver", "2 cases", "median spacing 3 × 3 × 3, size 20 × 20 × 4") in rows
    assert rows[1][1] == "1 × 1 × 5"  # of all cases


def test_a_plain_data_set_has_no_such_lines(tmp_path):
    rows = facts_about(DatasetFolder(tmp_path, (), {}, ()), fingerprint([(1, 1)], [(9, 9)]))
    assert [row[0] for row in rows] == ["cases", "median spacing", "median size", "intensities image"]
    assert rows[1][2].endswith("along the plane's two axes")
