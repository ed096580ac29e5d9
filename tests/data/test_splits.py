import json
import logging
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import KFold

from mednextv2.data import Case, DatasetFolder, kfold_indices, split_dataset
from mednextv2.data.splits import _by_rule
from mednextv2.errors import InputError


@pytest.mark.parametrize("count", [*range(5, 30), 41, 100, 260, 484, 1251])
def test_folds_are_those_of_scikit_learn_as_nnunet_calls_it(count):
    expected = KFold(n_splits=5, shuffle=True, random_state=12345).split(np.arange(count))
    for fold, (training, validation) in enumerate(expected):
        assert kfold_indices(count, fold) == (training.tolist(), validation.tolist())


@pytest.mark.parametrize(("folds", "seed"), [(2, 0), (3, 1), (10, 7)])
def test_other_numbers_of_folds_and_seeds_are_those_of_scikit_learn(folds, seed):
    expected = KFold(n_splits=folds, shuffle=True, random_state=seed).split(np.arange(23))
    for fold, (training, validation) in enumerate(expected):
        assert kfold_indices(23, fold, folds, seed) == (training.tolist(), validation.tolist())


@pytest.mark.parametrize(
    ("fold", "first"),
    [
        (0, [9, 10, 16, 18, 20, 30, 33, 40, 47, 50, 52, 54]),
        (1, [1, 14, 15, 17, 19, 26, 27, 39, 49, 55, 56, 66]),
        (2, [2, 4, 8, 13, 24, 25, 28, 35, 42, 44, 48, 51]),
        (3, [0, 3, 6, 12, 21, 22, 32, 37, 38, 41, 45, 46]),
        (4, [5, 7, 11, 23, 29, 31, 34, 36, 43, 53, 59, 64]),
    ],
)
def test_folds_of_the_hippocampus_task_are_those_of_nnunet(fold, first):
    training, validation = kfold_indices(260, fold)
    assert validation[:12] == first
    assert (len(training), len(validation)) == (208, 52)


def test_folds_of_twenty_cases_are_those_of_nnunet():
    assert [kfold_indices(20, fold)[1] for fold in range(5)] == [
        [3, 8, 13, 16],
        [0, 10, 12, 15],
        [6, 7, 11, 17],
        [9, 14, 18, 19],
        [1, 2, 4, 5],
    ]


def test_uneven_folds_are_those_of_nnunet():
    assert kfold_indices(41, 0)[1] == [0, 2, 3, 5, 19, 21, 25, 28, 32]
    assert [len(kfold_indices(41, fold)[1]) for fold in range(5)] == [9, 8, 8, 8, 8]


@pytest.mark.parametrize("count", [5, 7, 24, 61])
def test_validation_folds_partition_the_cases_and_training_is_the_rest(count):
    folds = [kfold_indices(count, fold) for fold in range(5)]
    assert sorted(i for _, validation in folds for i in validation) == list(range(count))
    for training, validation in folds:
        assert sorted(training + validation) == list(range(count))
        assert (training, validation) == (sorted(training), sorted(validation))


@pytest.mark.parametrize("fold", [5, -1, "x", "0", None, 1.0])
def test_fold_that_does_not_exist_is_refused(fold):
    with pytest.raises(InputError, match=r"there are the folds 0 to 4, or 'all'") as caught:
        kfold_indices(20, fold)
    assert f"fold {fold!r}:" in str(caught.value)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_fewer_cases_than_folds_are_refused(count):
    words = "1 case" if count == 1 else f"{count} cases"
    with pytest.raises(InputError, match=f"^{words} cannot be split into 5 folds; use --fold all"):
        kfold_indices(count, 0)


def cases(count):
    return [Case(f"case_{i:03d}", (f"i{i}.nii.gz",), f"l{i}.nii.gz") for i in range(count)]


def folder(found, path=Path("data"), **more):
    return DatasetFolder(path, (), {}, tuple(found), **more)


def names(items):
    return [item["case"] for item in items]


def test_cases_are_sorted_by_name_before_they_are_split():
    ordered = cases(20)
    shuffled = [ordered[i] for i in np.random.default_rng(0).permutation(20)]
    for fold in range(5):
        split = split_dataset(folder(shuffled), fold)
        assert split == split_dataset(folder(ordered), fold)
        assert names(split.validation) == [f"case_{i:03d}" for i in kfold_indices(20, fold)[1]]
        assert names(split.training) == [f"case_{i:03d}" for i in kfold_indices(20, fold)[0]]
        assert (split.fold, split.num_folds, split.source) == (fold, 5, "5 folds by nnU-Net's rule")


def test_items_are_what_monai_takes():
    (item,) = split_dataset(folder(cases(5)), 0).validation
    number = int(item["case"][-3:])
    assert item == {"image": f"i{number}.nii.gz", "label": f"l{number}.nii.gz", "case": f"case_{number:03d}"}


def test_fold_all_trains_and_validates_on_every_case():
    split = split_dataset(folder(cases(3)[::-1]), "all")
    assert names(split.training) == ["case_000", "case_001", "case_002"]
    assert split.validation == split.training


