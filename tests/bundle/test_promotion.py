import pytest
import torch
from configured_runs import PREDICT, TRAIN, copy_bundle, run_configured
from forked_processes import run_module

from mednextv2.bundle.promotion import promote_training
from mednextv2.errors import InputError
from mednextv2.inference import find_weights
from mednextv2.nets import create_mednext
from mednextv2.weights.files import save_file


def save_network(path, variant="v2_tiny", outputs=3, labels=("background", "anterior", "posterior"), seed=0):
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    network = create_mednext(variant, in_channels=1, out_channels=outputs, deep_supervision=True)
    save_file(network.state_dict(), path, {"labels": list(labels)})
    return path


@pytest.fixture
def bundle(tmp_path):
    root = copy_bundle(tmp_path)
    for fold in (0, 1):
        save_network(root / "models" / f"fold_{fold}" / "model.pt", seed=fold)
    return root


def same(a, b):
    return a.read_bytes() == b.read_bytes()


def test_all_trained_folds_and_their_post_processing_become_the_bundles_own(bundle):
    models = bundle / "models"
    (models / "folds_postprocessing.json").write_text("[]")
    now, kept = promote_training(bundle)
    assert kept is None
    assert [file.name for file in now] == ["model.pt", "model_1.pt"]
    assert all(same(file, models / f"fold_{i}" / "model.pt") for i, file in enumerate(now))
    assert find_weights(bundle) == [str(file) for file in now]
    assert same(models / "postprocessing.json", models / "folds_postprocessing.json")


def test_some_folds_those_of_an_experiment_and_files_are_promoted(bundle, tmp_path):
    models = bundle / "models"
    promote_training(bundle, folds=1)
    assert same(models / "model.pt", models / "fold_1" / "model.pt")
    wide = save_network(models / "wide" / "fold_0" / "model.pt", seed=7)
    _, kept = promote_training(bundle, experiment="wide")
    assert same(models / "model.pt", wide)
    assert same(kept / "model.pt", models / "fold_1" / "model.pt")
    mine = save_network(tmp_path / "mine.pt", seed=8)
    promote_training(bundle, weights=str(mine))
    assert same(models / "model.pt", mine)
    assert len(list(models.glob("replaced_*"))) == 2


def test_what_was_fine_tuned_is_found_without_a_name(tmp_path):
    root = copy_bundle(tmp_path)
    tuned = save_network(root / "models" / "finetune" / "fold_0" / "model.pt")
    promote_training(root)
    assert same(root / "models" / "model.pt", tuned)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"variant": "v2_small"}, "the weights are of another network"),
        ({"outputs": 4}, "the weights are of another network"),
        ({"labels": ["background", "left", "right"]}, "the weights are for the labels"),
    ],
)
def test_weights_that_do_not_fit_the_bundle_are_refused(bundle, tmp_path, network, words):
    other = save_network(tmp_path / "other.pt", **network)
    with pytest.raises(InputError, match=words):
        promote_training(bundle, weights=[str(other)])
    assert not (bundle / "models" / "model.pt").exists()


def test_what_cannot_be_promoted_is_named(bundle, tmp_path):
    with pytest.raises(InputError, match="folds 3: not trained in"):
        promote_training(bundle, folds=3)
    with pytest.raises(InputError, match="no fold was trained here; train one first"):
        promote_training(bundle, experiment="deep")
    with pytest.raises(InputError, match="--weights: gives the files themselves"):
        promote_training(bundle, folds=0, weights="a.pt")
    with pytest.raises(InputError, match=r"nothing\.pt: there is no such checkpoint file"):
        promote_training(bundle, weights=str(tmp_path / "nothing.pt"))


def test_a_training_changes_nothing_until_its_weights_are_promoted(tmp_path, small_phantom):
    root = copy_bundle(tmp_path)
    own = save_network(root / "models" / "model.pt")
    images = small_phantom / "imagesTr"
    settings = {"input": str(images), "output_dir": str(tmp_path / "masks"), "patch_size": [16, 16, 16], **PREDICT}
    run_configured(root, "train", dataset_dir=str(small_phantom), **TRAIN)
    trained = root / "models" / "fold_0" / "model.pt"
    assert run_configured(root, "inference", **settings)["predictor"].weights == [str(own)]
    chosen = run_configured(root, "inference", folds=0, **settings)
    assert chosen["predictor"].weights == [str(trained)]
    command = run_module("mednextv2", "promote", root, "--folds", "0")
    assert command.returncode == 0, command.stderr
    assert f"own weights are now: {own}" in command.stdout
    assert f"are kept in {next((root / 'models').glob('replaced_*'))}" in command.stdout
    assert same(own, trained)
    masks = [run_configured(root, "inference", **settings)["predictor"].weights]
    assert masks == [[str(own)]]
