"""A bundle's trained weights as a file of safetensors, and its use in the place of a model.pt."""

import shutil

import numpy as np
import pytest
import torch
from export_helpers import BUNDLE, PATCH, make_weights, small_network
from predict_helpers import noise, save

import mednextv2
from mednextv2.bundle import export_weights
from mednextv2.bundle.export import export_bundle
from mednextv2.errors import InputError, UsageError
from mednextv2.weights import load_file, read_about


@pytest.fixture
def made(tmp_path):
    network, weights = make_weights(tmp_path)
    return {"network": network, "patch_size": PATCH}, weights


def test_the_weights_and_their_record_are_written(made, tmp_path):
    settings, weights = made
    file = export_bundle(BUNDLE, "safetensors", tmp_path / "a.safetensors", weights=str(weights), **settings)
    state = load_file(file)
    assert all(torch.equal(state[name], tensor) for name, tensor in small_network().state_dict().items())
    assert read_about(file) == read_about(weights)


def test_by_default_it_is_beside_the_bundles_own_weights(tmp_path):
    bundle = shutil.copytree(BUNDLE, tmp_path / "bundle", ignore=shutil.ignore_patterns("output", "fold_*"))
    assert export_bundle(bundle, "safetensors") == bundle / "models" / "model.safetensors"
    own = load_file(bundle / "models" / "model.pt")
    assert load_file(bundle / "models" / "model.safetensors").keys() == own.keys()


def test_weights_of_a_fold_do_not_become_the_bundles_own(made, tmp_path):
    settings, weights = made
    bundle = shutil.copytree(BUNDLE, tmp_path / "bundle", ignore=shutil.ignore_patterns("output", "models"))
    fold = bundle / "models" / "one_convolution" / "fold_0"  # of this network
    fold.mkdir(parents=True)
    shutil.copy(weights, fold / "model.pt")
    assert export_bundle(bundle, "safetensors", folds=[0], **settings) == fold / "model.safetensors"
    assert [path.name for path in (bundle / "models").iterdir()] == ["one_convolution"]
    (fold / "model.pt").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: is a file of safetensors already; to write it anew"):
        export_bundle(bundle, "safetensors", folds=[0], **settings)
    assert export_bundle(bundle, "safetensors", tmp_path / "b.safetensors", folds=[0], **settings).is_file()


def test_predictions_are_those_of_the_weights(made, tmp_path):
    settings, weights = made
    file = export_bundle(BUNDLE, "safetensors", tmp_path / "a.safetensors", weights=str(weights), **settings)
    image = save(tmp_path / "case.nii.gz", noise(40, 50, 30))
    more = {**settings, "network": str(settings["network"]), "amp": False, "device": "cpu", "test_mirror_axes": []}
    expected, actual, both = (
        mednextv2.predict(BUNDLE, image, weights=chosen, **more).labels
        for chosen in (str(weights), str(file), [str(weights), str(file)])
    )
    assert len(np.unique(expected)) == 3
    assert (actual == expected).all()
    assert (both == expected).all()


def test_several_weights_are_refused(made, tmp_path):
    settings, weights = made
    with pytest.raises(InputError, match=r"takes the weights of one training, and there are 2; choose them with"):
        export_bundle(BUNDLE, "safetensors", tmp_path / "a.safetensors", weights=[str(weights)] * 2, **settings)
    with pytest.raises(UsageError, match=r"should be the name of a file that ends with \.safetensors"):
        export_bundle(BUNDLE, "safetensors", tmp_path / "a.pt", weights=str(weights), **settings)
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: the weights are of another network"):
        export_bundle(BUNDLE, "safetensors", tmp_path / "a.safetensors", weights=str(tmp_path / "other.pt"))
    assert not (tmp_path / "a.safetensors").exists()


def test_a_file_that_is_not_as_it_was_written_is_not_left(made, tmp_path, monkeypatch):
    settings, weights = made
    monkeypatch.setattr(export_weights, "read_safetensors", lambda path: {})
    with pytest.raises(InputError, match=r"a\.safetensors: not written, since what was read again differs"):
        export_bundle(BUNDLE, "safetensors", tmp_path / "a.safetensors", weights=str(weights), **settings)
    assert not any(tmp_path.glob("*.safetensors"))
