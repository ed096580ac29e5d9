import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from mednextv2.data import LabelScheme, Region
from mednextv2.errors import InputError
from mednextv2.label_scheme import MAX_LABELS, label_dtype

LABELS = ["background", "edema", "core", "enhancing"]
REGIONS = [
    {"name": "whole", "values": [1, 2, 3], "paint": 1},
    {"name": "tumour core", "values": [2, 3], "paint": 2},
    {"name": "enhancing", "values": 3, "paint": 3},
]
CLASSES = LabelScheme(LABELS)
NESTED = LabelScheme(LABELS, REGIONS)


def label_map(*shape, high=4):
    return torch.from_numpy(np.random.default_rng(0).integers(0, high, shape).astype(np.int16))


def logits(*shape):
    return torch.from_numpy(np.random.default_rng(1).normal(size=shape).astype(np.float32))


def as_dicts(scheme):
    return [region._asdict() for region in scheme.regions]


# --- what a scheme says ----------------------------------------------------------------------------------------------


def test_classes_have_an_output_each_and_all_but_the_background_are_scored():
    assert CLASSES.outputs == 4
    assert CLASSES.foreground == ["edema", "core", "enhancing"]
    assert CLASSES.members == [(1,), (2,), (3,)]
    assert CLASSES.declared == LABELS


def test_regions_have_an_output_each_and_all_are_scored():
    assert NESTED.outputs == 3
    assert NESTED.foreground == ["whole", "tumour core", "enhancing"]
    assert NESTED.members == [(1, 2, 3), (2, 3), (3,)]
    assert NESTED.regions[1] == Region("tumour core", (2, 3), 2)


def test_single_region_has_one_output():
    assert LabelScheme(LABELS, REGIONS[:1]).outputs == 1


@pytest.mark.parametrize("regions", [(), REGIONS])
def test_ignore_label_is_declared_but_neither_an_output_nor_scored(regions):
    plain, partial = LabelScheme(LABELS, regions), LabelScheme(LABELS, regions, ignore_label=4)
    assert partial.declared == [*LABELS, "ignore"]
    assert (partial.outputs, partial.foreground, partial.members) == (plain.outputs, plain.foreground, plain.members)


# --- label maps to targets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.int64, torch.float32])
@pytest.mark.parametrize("scheme", [CLASSES, NESTED], ids=["classes", "regions"])
@pytest.mark.parametrize("axis", [0, 1])
def test_masks_are_where_the_label_is_one_of_the_values(scheme, axis, dtype):
    label = label_map(*((2,) * axis), 1, 4, 3, 2)
    found = scheme.masks(label.to(dtype), axis)
    expected = np.concatenate([np.isin(label.numpy(), values) for values in scheme.members], axis)
    assert found.dtype == torch.bool
    assert np.array_equal(found.numpy(), expected)


def test_masks_leave_the_label_as_it_was():
    label = label_map(1, 4, 3, 2)
    before = label.clone()
    NESTED.masks(label)
    assert torch.equal(label, before)


def test_ignored_and_outside_voxels_belong_to_no_structure():
    label = torch.tensor([[4, -1, 0]])
    for regions in ((), REGIONS):
        assert not LabelScheme(LABELS, regions, ignore_label=4).masks(label).any()


def test_voxels_are_valid_unless_they_have_the_ignore_label():
    label = torch.tensor([[-1, 0, 3, 4]])
    assert LabelScheme(LABELS, ignore_label=4).valid(label).tolist() == [[True, True, True, False]]
    assert LabelScheme(LABELS).valid(label) is None


# --- outputs to label maps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
def test_largest_output_decides_between_classes(axis):
    outputs = logits(*((2,) * axis), 4, 5, 4, 3)
    found = CLASSES.decide(outputs, axis)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), np.expand_dims(outputs.numpy().argmax(axis), axis))


def painted(scheme, outputs):
    """One voxel after the other, region after region; `outputs` is `(N, X, Y, Z)`."""
    label = np.zeros(outputs.shape[1:], int)
    for voxel in np.ndindex(label.shape):
        for region, output in zip(scheme.regions, outputs[(slice(None), *voxel)].tolist(), strict=True):
            if 1 / (1 + np.exp(-output)) > 0.5:
                label[voxel] = region.paint
    return label


INSIDE_FIRST = LabelScheme(LABELS, REGIONS[::-1])


@pytest.mark.parametrize("scheme", [NESTED, INSIDE_FIRST], ids=["outside first", "inside first"])
def test_regions_above_a_half_are_painted_in_their_order(scheme):
    outputs = logits(2, 3, 5, 4, 3)
    outputs[:, :, 0, 0, 0] = 0  # a probability of exactly a half
    expected = np.stack([painted(scheme, sample) for sample in outputs])
    found = scheme.decide(outputs, 1)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), expected[:, None])
    assert np.array_equal(scheme.decide(outputs[0]).numpy(), expected[:1])


