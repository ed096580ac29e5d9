import errno
import shutil

import pytest
import torch

from mednextv2.errors import InputError
from mednextv2.weights import promotion
from mednextv2.weights.files import save_file
from mednextv2.weights.promotion import own_weights, promote
from mednextv2.weights.provenance import read_about


def make(folder, **contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.pt").write_text(content)
    return [folder / f"{name}.pt" for name in contents]


def texts(folder):
    return {file.name: file.read_text() for file in folder.iterdir() if file.is_file()}


def test_several_files_are_a_bundles_own_if_they_are_counted(tmp_path):
    assert own_weights(tmp_path) == []
    files = make(tmp_path / "models", model="a", model_1="b", model_3="d")
    assert own_weights(tmp_path) == files[:2]


def test_an_ensemble_takes_the_place_of_a_network(tmp_path):
    make(tmp_path / "models", model="old")
    (tmp_path / "models" / "postprocessing.json").write_text("of the old")
    new = make(tmp_path / "trained", a="A", b="B")
    chosen = tmp_path / "trained" / "folds_postprocessing.json"
    chosen.write_text("of the new")
    now, kept = promote(tmp_path, new, chosen)
    assert now == own_weights(tmp_path)
    assert texts(tmp_path / "models") == {"model.pt": "A", "model_1.pt": "B", "postprocessing.json": "of the new"}
    assert texts(kept) == {"model.pt": "old", "postprocessing.json": "of the old"}
    assert kept.parent == tmp_path / "models"
    assert kept.name.startswith("replaced_20")
    again, kept_too = promote(tmp_path, [kept / "model.pt"])  # within the same second
    assert kept_too != kept
    assert texts(tmp_path / "models") == {"model.pt": "old"}  # post-processing of other weights does not stay
    assert texts(kept_too) == {"model.pt": "A", "model_1.pt": "B", "postprocessing.json": "of the new"}
    assert again == [tmp_path / "models" / "model.pt"]


def test_a_bundle_without_weights_gets_its_first(tmp_path):
    assert promote(tmp_path, make(tmp_path / "models" / "fold_0", model="new")) == (own_weights(tmp_path), None)
    assert texts(tmp_path / "models") == {"model.pt": "new"}


def test_what_is_missing_or_there_already_is_refused(tmp_path):
    own = make(tmp_path / "models", model="own")
    for files, words in (([tmp_path / "no.pt"], "no.pt: there is no such file"), (own, "is the bundle's own already")):
        with pytest.raises(InputError, match=words):
            promote(tmp_path, files)
    assert texts(tmp_path / "models") == {"model.pt": "own"}


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    make(tmp_path / "models", model="own", model_1="own too")
    before = texts(tmp_path / "models")
    real, calls = shutil.copyfile, []

    def copy(source, target):
        calls.append(source)
        real(source, target)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(promotion.shutil, "copyfile", copy)
    with pytest.raises(InputError, match="No space left on device"):
        promote(tmp_path, make(tmp_path / "trained", a="A", b="B"))
    assert len(calls) == 2
    assert texts(tmp_path / "models") == before
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == []


def test_safetensors_become_pytorchs_format_with_their_record(tmp_path):
    weights = {"a": torch.randn(3, 4)}
    (tmp_path / "models").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "models" / "model.safetensors")  # a bundle's own, without a model.pt
    assert own_weights(tmp_path) == [tmp_path / "models" / "model.safetensors"]
    save_file(weights, tmp_path / "new.safetensors", {"labels": ["background", "liver"]})
    now, kept = promote(tmp_path, [tmp_path / "new.safetensors"])
    assert now == own_weights(tmp_path) == [tmp_path / "models" / "model.pt"]
    assert torch.equal(torch.load(now[0], weights_only=True)["a"], weights["a"])
    assert read_about(now[0]) == {"labels": ["background", "liver"]}
    assert [file.name for file in kept.iterdir()] == ["model.safetensors"]


def test_safetensors_beside_weights_that_are_replaced_go_with_them(tmp_path):
    make(tmp_path / "models", model="old")
    (tmp_path / "models" / "model.safetensors").write_text("the same old")
    (tmp_path / "models" / "other.safetensors").write_text("something else")
    _, kept = promote(tmp_path, make(tmp_path / "trained", a="A"))
    assert texts(tmp_path / "models") == {"model.pt": "A", "other.safetensors": "something else"}
    assert texts(kept) == {"model.pt": "old", "model.safetensors": "the same old"}
