import numpy as np
import pytest
from collection_files import blocks, cads, collection, image, read, save, totalsegmentator, two_folders

from mednextv2.data.collection_layouts import read_meta
from mednextv2.errors import InputError
from mednextv2.images.volume import read_volume

CADS = {556: {3: "heart"}, 551: {1: "spleen", 5: "liver"}}


def test_a_source_of_cads_is_joined_from_its_parts_in_the_order_of_the_map(tmp_path):
    cads(tmp_path / "0001_x", ["p_1", "p_2"], {551: blocks(1, 0, 5, 0), 556: blocks(3, 3, 0, 0), 559: blocks(9)})
    found = read(collection(tmp_path / "c.yaml", {"root": "00??_*", "layout": "cads", "labels": CADS}))
    assert [case.name for case in found.cases] == ["0001_x.p_1", "0001_x.p_2"]
    assert found.cases[0].images == (str(tmp_path / "0001_x" / "images" / "p_1_0000.nii.gz"),)
    assert read_volume(found.cases[1].label)[0][:, 0, 0].tolist() == [1, 3, 2, 0, 0, 0]  # the spleen over the heart


def test_the_released_totalsegmentator_is_joined_from_its_masks_without_the_test_cases(tmp_path):
    masks = {"liver": blocks(1, 1), "spleen": blocks(0, 1, 1), "brain": blocks(1)}
    totalsegmentator(tmp_path / "ts", ["s0001", "s0002", "s0003"], masks, ["train", "test", "val"])
    given = {"root": "ts", "layout": "totalsegmentator", "labels": ["liver", "spleen"]}
    found = read(collection(tmp_path / "c.yaml", given))
    assert [case.name for case in found.cases] == ["ts.s0001", "ts.s0003"]
    assert read_volume(found.cases[0].label)[0][:, 0, 0].tolist() == [2, 1, 1, 0, 0, 0]
    (tmp_path / "ts" / "meta.csv").unlink()
    assert len(read(tmp_path / "c.yaml").cases) == 3


def test_cases_may_be_listed(tmp_path):
    save(tmp_path / "a" / "ct.nii.gz", image())
    save(tmp_path / "a" / "seg.nii.gz", blocks(1, 2))
    cases = [
        {"image": "ct.nii.gz", "label": "seg.nii.gz"},
        {"image": ["ct.nii.gz"], "label": "seg.nii.gz", "name": "n"},
    ]
    found = read(collection(tmp_path / "c.yaml", {"root": "a", "labels": {1: "heart", 2: "liver"}, "cases": cases}))
    assert [case.name for case in found.cases] == ["a.ct", "a.n"]
    assert read_volume(found.cases[0].label)[0][:3, 0, 0].tolist() == [3, 2, 0]


@pytest.mark.parametrize(
    ("layout", "labels", "message"),
    [
        ("cads", CADS, r"a/images: has no images ID_0000\.nii\.gz, as a source of CADS has them"),
        ("totalsegmentator", ["liver"], r"a: has no folders with ct\.nii\.gz, such as s0000"),
        ("dataset", {1: "liver"}, r"a: has no dataset\.json"),
    ],
)
def test_a_folder_of_another_layout_is_refused(tmp_path, layout, labels, message):
    save(tmp_path / "a" / "x.nii.gz", np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match=rf"c\.yaml: data set a: .*{message}"):
        read(collection(tmp_path / "c.yaml", {"root": "a", "layout": layout, "labels": labels}))


def test_meta_of_another_kind_is_refused(tmp_path):
    (tmp_path / "meta.csv").write_text("image_id,split\ns0001,train\n")
    with pytest.raises(InputError, match=r"meta\.csv: should have the columns image_id and split"):
        read_meta(tmp_path / "meta.csv")


def test_two_folders_with_the_same_values_twice(tmp_path):
    two_folders(tmp_path / "a", ["x"], 4, 6)
    found = read(collection(tmp_path / "c.yaml", {"root": "a", "labels": {4: "liver", 6: "liver"}}))
    assert read_volume(found.cases[0].label)[0][:3, 0, 0].tolist() == [2, 2, 0]
