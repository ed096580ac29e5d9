"""`mednextv2 pack`: what it prints, and that it ends with a message."""

from verb_helpers import call

from mednextv2.delivery.model_info import MODEL_INFO


def test_every_option_together(tmp_path, monkeypatch, capsys):
    weights = "bundles/mednextv2_hippocampus/models/model.pt"
    code, out, err = call(
        monkeypatch, capsys, "pack", "mednextv2_hippocampus", "--output", tmp_path, "--weights", weights,
        "--github", "alice/bundles/v1", "--hugging_face",
    )  # fmt: skip
    assert (code, err) == (0, "")
    key = "mednextv2_hippocampus_v0.1.0"
    names = (f"{key}.zip", MODEL_INFO, f"{key}_model.pt", "large_files/mednextv2_hippocampus/large_files.yml",
             "huggingface/mednextv2_hippocampus")  # fmt: skip
    assert out.splitlines() == [f"written: {tmp_path / name}" for name in names]
    assert all((tmp_path / name).exists() for name in names)


def test_a_mistake_is_one_message(tmp_path, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "pack", "mednextv2_btcv", "--output", tmp_path / "out")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert not (tmp_path / "out").exists()
    code, _, err = call(monkeypatch, capsys, "pack", "mednextv2_hippocampus", "--github", "x")
    assert code == 2
    assert "OWNER/REPO/TAG" in err
