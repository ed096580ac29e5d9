"""CTSpine1K: names full of dots, the official split with its faulty last line, and known defects."""

import pytest
from converter_runs import converted, excluded, load, names, passes_check, record, refused, truncate
from source_builders import COLONOG
from source_files import labels, save

SPLIT = "metadata/data_split.txt"


def test_the_official_split_decides(tmp_path):
    target = converted("ctspine1k", tmp_path)
    assert passes_check(target) == [f"{COLONOG}0001", "HN_P001", "liver_0"]
    # of the last line, which is one name twice, there is one case
    assert names(target / "labelsTs") == ["liver_110.nii.gz", "volume-covid19-A-0319_ct.nii.gz"]
    assert record(target)["notes"] == [f"{SPLIT} names volume-covid19-A-0319_ct twice"]


def test_known_defects_are_listed_or_kept_on_request(tmp_path):
    target = converted("ctspine1k", tmp_path / "a")
    assert {*record(target)["excluded"]} == {f"{COLONOG}0103", f"{COLONOG}0730"}
    assert "issue 13" in record(target)["excluded"][f"{COLONOG}0103"]
    kept = converted("ctspine1k", tmp_path / "b", "--keep_known_defects")
    assert f"{COLONOG}0103" in passes_check(kept)
    assert record(kept)["excluded"] == {}
    known = load("ctspine1k").KNOWN_DEFECTS
    assert sorted(name[-4:] for name in known) == ["0103", "0291", "0482", "0500", "0730"]


def test_volumes_that_the_split_does_not_name_are_listed(tmp_path):
    def change(source):
        save(source / "raw_data/volumes/MSD-T10/liver_7.nii.gz", labels((1,)))

    target = converted("ctspine1k", tmp_path, change=change)
    assert record(target)["excluded"]["liver_7"] == f"is not named in {SPLIT}"


def rewrite(source, old, new):
    file = source / SPLIT
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: (s / SPLIT).unlink(), f"{SPLIT}: there is no such file; copy it from the same download"),
        (lambda s: rewrite(s, "liver_110", "liver_0"), f"{SPLIT}: liver_0 is in trainset and in test_public"),
        (lambda s: rewrite(s, "test_public:", "validation:"), "has the section validation; there should be trainset"),
        (lambda s: rewrite(s, "liver_110.nii.gz", "liver 110"), "the line 'liver 110' is no name of a volume"),
        (lambda s: (s / "raw_data/labels/MSD-T10/liver_0_seg.nii.gz").unlink(), "liver_0.nii.gz: has no label map"),
        (lambda s: (s / "raw_data/volumes/MSD-T10/liver_0.nii.gz").unlink(), "liver_0_seg.nii.gz: has no image"),
        (
            lambda s: rewrite(s, "liver_110.nii.gz", "liver_111.nii.gz"),
            "- liver_111: raw_data/volumes/*/liver_111.nii.gz, raw_data/labels/*/liver_111_seg.nii.gz: there are no",
        ),
        (
            lambda s: save(s / "raw_data/volumes/COVID-19/liver_0.nii.gz", labels((1,))),
            "liver_0 are in another folder, too",
        ),
        (
            lambda s: truncate(s / f"raw_data/volumes/COLONOG/{COLONOG}0001.nii.gz"),
            f"{COLONOG}0001.nii.gz: cannot be read",
        ),
        (
            lambda s: save(s / f"raw_data/labels/COLONOG/{COLONOG}0001_seg.nii.gz", labels((26,))),
            f"{COLONOG}0001_seg.nii.gz: has the label values 26, which this data set does not have (it has 1 to 25)",
        ),
    ],
)
def test_defects_are_told(change, words, tmp_path):
    assert words in refused("ctspine1k", tmp_path, change=change)


def test_a_partial_download_is_listed_case_by_case(tmp_path):
    change = lambda s: (s / "raw_data/volumes/MSD-T10/liver_110.nii.gz").unlink()  # noqa: E731
    target, reasons = excluded("ctspine1k", tmp_path, change=change)
    assert "has no image" in reasons["liver_110"]
    assert "liver_0" in passes_check(target)
