import pytest
import torch

from mednextv2.errors import InputError
from mednextv2.inference.fold_ensemble import FoldEnsemble
from mednextv2.inference.weights_choice import describe_choice, find_postprocessing, find_weights
from mednextv2.nets import MedNeXt


def tiny():
    return MedNeXt(3, 1, 2, init_filters=4, blocks_down=1, blocks_bottleneck=1, blocks_up=1).eval()


def make(root, *names):
    for name in names:
        file = root / "models" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return [str(root / "models" / name) for name in names]


def test_published_weights_come_before_those_of_folds(tmp_path):
    folds = make(tmp_path, "fold_0/model.pt", "fold_2/model.pt", "fold_4/model.pt")
    make(tmp_path, "fold_1/checkpoint_latest.pt", "fold_3/other.pt")
    assert find_weights(tmp_path) == find_weights(str(tmp_path)) == folds
    own = make(tmp_path, "model.pt")
    assert find_weights(tmp_path) == find_weights(str(tmp_path)) == own
    own += make(tmp_path, "model_1.pt", "model_2.pt")
    make(tmp_path, "model_4.pt", "model_x.pt", "replaced_2026-01-01_000000/model.pt")
    assert find_weights(tmp_path) == own
    last = describe_choice(own)[-1]
    assert "folds that were trained here (0, 2, 4) are used with --folds" in last
    assert f"mednextv2 promote {tmp_path / 'models'}"[: -len("/models")] in last


def test_safetensors_take_the_place_of_weights_that_are_not_there(tmp_path):
    folds = make(tmp_path, "fold_0/model.safetensors", "fold_1/model.pt")
    make(tmp_path, "fold_1/model.safetensors")
    assert find_weights(tmp_path) == find_weights(tmp_path, folds=[0, 1]) == folds
    assert find_weights(tmp_path, 0) == folds[:1]
    own = make(tmp_path, "model.safetensors", "model_1.pt")
    assert find_weights(tmp_path) == own
    make(tmp_path, "model.pt")
    assert find_weights(tmp_path) == [str(tmp_path / "models" / "model.pt"), own[1]]


@pytest.mark.parametrize("fold", [1, "1", "all"])
def test_a_fold_has_its_own_weights(tmp_path, fold):
    make(tmp_path, "model.pt", "fold_0/model.pt", "fold_1/model.pt", "fold_10/model.pt", "fold_all/model.pt")
    assert find_weights(tmp_path, fold) == [str(tmp_path / "models" / f"fold_{fold}" / "model.pt")]


@pytest.mark.parametrize(
    ("folds", "expected"), [(1, [1]), ("all", ["all"]), ([1, 0], [1, 0]), ((0, "all"), [0, "all"])]
)
def test_folds_are_chosen(tmp_path, folds, expected):
    make(tmp_path, "model.pt", "fold_0/model.pt", "fold_1/model.pt", "fold_all/model.pt")
    files = [str(tmp_path / "models" / f"fold_{fold}" / "model.pt") for fold in expected]
    assert find_weights(tmp_path, folds=folds) == files
    lines = describe_choice(files)
    assert [line.startswith("weights: ") for line in lines] == [*[True] * len(files), False]
    assert str(tmp_path / "models" / "model.pt") in lines[-1]


def test_folds_that_were_not_trained_are_named(tmp_path):
    make(tmp_path, "fold_0/model.pt")
    with pytest.raises(InputError, match=r"folds 1, 2: not trained in .*; trained are 0"):
        find_weights(tmp_path, folds=[0, 1, 2])


@pytest.mark.parametrize("fold", [None, 3])
def test_without_weights_of_the_fold_it_is_the_published_ones(tmp_path, fold):
    if fold is not None:
        make(tmp_path, "fold_0/model.pt")
    assert find_weights(tmp_path, fold) == [str(tmp_path / "models" / "model.pt")]  # whether they exist is for loading


