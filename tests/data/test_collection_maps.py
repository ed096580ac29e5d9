import pytest

from mednextv2.data.collection_maps import LabelEntry, read_map
from mednextv2.errors import InputError


def test_maps_of_each_layout():
    assert read_map({1: "a", "liver": "b"}, "dataset", "x") == (LabelEntry("", 1, "a"), LabelEntry("", "liver", "b"))
    assert read_map(["a", "b"], "dataset", "x") == (LabelEntry("", "a", "a"), LabelEntry("", "b", "b"))
    assert read_map({551: {1: "a"}, "553": {2: "b"}}, "cads", "x") == (
        LabelEntry("551", 1, "a"), LabelEntry("553", 2, "b")
    )  # fmt: skip
    assert read_map(["a"], "totalsegmentator", "x") == (LabelEntry("a", 1, "a"),)
    assert read_map({"m": "a"}, "totalsegmentator", "x") == (LabelEntry("m", 1, "a"),)


@pytest.mark.parametrize(
    ("given", "layout", "message"),
    [
        ({}, "dataset", "labels should have the structure of each value"),
        ([], "dataset", "labels should have"),
        ("liver", "dataset", "labels should have"),
        (["liver"], "cads", r"each value of each part, such as \{551: \{1: spleen\}\}"),
        ({551: "liver"}, "cads", "each value of each part"),
        ({551: {}}, "cads", "each value of each part"),
        ({1: ["liver", "heart"]}, "dataset", r"labels: 1 is \['liver', 'heart'\]; one value has one structure"),
        ({1: 2}, "dataset", "labels: 1: 2 is no name of a structure"),
        ({-1: "liver"}, "dataset", "labels: -1 is no value of a label map"),
        ({1.5: "liver"}, "dataset", "labels: 1.5 is no value"),
        ({True: "liver"}, "dataset", "labels: True is no value"),
    ],
)
def test_wrong_maps_are_refused(given, layout, message):
    with pytest.raises(InputError, match=rf"c\.yaml: data set 1: .*{message}"):
        read_map(given, layout, "c.yaml: data set 1")
