"""Which cases are of one patient."""

import pytest

from mednextv2.data.case_groups import describe_groups, group_cases
from mednextv2.errors import InputError


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (
            ["patient001_frame01", "patient001_frame12", "patient002_frame01"],
            ["patient001", "patient001", "patient002"],
        ),
        (["sub-01_ses-01_T1w", "sub-01_ses-02_T1w", "sub-02_T1w"], ["sub-01", "sub-01", "sub-02"]),
        (["A12-left", "A12-right", "B3-left"], ["A12", "A12", "B3"]),
        (["x_visit_1", "x_visit_2", "y_visit_1"], ["x", "x", "y"]),
        (["p1_pre", "p1_post", "p2_pre"], ["p1", "p1", "p2"]),
        (["p1_ED", "p1_ES", "p2_ED"], ["p1", "p1", "p2"]),
        (["hippocampus_001", "hippocampus_002"], ["hippocampus_001", "hippocampus_002"]),
        (["BRATS_001", "BRATS_485"], ["BRATS_001", "BRATS_485"]),
        (["study_2024_01", "study_2024_02"], ["study_2024_01", "study_2024_02"]),
        (["ct_t1", "ct_t2"], ["ct_t1", "ct_t2"]),  # all of one group: then it is no patient's name
    ],
)
def test_names_of_one_patient_are_noticed(names, groups):
    assert group_cases(names) == groups


def test_a_pattern_names_the_group():
    names = ["a1x", "a2x", "b1x"]
    assert group_cases(names, "[ab]") == ["a", "a", "b"]
    assert group_cases(names, "[ab]([0-9])") == ["1", "2", "1"]
    assert group_cases(["ac", "ab"], "a(b)?") == ["a", "b"]


@pytest.mark.parametrize(
    ("pattern", "words"), [("(a", "not a regular expression"), ("a", "does not match 1 of 2 cases")]
)
def test_patterns_that_cannot_be_used_are_refused(pattern, words):
    with pytest.raises(InputError, match=words):
        group_cases(["a1", "b1"], pattern)


def test_the_sentence_names_an_example():
    assert describe_groups(["a", "b"], ["a", "b"]) == ""
    text = describe_groups(["a_1", "a_2", "a_3", "b"], ["a", "a", "a", "b"])
    assert text.startswith("4 cases are of 2 patients (for example, a_1, a_2 and others are of a)")
