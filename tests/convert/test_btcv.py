"""BTCV: img and label are paired by number; test images have no label map."""

import pytest
from converter_runs import (
    converted,
    description,
    excluded,
    move,
    names,
    passes_check,
    record,
    refused,
    same_values,
    truncate,
)
from source_files import AFFINE, SHAPE, image, labels, save


def test_images_are_taken_over_and_labels_keep_their_values(tmp_path):
    target = converted("btcv", tmp_path)
    assert passes_check(target) == ["btcv_0001", "btcv_0002", "btcv_0040"]
    source = tmp_path / "source/RawData/Training/img/img0002.nii.gz"
    assert (target / "imagesTr/btcv_0002_0000.nii.gz").read_bytes() == source.read_bytes()
    same_values(target / "labelsTr/btcv_0002.nii.gz", labels(range(1, 14)))
    assert names(target / "imagesTs") == ["btcv_0061_0000.nii.gz"]
    assert not (target / "labelsTs").exists()
    assert description(target)["labels"]["portal_vein_and_splenic_vein"] == 10
    assert record(target)["ignored"] == ["Training/img/._img0001.nii.gz"]


def test_the_other_name_of_the_test_folder_is_known(tmp_path):
    target = converted("btcv", tmp_path, change=lambda s: move(s / "Testing", s / "Test"))
    assert names(target / "imagesTs") == ["btcv_0061_0000.nii.gz"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: (s / "Training/label/label0002.nii.gz").unlink(),
            "btcv_0002: Training/img/img0002.nii.gz: has no label",
        ),
        (lambda s: (s / "Training/img/img0040.nii.gz").unlink(), "label0040.nii.gz: has no image"),
        (
            lambda s: truncate(s / "Training/img/img0001.nii.gz"),
            "Training/img/img0001.nii.gz: cannot be read; the file is trun",
        ),
        (
            lambda s: truncate(s / "Training/label/label0001.nii.gz"),
            "Training/label/label0001.nii.gz: cannot be read; the",
        ),
        (
            lambda s: save(s / "Training/label/label0001.nii.gz", labels((1, 2, 14))),
            "label/label0001.nii.gz: has the label values 14, which this data set does not have (it has 1 to 13)",
        ),
        (lambda s: save(s / "Training/label/label0001.nii.gz", labels((1,), (8, 7, 5))), "has shape 8×7×5, but"),
        (
            lambda s: save(s / "Training/label/label0001.nii.gz", labels((1,)), AFFINE * [[1, 1, 1, 1.2]]),
            "mm away from Training/img/img0001.nii.gz (their affines differ)",
        ),
        (lambda s: save(s / "Training/img/img0001.nii.gz", image() * 0), "is constant"),
        (lambda s: save(s / "Training/label/label0001.nii.gz", image() / 7.0), "voxel values that are no labels"),
    ],
)
def test_a_defect_is_told_or_listed_as_excluded(change, words, tmp_path):
    message = refused("btcv", tmp_path / "stop", change=change)
    assert words in message
    assert message.count(str(tmp_path)) == 1  # the source, to which all other paths are relative
    target, reasons = excluded("btcv", tmp_path / "exclude", change=change)
    ((name, reason),) = reasons.items()
    assert words.partition(": ")[2] in f"{name}: {reason}"
    assert len(passes_check(target)) == 2
    assert not (target / f"imagesTr/{name}_0000.nii.gz").exists()


def test_the_shape_of_the_volumes_stays(tmp_path):
    target = converted("btcv", tmp_path)
    same_values(target / "imagesTs/btcv_0061_0000.nii.gz", image(61, SHAPE))
