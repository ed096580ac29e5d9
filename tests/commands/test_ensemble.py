"""`mednextv2 ensemble`: what it prints of a cross-validation."""

from cross_validation_helpers import make_folds
from verb_helpers import call_verb, refusal


def test_the_verb_prints_scores_and_verdicts(tmp_path):
    bundle = make_folds(tmp_path)
    code, out, _ = call_verb("ensemble", *bundle)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("class")
    assert any(line.startswith("largest component of foreground: Dice 0.9") for line in lines)
    verdicts = [line.rsplit(": ", 1)[1] for line in lines if line.startswith("largest component")]
    assert verdicts == ["kept", "not kept", "not kept"]
    assert lines[-1].split() == ["mednextv2", "report", str(bundle[0] / "output" / "evaluation" / "cross_validation")]


def test_folds_that_are_missing_end_in_one_message(tmp_path):
    root, data = make_folds(tmp_path)
    (root / "models" / "fold_2" / "model.pt").unlink()
    message = refusal("ensemble", root, data)
    assert message.splitlines() == [
        f"error: {root}: the cross-validation is not complete",
        f"fold 2 is not trained: mednextv2 run {root} train --dataset_dir {data} --fold 2",
    ]


def test_label_maps_may_lie_elsewhere(tmp_path):
    root, data = make_folds(tmp_path)
    expected = call_verb("ensemble", root, data)[1]
    (data / "dataset.json").unlink()
    images, labels = (data / "imagesTr").rename(tmp_path / "images"), (data / "labelsTr").rename(tmp_path / "labels")
    code, out, err = call_verb("ensemble", root, images, "--labels_dir", labels)
    assert (code, out) == (0, expected), err
