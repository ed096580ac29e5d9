import numpy as np
import pytest
from collection_files import AFFINE, blocks, save

from mednextv2.data.joined_labels import JoinedLabels, LabelPart
from mednextv2.errors import InputError
from mednextv2.images.volume import read_volume
from mednextv2.transforms.load import LoadVolumed


def part(path, *labels, **options):
    return LabelPart(str(save(path, blocks(*labels))), **options)


def test_values_become_those_of_the_map_and_later_parts_are_painted_over(tmp_path):
    parts = (
        part(tmp_path / "a.nii.gz", 7, 9, 9, 0, values=((7, 1), (9, 300))),
        part(tmp_path / "b.nii.gz", 0, 2, 0, 2, values=((2, 5),)),
    )
    labels = JoinedLabels(parts, (1, 5, 300))
    found, affine = read_volume(labels)
    assert found[:, 0, 0].tolist() == [1, 5, 300, 5, 0, 0]
    assert found.dtype == np.int16
    np.testing.assert_array_equal(affine, AFFINE)
    assert str(labels) == labels.files[0] == str(tmp_path / "a.nii.gz")
    item = LoadVolumed("label", ensure_channel_first=True, dtype=np.float32)({"label": labels})
    assert item["label"].shape == (1, 6, 5, 4)
    np.testing.assert_array_equal(item["label"][0], found)
    np.testing.assert_array_equal(item["label"].affine, AFFINE)
    saved = labels.save(tmp_path / "out" / "joined.nii.gz")
    np.testing.assert_array_equal(read_volume(saved)[0], found)


def test_the_rule_is_part_of_the_identity_and_the_place_is_not(tmp_path):
    one = JoinedLabels((LabelPart("a.nii", ((1, 2),)),), (2,))
    assert one.identity == JoinedLabels((LabelPart("b.nii", ((1, 2),)),), (2,)).identity
    others = [LabelPart("a.nii", ((1, 3),)), LabelPart("a.nii", ((1, 2),), strict=False)]
    assert len({one.identity, *(JoinedLabels((other,), (2,)).identity for other in others)}) == 3


def test_a_value_that_is_not_in_the_map_is_refused_or_background(tmp_path):
    given = part(tmp_path / "a.nii.gz", 1, 4, 8, values=((1, 1),))
    with pytest.raises(InputError, match=r"a\.nii\.gz: has voxels of the values 4, 8, which .* does not have \(1\)"):
        JoinedLabels((given,), (1,)).read()
    found, _ = JoinedLabels((LabelPart(given.file, given.values, strict=False),), (1,)).read()
    assert found[:, 0, 0].tolist() == [1, 0, 0, 0, 0, 0]


def test_a_case_without_any_structure_is_refused_or_kept(tmp_path):
    given = part(tmp_path / "a.nii.gz", 2, values=((2, 0), (1, 1)))
    with pytest.raises(
        InputError, match=r"a\.nii\.gz: no voxel has one of the structures .*leave_out.*empty_cases: keep"
    ):
        JoinedLabels((given,), (1,)).read()
    assert not JoinedLabels((given,), (1,), may_be_empty=True).read()[0].any()


def test_parts_on_different_grids_are_refused(tmp_path):
    first = part(tmp_path / "a.nii.gz", 1, values=((1, 1),))
    shape = LabelPart(str(save(tmp_path / "b.nii.gz", blocks(1, shape=(6, 5, 3)))), ((1, 1),))
    with pytest.raises(InputError, match=r"b\.nii\.gz: has shape 6×5×3, but .*a\.nii\.gz has 6×5×4"):
        JoinedLabels((first, shape), (1,)).read()
    place = LabelPart(str(save(tmp_path / "c.nii.gz", blocks(1), np.eye(4))), ((1, 1),))
    with pytest.raises(InputError, match=r"c\.nii\.gz: lies up to"):
        JoinedLabels((first, place), (1,)).read()


def test_what_is_no_label_map_is_refused(tmp_path):
    file = save(tmp_path / "a.nii.gz", np.full((3, 3, 3), 0.5, np.float32))
    with pytest.raises(InputError, match=r"a\.nii\.gz: has voxel values that are no labels"):
        JoinedLabels((LabelPart(str(file), ((1, 1),)),), (1,)).read()