def test_a_bundle_without_weights_says_how_to_get_some(tmp_path):
    (tmp_path / "configs").mkdir()
    ensemble = FoldEnsemble(tiny(), find_weights(tmp_path, fold=0))
    with pytest.raises(
        InputError, match=r"no trained weights yet\. Train it: mednextv2 run .* train --dataset_dir DATA"
    ):
        ensemble.load()


@pytest.mark.parametrize("folder", ["fold_2", "finetune/fold_2"])
def test_a_bundle_without_weights_of_a_fold_names_those_that_were_trained(tmp_path, folder):
    (tmp_path / "configs").mkdir()
    (tmp_path / "models" / folder).mkdir(parents=True)
    torch.save(tiny().state_dict(), tmp_path / "models" / folder / "model.pt")
    with pytest.raises(InputError, match="this fold has not been trained here, only fold 2"):
        FoldEnsemble(tiny(), find_weights(tmp_path, fold=0)).load()
    FoldEnsemble(tiny(), find_weights(tmp_path, fold=2)).load()


def test_a_file_that_is_not_a_bundles_own_is_named_as_missing(tmp_path):
    with pytest.raises(InputError, match=r"model\.pt: there is no such checkpoint file"):
        FoldEnsemble(tiny(), tmp_path / "models" / "model.pt").load()


def test_an_experiment_has_weights_of_its_own(tmp_path):
    expected = make(tmp_path, "wide/fold_0/model.pt", "wide/fold_1/model.pt")
    make(tmp_path, "model.pt", "fold_0/model.pt")
    assert find_weights(tmp_path, experiment="wide") == expected
    assert find_weights(tmp_path, 1, experiment="wide") == expected[1:]
    assert find_weights(tmp_path, folds=[1], experiment="wide") == expected[1:]
    for experiment, fold, which in (("wide", 2, "no fold 2 of the"), ("deep", None, "no fold of the experiment deep")):
        files = find_weights(tmp_path, fold, experiment=experiment)  # whether they exist is for loading
        with pytest.raises(InputError, match=which):
            FoldEnsemble(tiny(), files).load()


def test_fine_tuned_weights_are_used_where_nothing_else_was_trained(tmp_path):
    expected = make(tmp_path, "finetune/fold_0/model.pt")
    assert find_weights(tmp_path) == find_weights(tmp_path, 0) == expected
    own = make(tmp_path, "model.pt")
    assert find_weights(tmp_path, 0) == expected
    assert find_weights(tmp_path) == find_weights(tmp_path, 1) == own
    assert "the bundle's own weights" in describe_choice(expected)[-1]
    trained = make(tmp_path, "fold_0/model.pt")
    assert find_weights(tmp_path, 0) == trained
    assert find_weights(tmp_path, experiment="finetune") == expected
    assert describe_choice(trained)[-1].endswith("since folds were also trained (--experiment finetune)")


@pytest.mark.parametrize(
    ("weights", "experiment", "expected"),
    [
        (["models/model.pt"], "", "postprocessing.json"),
        ("models/model.pt", "", "postprocessing.json"),
        (["models/model.pt", "models/model_1.pt"], "", "postprocessing.json"),
        (["elsewhere/model.onnx"], "", "postprocessing.json"),
        (["models/fold_0/model.pt"], "", "folds_postprocessing.json"),
        (["models/fold_0/model.pt", "models/fold_1/model.pt"], "", "folds_postprocessing.json"),
        (["models/wide/fold_0/model.pt"], "wide", "wide/folds_postprocessing.json"),
        (["models/finetune/fold_0/model.pt"], "", "finetune/folds_postprocessing.json"),
        (["elsewhere/model.pt"], "wide", "wide/folds_postprocessing.json"),
        (["models/fold_0/model.pt", "models/wide/fold_1/model.pt"], "", "postprocessing.json"),
    ],
)
def test_post_processing_belongs_to_its_weights(weights, experiment, expected, tmp_path):
    files = str(tmp_path / weights) if isinstance(weights, str) else [str(tmp_path / name) for name in weights]
    assert find_postprocessing(tmp_path, files, experiment) == str(tmp_path / "models" / expected)
