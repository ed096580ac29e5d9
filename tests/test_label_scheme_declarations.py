"""Labels as data sets declare them, and the names of left and right."""

import pytest

from mednextv2.errors import InputError
from mednextv2.label_scheme import declared_scheme, opposite_pairs


def test_labels_are_ordered_by_their_values():
    scheme = declared_scheme({"vein": 2, "background": 0, "liver": 1})
    assert scheme.labels == ["background", "liver", "vein"]
    assert (scheme.regions, scheme.ignore_label) == ([], None)


def test_background_of_another_name_is_the_background():
    assert declared_scheme({"air": 0, "liver": 1}).labels == ["background", "liver"]


def test_regions_are_painted_in_the_order_of_regions_class_order():
    # the form that nnU-Net documents for BraTS
    labels = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [2, 3], "enhancing_tumor": 3}
    scheme = declared_scheme(labels, [1, 2, 3])
    assert [region._asdict() for region in scheme.regions] == [
        {"name": "whole_tumor", "values": (1, 2, 3), "paint": 1},
        {"name": "tumor_core", "values": (2, 3), "paint": 2},
        {"name": "enhancing_tumor", "values": (3,), "paint": 3},
    ]
    assert [r.paint for r in declared_scheme(labels, [3, 1, 2]).regions] == [3, 1, 2]


def test_values_that_only_regions_have_are_named_after_their_number():
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    assert declared_scheme(labels, [1, 2, 3]).labels == ["background", "label 1", "label 2", "enhancing"]


@pytest.mark.parametrize("ignore", [3, [3]])
def test_ignore_label_follows_the_highest_value(ignore):
    scheme = declared_scheme({"background": 0, "ignore": ignore, "liver": 1, "vein": 2})
    assert scheme.labels == ["background", "liver", "vein"]
    assert scheme.ignore_label == 3
    scheme = declared_scheme({"background": 0, "whole": [1, 2], "vein": 2, "ignore": ignore}, [1, 2])
    assert (scheme.outputs, scheme.ignore_label, scheme.foreground) == (2, 3, ["whole", "vein"])


@pytest.mark.parametrize("ignore", [1, 2, 4, 255, [3, 4]])
def test_ignore_label_that_is_not_the_highest_is_refused(ignore):
    with pytest.raises(InputError, match=r"d\.json: the label ignore should have the value after the highest label, 3"):
        declared_scheme({"background": 0, "liver": 1, "vein": 2, "ignore": ignore}, source="d.json")


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ({"background": 0, "liver": 1, "vein": 3}, "0, 1, 3"),
        ({"background": 0, "whole": [2, 3]}, "0, 2, 3"),
        ({"liver": 1, "vein": 3}, "1, 3"),
        ({"background": 0}, "0"),
        ({}, "missing"),
        ({"background": 0, "ignore": 1}, "0"),
    ],
)
def test_gaps_are_refused_with_the_values(labels, shown):
    with pytest.raises(InputError, match=f"d.json: the label values are {shown}, but should be 0 .background., 1, 2"):
        declared_scheme(labels, source="d.json")


def test_a_missing_background_is_named():
    with pytest.raises(InputError, match=r'd\.json: the labels lack the background; add "background": 0'):
        declared_scheme({"liver": 1, "vein": 2}, source="d.json")


@pytest.mark.parametrize("order", [(), [1], [1, 2, 3]])
def test_regions_without_an_order_of_their_number_are_refused(order):
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    with pytest.raises(InputError, match=r"d.json: has 2 regions \(whole, core\), so regions_class_order") as caught:
        declared_scheme(labels, order, "d.json")
    assert str(list(order)) in str(caught.value)


def test_order_of_values_that_do_not_exist_is_refused():
    with pytest.raises(InputError, match="painted as 7"):
        declared_scheme({"background": 0, "whole": [1, 2], "core": [2]}, [1, 7])


@pytest.mark.parametrize("entry", ["1", 1.0, -1, True, None, [], [1, "2"], {"value": 1}])
def test_label_that_is_no_whole_number_is_named(entry):
    with pytest.raises(InputError, match=r"d.json: the label liver should be a whole number from 0") as caught:
        declared_scheme({"background": 0, "liver": entry}, source="d.json")
    assert repr(entry) in str(caught.value)


# --- left and right --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair",
    [
        ("kidney_left", "kidney_right"),
        ("left kidney", "right kidney"),
        ("Left Lung upper", "Right Lung upper"),
        ("lh.putamen", "rh.putamen"),
        ("l_femur", "r_femur"),
        ("Lung_L", "Lung_R"),
        ("Parotid-Lt", "Parotid-Rt"),
        ("ren sinister", "ren dexter"),
        ("LEFT RIB 3", "right rib 3"),
    ],
)
def test_names_that_differ_by_their_side_are_a_pair_in_any_order(pair):
    assert opposite_pairs(["background", *pair, "spleen"]) == [pair]
    assert opposite_pairs(["background", "spleen", *pair[::-1]]) == [pair]


@pytest.mark.parametrize(
    "names",
    [
        ["gallbladder", "garbradder", "bright", "bleft", "liver", "river", "lungs", "rungs"],
        ["bright spot", "b left spot"],
        ["kidney_left", "spleen"],
        ["kidney_right", "spleen"],
        ["left rib 3", "right rib 4"],
        ["left lung upper", "right lung lower"],
        ["anterior", "posterior", "1", "2", "肝", ""],
        [],
    ],
)
def test_other_names_are_no_pairs(names):
    assert opposite_pairs(names) == []


@pytest.mark.parametrize(
    ("axis", "pair"),
    [
        (1, ("Anterior", "Posterior")),
        (1, ("hippocampus_ant", "hippocampus_post")),
        (1, ("ventral horn", "dorsal horn")),
        (1, ("front teeth", "back teeth")),
        (2, ("lung_upper_lobe_left", "lung_lower_lobe_left")),
        (2, ("vena cava superior", "vena cava inferior")),
        (2, ("sup_endplate", "inf_endplate")),
        (2, ("cranial part", "caudal part")),
        (2, ("top", "bottom")),
    ],
)
def test_names_that_differ_by_another_direction_are_pairs_of_that_axis_only(axis, pair):
    assert [opposite_pairs(["background", *pair[::-1], "spleen"], a) for a in range(3)] == [
        [pair] if a == axis else [] for a in range(3)
    ]


def test_every_pair_is_found_once_though_names_are_repeated():
    names = ["background", "kidney_left", "kidney_right", "lh.putamen", "rh.putamen", "brain"]
    expected = [("kidney_left", "kidney_right"), ("lh.putamen", "rh.putamen")]
    assert opposite_pairs(names + names[1:]) == expected
