"""What is asked for is checked before anything is loaded: where masks go, and what comes beside them."""

import numpy as np
import pytest
from dicom_helpers import numbers, write_series
from pydicom.uid import generate_uid

from mednextv2.data import choose_series
from mednextv2.errors import InputError
from mednextv2.inference.inputs import CheckImaged
from mednextv2.inference.prediction_orders import (
    CheckOrder,
    Extras,
    Order,
    check_extras,
    place_masks,
    warn_of_modalities,
)

TILTED = np.array([[0.8, 0, 0, 5], [0, 0.9, 0.7, -3], [0, 0, 2.0, 8], [0, 0, 0, 1.0]])


def order(folder, name="a.nii.gz", affine=None, change=None, **tags):
    write_series(folder, numbers(), affine, change=change, **tags)
    return Order({"image": choose_series(folder)[0], "case": folder.name}, folder.parent / "out" / name)


def test_files_beside_a_mask_have_its_name(tmp_path):
    extras = Extras(dicom_seg=True, rtstruct=True, probabilities=True, report=True)
    for name in ("a.nii.gz", "a.nii", "a.NRRD", "a.mha"):
        mine = Order({"image": "x", "case": "a"}, tmp_path / name)
        names = [mine.beside(ending).name for ending in extras.beside]
        assert names == ["a.dcm", "a_rtstruct.dcm", "a_probabilities.npy"]
    assert Extras(report=True).beside == []


def test_masks_of_series_are_named_after_their_cases(tmp_path):
    items = [order(tmp_path / name).item for name in ("one", "two")]
    orders = place_masks(items, tmp_path / "out")
    assert [o.mask.name for o in orders] == ["one_seg.nii.gz", "two_seg.nii.gz"]
    assert [len(o.series) for o in orders] == [1, 1]
    channels = {"image": [items[0]["image"], items[1]["image"]], "case": "both"}
    (both,) = place_masks([channels], tmp_path / "out")
    assert (both.mask.name, both.case, len(both.series)) == ("both_seg.nii.gz", "both", 2)
    assert place_masks([{"image": "b.nii.gz", "case": "b"}], tmp_path)[0].series == []


def test_no_file_of_any_channel_is_replaced(tmp_path):
    write_series(tmp_path / "in", numbers())
    for file in (tmp_path / "in").iterdir():
        file.rename(file.with_suffix(".dcm"))
    series = choose_series(tmp_path / "in")[0]
    with pytest.raises(InputError, match=r"IM0003\.dcm: is one of the images"):
        place_masks([{"image": [series], "case": "a"}], tmp_path / "in" / "IM0003.nii.gz", [".dcm"])


def test_only_nifti_holds_the_mask_of_a_tilted_series(tmp_path):
    for name in ("a.nrrd", "a.mha"):
        with pytest.raises(InputError, match=r"was tilted.* ends in \.nii\.gz"):
            check_extras([order(tmp_path / "tilted", name, TILTED)], Extras())
    check_extras([order(tmp_path / "tilted", "a.nii.gz", TILTED)], Extras())
    check_extras([order(tmp_path / "straight", "a.nrrd")], Extras())


@pytest.mark.parametrize("storage", ["Binary", "zip", ""])
def test_a_storage_that_does_not_exist_is_refused(tmp_path, storage):
    with pytest.raises(InputError, match="should be one of binary, deflated, labelmap"):
        check_extras([order(tmp_path / "in")], Extras(dicom_seg=True, dicom_seg_storage=storage))


@pytest.mark.parametrize("setting", ["dicom_seg", "rtstruct"])
def test_dicom_objects_need_dicom_images(tmp_path, setting):
    files = Order({"image": "b.nii.gz", "case": "b"}, tmp_path / "b_seg.nii.gz")
    with pytest.raises(InputError, match=f"--{setting}: refers to DICOM images, but b is no DICOM series"):
        check_extras([order(tmp_path / "in"), files], Extras(**{setting: True}))


def test_outlines_need_one_file_a_slice(tmp_path):
    mine = order(tmp_path / "in")
    (series,) = mine.series
    object.__setattr__(series.slices[0], "frame", 0)
    with pytest.raises(InputError, match="--rtstruct: refers to one file a slice"):
        check_extras([mine], Extras(rtstruct=True))
    check_extras([mine], Extras(dicom_seg=True))


def test_another_modality_is_warned_of(tmp_path, caplog):
    orders = [order(tmp_path / name, Modality=name) for name in ("CT", "MR")] + [order(tmp_path / "none", Modality="")]
    warn_of_modalities(orders, ["CT"])
    (record,) = caplog.records
    assert "its modality is MR, but the bundle was trained on CT" in record.getMessage()
    caplog.clear()
    warn_of_modalities(orders, [])
    warn_of_modalities(orders, ["MR", "CT"])
    assert not caplog.records


def test_a_series_is_checked_for_what_is_asked_of_it(tmp_path):
    same = generate_uid()

    def change(ds, k):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = same

    item = order(tmp_path / "in", change=change).item
    images = CheckImaged("image", 1, 3)
    CheckOrder(images, Extras())(item)
    for extras in (Extras(dicom_seg=True), Extras(rtstruct=True)):
        with pytest.raises(InputError, match="have the same SOPInstanceUID"):
            CheckOrder(images, extras)(item)


def test_voxels_of_a_series_are_checked(tmp_path):
    write_series(tmp_path / "flat", np.full((9, 7, 6), 5, np.int16))
    item = {"image": choose_series(tmp_path / "flat")[0], "case": "flat"}
    with pytest.raises(InputError, match="is constant"):
        CheckOrder(CheckImaged("image", 1, 3), Extras())(item)


def test_a_tilted_series_is_no_sheared_image(tmp_path):
    CheckOrder(CheckImaged("image", 1, 3), Extras())(order(tmp_path / "in", affine=TILTED).item)
