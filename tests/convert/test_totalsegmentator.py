"""TotalSegmentator: 117 masks become one label map, overlaps are counted, other versions are refused."""

import json
import shutil

import numpy as np
import pytest
from converter_runs import converted, excluded, load, names, passes_check, record, refused, run, same_values, truncate
from source_builders import TOTALSEGMENTATOR
from source_files import image, labels, read, save

EVERY_LABEL = labels(range(1, 118))


def test_masks_become_one_label_map_in_the_order_of_version_2(tmp_path):
    assert list(load("totalsegmentator").FACTS.labels.values()) == TOTALSEGMENTATOR
    target = converted("totalsegmentator", tmp_path)
    assert passes_check(target) == ["s0000", "s0001", "s0004"]
    same_values(target / "labelsTr/s0000.nii.gz", EVERY_LABEL)
    assert names(target / "labelsTs") == ["s0013.nii.gz"]
    assert json.loads((target / "splits_final.json").read_text()) == [{"train": ["s0000", "s0001"], "val": ["s0004"]}]


def test_where_masks_overlap_the_higher_number_stands_and_is_counted(tmp_path):
    target = converted("totalsegmentator", tmp_path)
    label = read(target / "labelsTr/s0001.nii.gz")
    np.testing.assert_array_equal(label[EVERY_LABEL == 1], 5)  # spleen and liver
    np.testing.assert_array_equal(label[EVERY_LABEL == 20], 20)  # spleen and colon
    overlap = np.isin(EVERY_LABEL, (1, 20)).sum()
    notes = {name: case["notes"] for name, case in record(target)["cases"].items()}
    assert notes["s0000"] == []
    assert notes["s0001"] == [f"{overlap} voxels of two masks; the structure with the higher number is kept"]


def test_one_case_is_not_enough_for_its_split(tmp_path):
    built = converted("totalsegmentator", tmp_path)
    source = tmp_path / "source/Totalsegmentator_dataset_v201"
    status, said = run("totalsegmentator", source, tmp_path / "b", "--exclude=s0004")
    assert status == 0
    assert "the data set's own split has no case on one side, so it was not written" in said
    assert not (tmp_path / "b/splits_final.json").exists()
    assert (built / "splits_final.json").exists()


@pytest.mark.parametrize(("mask", "version"), [("heart_myocardium", 1), ("vertebrae_L6", 3)])
def test_other_versions_are_refused(mask, version, tmp_path):
    change = lambda s: save(s / f"s0000/segmentations/{mask}.nii.gz", image())  # noqa: E731
    message = refused("totalsegmentator", tmp_path, change=change)
    assert f"has {mask}.nii.gz, so this is version {version} of the data set" in message
    assert "download version 2.0.1" in message


def set_meta(source, old, new):
    file = source / "meta.csv"
    file.write_text(file.read_text(encoding="utf-8-sig").replace(old, new))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: (s / "s0001/segmentations/sternum.nii.gz").unlink(),
            "- s0001: s0001/segmentations/sternum.nii.gz: there is no such file; download",
        ),
        (lambda s: (s / "s0001/ct.nii.gz").unlink(), "- s0001: s0001/ct.nii.gz: there is no such file; download"),
        (
            lambda s: shutil.rmtree(s / "s0001"),
            "- s0001: s0001/ct.nii.gz, s0001/segmentations/spleen.nii.gz, s0001/segmentations/kidney_right.nii.gz and",
        ),
        (
            lambda s: truncate(s / "s0001/segmentations/liver.nii.gz"),
            "s0001/segmentations/liver.nii.gz: cannot be read",
        ),
        (
            lambda s: save(s / "s0001/segmentations/liver.nii.gz", image()),
            "s0001/segmentations/liver.nii.gz: has voxel values",
        ),
        (
            lambda s: save(s / "s0001/segmentations/liver.nii.gz", labels((1,), (8, 7, 5))),
            "liver.nii.gz: has shape 8×7×5, but",
        ),
        (lambda s: (s / "meta.csv").unlink(), "meta.csv: there is no such file; copy it from the same archive"),
        (lambda s: set_meta(s, ";", ","), "meta.csv: should have the columns image_id and split (train, val or test)"),
        (lambda s: set_meta(s, "val", "validation"), "meta.csv: should have the columns"),
    ],
)
def test_defects_are_told(change, words, tmp_path):
    assert words in refused("totalsegmentator", tmp_path, change=change)


def test_cases_without_a_split_are_listed(tmp_path):
    def change(source):
        shutil.copytree(source / "s0001", source / "s0002")

    target, reasons = excluded("totalsegmentator", tmp_path, change=change)
    assert reasons == {"s0002": "is not named in meta.csv"}
    assert len(passes_check(target)) == 3
