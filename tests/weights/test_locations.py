"""Where weights are in a folder."""

from mednextv2.weights.locations import trained_folds, weights_file


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_pytorchs_file_comes_before_that_of_safetensors(tmp_path):
    assert weights_file(tmp_path) == tmp_path / "model.pt"  # which need not exist
    make(tmp_path, "model.safetensors", "model_1.safetensors")
    assert weights_file(tmp_path) == tmp_path / "model.safetensors"
    assert weights_file(tmp_path, "model_1.pt") == tmp_path / "model_1.safetensors"
    make(tmp_path, "model.pt")
    assert weights_file(tmp_path) == tmp_path / "model.pt"


def test_folds_are_those_with_weights(tmp_path):
    make(tmp_path, "fold_2/model.pt", "fold_0/model.safetensors", "fold_all/model.pt", "fold_1/checkpoint_latest.pt")
    make(tmp_path, "finetune/fold_3/model.pt")
    assert trained_folds(tmp_path) == {
        "0": tmp_path / "fold_0" / "model.safetensors",
        "2": tmp_path / "fold_2" / "model.pt",
        "all": tmp_path / "fold_all" / "model.pt",
    }
    assert trained_folds(tmp_path / "none") == {}