@pytest.mark.parametrize("fold", [5, -1, True, "0", "one", 1.0, None])
def test_folds_that_are_not_there_are_refused(fold):
    with pytest.raises(InputError, match="there are the folds 0 to 4"):
        split_dataset(folder(cases(20)), fold)


@pytest.mark.parametrize(("count", "folds"), [(20, 3), (20, 10), (7, 7)])
def test_the_number_of_folds_is_a_setting(count, folds):
    found = [split_dataset(folder(cases(count)), fold, num_folds=folds) for fold in range(folds)]
    for fold, (training, validation) in enumerate(KFold(folds, shuffle=True, random_state=12345).split(range(count))):
        assert names(found[fold].training) == [f"case_{i:03d}" for i in training]
        assert names(found[fold].validation) == [f"case_{i:03d}" for i in validation]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_cases_are_each_a_fold_of_their_own(count, caplog):
    caplog.set_level(logging.INFO)
    found = [split_dataset(folder(cases(count)), fold) for fold in range(count)]
    assert sorted(name for split in found for name in names(split.validation)) == [c.name for c in cases(count)]
    assert all(len(split.validation) == 1 and split.num_folds == count for split in found)
    assert f"there are only {count} patients, so each is a fold of its own (leave-one-out)" in caplog.text


def test_a_single_patient_cannot_be_split():
    with pytest.raises(InputError, match="1 case of one patient cannot be split; use --fold all"):
        split_dataset(folder(cases(1)), 0)


def acdc(patients=10):
    return [Case(f"patient{p:03d}_frame{f:02d}", (f"{p}{f}.nii.gz",), "l") for p in range(patients) for f in (1, 12)]


def test_the_images_of_a_patient_stay_on_one_side():
    found = [split_dataset(folder(acdc()), fold) for fold in range(5)]
    patients = [({n[:10] for n in names(s.training)}, {n[:10] for n in names(s.validation)}) for s in found]
    assert all(not training & validation for training, validation in patients)
    assert sorted(p for _, validation in patients for p in validation) == [f"patient{p:03d}" for p in range(10)]
    assert "20 cases are of 10 patients" in found[0].source
    expected = next(KFold(5, shuffle=True, random_state=12345).split(range(10)))[1]
    assert patients[0][1] == {f"patient{p:03d}" for p in expected}


def test_a_pattern_names_the_patient():
    found = split_dataset(folder(acdc()), 0, group=r"patient\d\d(\d)")
    assert {n[9] for n in names(found.training)} & {n[9] for n in names(found.validation)} == set()
    alone = split_dataset(folder(acdc()), 0, group=".*")
    assert names(alone.validation) == [sorted(c.name for c in acdc())[i] for i in kfold_indices(20, 0)[1]]


def test_the_data_sets_own_split_is_used_and_may_be_overridden(tmp_path):
    found = cases(6)
    own = [{"train": [c.name for c in found[:4]], "val": [c.name for c in found[4:]]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(own))
    split = split_dataset(folder(found, tmp_path), 0)
    assert names(split.validation) == ["case_004", "case_005"]
    assert split.source == f"the folds are those of {tmp_path / 'splits_final.json'}"
    with pytest.raises(InputError, match="there are the folds 0 to 0"):
        split_dataset(folder(found, tmp_path), 1)
    assert split_dataset(folder(found, tmp_path), 4, num_folds=5).num_folds == 5
    (tmp_path / "other.json").write_text(json.dumps([{"train": ["case_000"], "val": ["case_003"]}]))
    assert names(split_dataset(folder(found, tmp_path), 0, splits=tmp_path / "other.json").training) == ["case_000"]


def test_folds_in_dataset_json_are_used():
    found = cases(4)
    numbers = {case.name: i % 2 for i, case in enumerate(found)}
    split = split_dataset(folder(found, folds=numbers), 1)
    assert names(split.validation) == ["case_001", "case_003"]
    assert split_dataset(folder(found, folds={"case_000": 1}), 1).num_folds == 4  # not of every case: by the rule


def test_weights_bring_the_split_that_they_were_trained_with(tmp_path):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["case_000"], "val": ["case_003"]}]))
    trained = split_dataset(folder(cases(9)), 2, num_folds=3).about()
    assert split_dataset(folder(cases(9), tmp_path), 2, trained=trained).about() == {
        **trained, "split": "the folds are those that the weights were trained with",
    }  # fmt: skip
    assert split_dataset(folder(cases(9)), 1, trained=trained).num_folds == 5  # of another fold
    other = [Case(f"other_{i}", ("i",), "l") for i in range(9)]
    assert split_dataset(folder(other), 2, trained=trained).num_folds == 5  # of another data set


@pytest.mark.parametrize("number", [0, 1, -1, 2.0, "5", True])
def test_numbers_of_folds_that_split_nothing_are_refused(number):
    with pytest.raises(InputError, match=r"num_folds .* a whole number from 2"):
        _by_rule([f"c{i}" for i in range(10)], number, None)


@pytest.mark.parametrize("number", [0, 1, -3, 2.5, "five", True])
def test_a_number_of_folds_that_leaves_nothing_to_train_on_is_refused(number):
    with pytest.raises(InputError, match=r"num_folds .*should be a whole number from 2"):
        split_dataset(folder(cases(10)), 0, num_folds=number)
