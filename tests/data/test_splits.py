import numpy as np
import pytest
from sklearn.model_selection import KFold

from mednextv2.data import Case, kfold_indices, split_cases
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


def test_cases_are_sorted_by_name_before_they_are_split():
    ordered = cases(20)
    shuffled = [ordered[i] for i in np.random.default_rng(0).permutation(20)]
    for fold in range(5):
        training, validation = split_cases(shuffled, fold)
        assert (training, validation) == split_cases(ordered, fold)
        assert [item["case"] for item in validation] == [f"case_{i:03d}" for i in kfold_indices(20, fold)[1]]
        assert [item["case"] for item in training] == [f"case_{i:03d}" for i in kfold_indices(20, fold)[0]]


def test_items_are_what_monai_takes():
    (item,) = split_cases(cases(5), 0)[1]
    number = int(item["case"][-3:])
    assert item == {"image": f"i{number}.nii.gz", "label": f"l{number}.nii.gz", "case": f"case_{number:03d}"}


def test_fold_all_trains_and_validates_on_every_case():
    training, validation = split_cases(cases(3)[::-1], "all")
    assert [item["case"] for item in training] == ["case_000", "case_001", "case_002"]
    assert validation == training


def test_split_refuses_what_kfold_refuses():
    with pytest.raises(InputError, match="fold 5"):
        split_cases(cases(20), 5)
    with pytest.raises(InputError, match="4 cases"):
        split_cases(cases(4), 0)
