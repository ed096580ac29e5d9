"""The verb `curves`."""

from verb_helpers import call

LOG = "epoch,train_loss,steps,seconds,val_ema_dice\n1,0.9,10,5,0.5\n2,0.8,20,10,0.6\n"


def test_the_figure_is_written_with_the_names_that_were_given(tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training_log.csv").write_text(LOG)
    file = tmp_path / "out.svg"
    words = ("curves", tmp_path / "a", tmp_path / "b", "--names", "scratch, fine-tuned", "--over", "hours")
    code, out, err = call(monkeypatch, capsys, *words, "--output", file)
    assert (code, out, err) == (0, f"written: {file}\n", "")
    text = file.read_text(encoding="utf-8")
    assert "scratch, best 0.600" in text
    assert "fine-tuned, best 0.600" in text


def test_a_folder_without_a_training_ends_with_one_message(tmp_path, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "curves", tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path}: holds no training_log.csv")
