import pytest
from collection_files import SCHEME, collection, two_folders

from mednextv2.data.collection_entries import read_collection_file
from mednextv2.data.collection_labels import label_rule, union_scheme
from mednextv2.errors import InputError
from mednextv2.label_scheme import LabelScheme

REGIONS = LabelScheme(
    ["background", "kidney", "tumour", "cyst"],
    [{"name": "all", "values": [1, 2, 3], "paint": 1}, {"name": "mass", "values": [2, 3], "paint": 2}],
)
DECLARED = {"background": 0, "Spleen": 1, "Liver": 2, "whole": [1, 2]}


def rule(tmp_path, labels, scheme=SCHEME, declared=(), **more):
    two_folders(tmp_path / "a", ["x"], 1)
    (entry,) = read_collection_file(collection(tmp_path / "c.yaml", {"root": "a", "labels": labels, **more})).entries
    return label_rule(entry, dict(declared), scheme)


def test_values_and_names_become_the_values_of_the_bundle(tmp_path):
    found = rule(tmp_path, {"Liver": "liver", 1: "spleen", 5: "liver", 9: "background"}, declared=DECLARED)
    assert found.parts[0].values == ((2, 2), (1, 1), (5, 2), (9, 0))
    assert found.structures == (True, True, False)
    assert found.values == (1, 2)


def test_a_data_set_may_annotate_a_structure_that_none_of_its_images_has(tmp_path):
    assert rule(tmp_path, {1: "spleen"}, annotates=["spleen", "heart"]).structures == (True, False, True)


def test_a_region_is_annotated_if_all_of_its_values_are(tmp_path):
    assert rule(tmp_path, {1: "kidney", 2: "tumour", 3: "cyst"}, REGIONS).structures == (True, True)
    assert rule(tmp_path, {2: "tumour", 3: "cyst"}, REGIONS).structures == (False, True)
    found = rule(tmp_path, {1: "kidney"}, REGIONS, annotates=["all"])
    assert (found.structures, found.values) == ((True, False), (1, 2, 3))


def test_the_ignore_label_is_a_name_where_the_bundle_has_one(tmp_path):
    scheme = LabelScheme(["background", "spleen"], ignore_label=2)
    assert rule(tmp_path, {1: "spleen", 9: "ignore"}, scheme).parts[0].values == ((1, 1), (9, 2))
    with pytest.raises(InputError, match="'ignore' is none of the bundle's labels"):
        rule(tmp_path, {1: "spleen", 9: "ignore"})


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        ({1: "livr"}, {}, "'livr' is none of the bundle's labels; did you mean liver?"),
        ({1: "Liver"}, {}, "'Liver' is none of the bundle's labels; did you mean liver?"),
        (
            {1: "zzz"},
            {},
            "'zzz' is none of the bundle's labels, which are background, spleen, liver, heart.*. Map the value to one "
            "of them or to background, or let mednextv2 plan make a bundle",
        ),
        ({1: "spleen"}, {}, "labels lacks 'Liver', 'whole' of the data set's dataset.json; map what is not used to"),
        ({1: "spleen", "Spleen": "liver"}, {}, "the value 1 is both spleen and liver; one value has one structure"),
        ({"whole": "spleen", 2: "liver"}, {}, "the value 2 is both spleen and liver"),
        ({0: "spleen"}, {}, "the value 0 is the background and cannot be spleen"),
        ({"Splen": "spleen"}, {}, "'Splen' is no label of the data set; did you mean Spleen?"),
        ({1: "background"}, {}, "annotates none of the bundle's structures"),
        (
            {1: "spleen"},
            {"annotates": ["hart"]},
            "annotates: 'hart' is no structure of the bundle; did you mean heart?",
        ),
        ({1: "spleen", 2: "liver"}, {"annotates": ["spleen"]}, "labels has liver, which annotates does not"),
    ],
)
def test_wrong_maps_are_refused(tmp_path, labels, more, message):
    with pytest.raises(InputError, match=rf"c\.yaml: data set a.*: {message}"):
        rule(tmp_path, labels, declared=DECLARED, **more)


def test_labels_that_the_map_lacks_may_become_background(tmp_path):
    assert rule(tmp_path, {1: "spleen"}, declared=DECLARED, other_values="background").parts[0].values == ((1, 1),)


def test_names_where_the_data_set_has_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="gives its values no names, so 'Liver' means nothing"):
        rule(tmp_path, {"Liver": "liver"})


def test_labels_of_the_bundle_that_differ_in_capital_letters_are_refused(tmp_path):
    scheme = LabelScheme(["background", "Liver", "liver"])
    with pytest.raises(InputError, match="Liver and liver differ only in capital letters"):
        rule(tmp_path, {1: "liver"}, scheme)


def test_the_union_has_all_structures_in_the_order_of_the_file(tmp_path):
    for name in "ab":
        two_folders(tmp_path / name, ["x"], 1)
    first = {"root": "a", "labels": {1: "liver", 2: "background", 3: "ignore"}}
    second = {"root": "b", "labels": {1: "spleen", 2: "liver"}, "annotates": ["spleen", "liver", "heart"]}
    scheme = union_scheme(read_collection_file(collection(tmp_path / "c.yaml", first, second)))
    assert (scheme.labels, scheme.ignore_label) == (["background", "liver", "spleen", "heart"], 4)
    other = {**second, "labels": {1: "Liver"}, "annotates": ["Liver"]}
    with pytest.raises(InputError, match=r"c\.yaml: the structures liver and Liver differ only in capital letters"):
        union_scheme(read_collection_file(collection(tmp_path / "c.yaml", first, other)))
    with pytest.raises(InputError, match="name no structure besides the background"):
        union_scheme(read_collection_file(collection(tmp_path / "c.yaml", {"root": "a", "labels": {1: "background"}})))
