"""OAIZIB-CM: already in folders of training and test cases, both with label maps."""

import pytest
from converter_runs import converted, move, names, passes_check, record, refused, same_values, truncate
from source_files import labels, save


def test_test_cases_have_label_maps(tmp_path):
    target = converted("oaizib_cm", tmp_path)
    assert passes_check(target) == ["oaizib_001", "oaizib_404"]
    assert names(target / "labelsTs") == ["oaizib_405.nii.gz"]
    same_values(target / "labelsTs/oaizib_405.nii.gz", labels(range(1, 6)))
    assert record(target)["cases"]["oaizib_405"]["part"] == "test"


def test_a_channel_number_in_the_name_is_no_part_of_the_case(tmp_path):
    def change(source):
        move(source / "imagesTr/oaizib_001.nii.gz", source / "imagesTr/oaizib_001_0000.nii.gz")

    assert passes_check(converted("oaizib_cm", tmp_path, change=change)) == ["oaizib_001", "oaizib_404"]


def test_two_images_of_one_case_are_refused(tmp_path):
    change = lambda s: save(s / "imagesTr/oaizib_001_0000.nii.gz", labels((1,)))  # noqa: E731
    assert "oaizib_001.nii.gz and oaizib_001_0000.nii.gz are the same case" in refused(
        "oaizib_cm", tmp_path, change=change
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: move(s / "labelsTr", s / "labels"), "error: 2 cases of "),
        (lambda s: truncate(s / "labelsTs/oaizib_405.nii.gz"), "labelsTs/oaizib_405.nii.gz: cannot be read"),
        (lambda s: save(s / "labelsTr/oaizib_001.nii.gz", labels((6,))), "has the label values 6, which"),
    ],
)
def test_defects_are_told(change, words, tmp_path):
    assert words in refused("oaizib_cm", tmp_path, change=change)
