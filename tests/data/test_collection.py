import numpy as np
import pytest
from collection_files import SCHEME, collection, read, save, two_folders
from dataset_files import write_json

from mednextv2.data import read_dataset, split_dataset
from mednextv2.errors import InputError


@pytest.fixture
def data(tmp_path):
    two_folders(tmp_path / "large", [f"p{n}_scan{s}" for n in range(10) for s in (1, 2)], 1, 2)
    two_folders(tmp_path / "small", [f"case{n}" for n in range(3)], 1)
    two_folders(tmp_path / "single", ["only"], 3)
    return collection(
        tmp_path / "c.yaml",
        {"root": "large", "labels": {1: "spleen", 2: "liver"}, "patients": r"(p\d+)"},
        {"root": "small", "labels": {1: "heart"}, "annotates": ["heart", "liver"]},
        {"root": "single", "labels": {3: "spleen"}, "name": "one"},
        overlaps={"small": ["Dataset017_BTCV"], "absent": ["Dataset218_AMOS"]},
    )


def test_cases_have_the_names_of_their_data_sets_and_what_these_annotate(data):
    found = read(data)
    assert len(found.cases) == 24
    items = {case.name: case.as_item() for case in found.cases}
    assert items["one.only"]["dataset"] == "one"
    structures = {name: items[name]["structures"].tolist() for name in ("large.p0_scan1", "small.case1", "one.only")}
    assert structures == {
        "large.p0_scan1": [True, True, False], "small.case1": [False, True, True], "one.only": [True, False, False]
    }  # fmt: skip
    assert found.scheme() is SCHEME
    assert found.channels == ("image",)
    assert read_dataset(data).scheme().labels == ["background", "spleen", "liver", "heart"]  # without a bundle


@pytest.mark.parametrize("fold", range(5))
def test_every_data_set_is_split_by_patient(data, fold):
    split = split_dataset(read(data), fold)
    training, validation = ({item["case"] for item in side} for side in (split.training, split.validation))
    assert len(training) + len(validation) == 24
    assert not training & validation
    patients = [{name.split("_")[0] for name in side if name[:5] == "large"} for side in (training, validation)]
    assert not patients[0] & patients[1]
    assert len(patients[1]) == 2
    assert len([name for name in validation if name.startswith("small")]) == (1 if fold < 3 else 0)
    assert "one.only" in training
    assert sum(item["chance"] for item in split.training) == pytest.approx(1)
    counts = {name: sum(item["dataset"] == name for item in split.training) for name in ("large", "small", "one")}
    chance = {item["dataset"]: item["chance"] * counts[item["dataset"]] for item in split.training}
    roots = {name: number**0.5 for name, number in counts.items()}
    assert chance == pytest.approx({name: root / sum(roots.values()) for name, root in roots.items()})
    assert "one: the cases of one patient are only trained on" in split.source


def test_folds_of_a_data_set_of_its_own_are_taken_over(data, tmp_path):
    names = [f"p{n}_scan{s}" for n in range(10) for s in (1, 2)]
    (tmp_path / "large" / "splits_final.json").write_text(
        f'[{{"train": {names[2:]}, "val": {names[:2]}}}]'.replace("'", '"')
    )
    given = {"root": "large", "labels": {1: "spleen", 2: "liver"}}
    found = read(collection(tmp_path / "d.yaml", given, {"root": "small", "labels": {1: "heart"}}))
    split = split_dataset(found, 0)
    assert {item["case"] for item in split.validation if item["dataset"] == "large"} == {
        "large.p0_scan1",
        "large.p0_scan2",
    }
    assert not [item for item in split_dataset(found, 1).validation if item["dataset"] == "large"]
    assert len(split_dataset(found, "all").validation) == 23
    assert split_dataset(found, 0, num_folds=2).num_folds == 2
    with pytest.raises(InputError, match="fold 7: there are the folds 0 to 2"):
        split_dataset(found, 7)


def test_a_collection_of_single_patients_needs_fold_all(data, tmp_path):
    found = read(collection(tmp_path / "d.yaml", {"root": "single", "labels": {3: "spleen"}}))
    with pytest.raises(InputError, match="no data set of the collection has two patients"):
        split_dataset(found, 0)
    assert len(split_dataset(found, "all").training) == 1


def test_a_pattern_for_patients_that_fits_no_case_names_the_data_set(data, tmp_path):
    given = {"root": "small", "labels": {1: "heart"}, "patients": "(patient)"}
    with pytest.raises(InputError, match=r"data set small: patients \(patient\): does not match 3 of 3 cases"):
        split_dataset(read(collection(tmp_path / "d.yaml", given)), 0)


def test_the_record_for_weights_has_the_cases_of_each_data_set(data):
    split = split_dataset(read(data), 4)
    about = split.about()
    assert about["datasets"]["one"] == ["only"]
    assert about["datasets"]["small"] == ["case0", "case1", "case2"]
    assert {f"{d}.{c}" for d, cases in about["datasets"].items() for c in cases} == {*about["training"]}
    assert about["overlaps"] == {"small": ["Dataset017_BTCV"]}
    again = split_dataset(read(data), 4, trained=about)
    assert [item["case"] for item in again.validation] == about["validation"]
    assert again.source == "the folds are those that the weights were trained with"


def test_names_of_a_dataset_json_are_taken(tmp_path):
    write_json(tmp_path / "msd", {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "Liver"},
                                  "training": [{"image": "./i.nii.gz", "label": "./l.nii.gz"}]})  # fmt: skip
    found = read(collection(tmp_path / "c.yaml", {"root": "msd", "labels": {"Liver": "liver"}}))
    assert found.channels == ("CT",)
    assert found.cases[0].label.parts[0].values == ((1, 2),)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"root": "small", "labels": {1: "heart"}, "leave_out": ["none"]}], "leave_out names 1 case that .*: none"),
        ([{"root": "single", "labels": {3: "heart"}, "leave_out": ["only"]}], "single: no case is left"),
        (
            [
                {"root": "small", "labels": {1: "heart"}},
                {"root": ".", "name": "b", "labels": {1: "heart"},
                 "cases": [{"image": "small/images/case0.nii.gz", "label": "x.nii.gz"}]},
            ],
            "case0.nii.gz is listed twice, in the data sets small and b",
        ),
        (
            [
                {"root": "small", "labels": {1: "heart"}},
                {"root": "single", "labels": {1: "heart"}, "cases": [{"image": ["a.nii", "b.nii"], "label": "x.nii"}]},
            ],
            r"different numbers of channels \(small 1, single 2\)",
        ),
    ],
)  # fmt: skip
def test_collections_that_cannot_be_are_refused(data, tmp_path, entries, message):
    with pytest.raises(InputError, match=message):
        read(collection(tmp_path / "d.yaml", *entries))


def test_a_folder_of_labels_beside_a_collection_is_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"labels_dir .*: a collection says itself where labels are"):
        read_dataset(data, tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    save(tmp_path / "a" / "labels" / "x.nii.gz", np.zeros((2, 2, 2)))
    (tmp_path / "a" / "images").mkdir()
    with pytest.raises(InputError, match=r"data set a: .*images: holds no images"):
        read(collection(tmp_path / "c.yaml", {"root": "a", "labels": {1: "heart"}}))