def test_later_regions_are_painted_over_earlier_ones():
    all_of_them = torch.ones(3, 1, 1, 1)
    assert NESTED.decide(all_of_them).item() == 3
    assert INSIDE_FIRST.decide(all_of_them).item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scheme", [CLASSES, NESTED], ids=["classes", "regions"])
def test_outputs_of_other_precision_are_decided_in_the_same_way(scheme, dtype):
    outputs = logits(scheme.outputs, 5, 4, 3).to(dtype)
    assert torch.equal(scheme.decide(outputs), scheme.decide(outputs.float()))


@pytest.mark.parametrize(("count", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.int16), (MAX_LABELS, np.int16)])
def test_label_maps_have_the_smallest_type_for_their_number_of_labels(count, dtype):
    assert label_dtype(count) == dtype
    assert np.iinfo(label_dtype(count)).max >= count - 1


def test_more_labels_than_two_bytes_hold_are_refused():
    with pytest.raises(InputError, match="values up to 32767, not 32768"):
        label_dtype(MAX_LABELS + 1)


@pytest.mark.parametrize(("count", "dtype"), [(256, torch.uint8), (257, torch.int16), (300, torch.int16)])
@pytest.mark.parametrize("region", [False, True])
def test_label_map_has_room_for_the_highest_value(count, dtype, region):
    regions = [{"name": "last", "values": [count - 1], "paint": count - 1}] if region else []
    scheme = LabelScheme(["background", *map(str, range(1, count))], regions)
    outputs = torch.zeros(scheme.outputs, 1, 1, 1)
    outputs[-1] = 1
    found = scheme.decide(outputs)
    assert found.dtype == scheme.dtype == dtype
    assert found.item() == count - 1


@pytest.mark.parametrize("scheme", [CLASSES, NESTED], ids=["classes", "regions"])
@pytest.mark.parametrize("axis", [0, 1])
def test_tensors_with_metadata_give_the_same_and_keep_it(scheme, axis):
    batch = (1,) * axis
    affine = torch.diag(torch.tensor([2.0, 2, 3, 1], dtype=torch.float64))
    label, outputs = label_map(*batch, 1, 4, 3, 2), logits(*batch, scheme.outputs, 4, 3, 2)
    for method, tensor in ((scheme.masks, label), (scheme.decide, outputs)):
        found = method(MetaTensor(tensor, affine=affine), axis)
        assert torch.equal(torch.as_tensor(found.as_tensor()), method(tensor, axis))
        assert torch.equal(found.affine, affine)
    partial = LabelScheme(LABELS, as_dicts(scheme), ignore_label=4)
    assert torch.equal(partial.valid(MetaTensor(label)).as_tensor(), partial.valid(label))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[], ["background"]])
def test_labels_without_a_class_are_refused(labels):
    with pytest.raises(InputError, match="need the background and at least one class"):
        LabelScheme(labels)


@pytest.mark.parametrize("value", [0, 3, 5, 255, "4"])
def test_ignore_label_that_is_not_the_next_value_is_refused(value):
    with pytest.raises(InputError, match=f"ignore_label {value!r}: should be the value after the highest label, 4"):
        LabelScheme(LABELS, ignore_label=value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": [1, 4]}, "values should be from 1 to 3"),
        ({"values": [0, 1]}, "values should be from 1 to 3"),
        ({"values": []}, "values should be from 1 to 3"),
        ({"values": ["core"]}, "values should be from 1 to 3"),
        ({"values": 1.0}, "values should be from 1 to 3"),
        ({"paint": 0}, "painted as 0"),
        ({"paint": 4}, "painted as 4"),
        ({"paint": None}, "painted as None"),
        ({"colour": 1}, "should have name, values and paint"),
    ],
)
def test_region_with_unusable_values_is_named(change, words):
    with pytest.raises(InputError, match=words) as caught:
        LabelScheme(LABELS, [REGIONS[0], REGIONS[1] | change])
    assert str(caught.value).startswith("regions: ")
    assert "tumour core" in str(caught.value)


@pytest.mark.parametrize("entry", ["whole", [1, 2], {"name": "whole", "values": [1]}, None])
def test_region_of_another_form_is_shown(entry):
    with pytest.raises(InputError, match="should have name, values and paint") as caught:
        LabelScheme(LABELS, [entry])
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize("labels", ["background", "[background, a]", {"background": 0, "a": 1}, None, 3])
def test_labels_that_are_no_list_are_refused(labels):
    with pytest.raises(InputError, match=r"labels .*: should be a list of names"):
        LabelScheme(labels)


def test_weights_record_the_background_and_what_the_outputs_mean():
    assert LabelScheme(["background", "liver"], ignore_label=2).legend == ["background", "liver"]
    regions = [{"name": "tumour and liver", "values": [1, 2], "paint": 1}]
    assert LabelScheme(["background", "liver", "tumour"], regions).legend == ["background", "tumour and liver"]
