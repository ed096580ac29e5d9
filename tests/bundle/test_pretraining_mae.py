"""The bundle for masked autoencoding, end to end."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from bundle_helpers import ROOT, read_csv, run_python
from cuda_stand_in import StandIn
from pretraining_runs import Pretraining
from test_full_disk import room_for
from verb_helpers import call_verb

from mednextv2.errors import find_input_error
from mednextv2.nets import create_mednext
from mednextv2.weights import load_pretrained, load_weights, read_about


@pytest.fixture(scope="module")
def images(small_phantom):
    return small_phantom


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A training of two epochs, with pictures."""
    settings = {"epochs": 2, "iterations_per_epoch": 2, "picture_interval": 1, "pictures": 2}
    return Pretraining("train", tmp_path_factory.mktemp("mae"), dataset_dir=images, **settings).run()


def refused(*args, **kwargs):
    """Return the message of a run that must end before the training writes anything."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  MONAI wraps it
        Pretraining("train", *args, **kwargs).run()
    error = find_input_error(caught.value)
    assert error is not None, caught.value
    assert not [file for file in (Path(args[0]) / "out").rglob("*") if file.suffix in (".pt", ".csv")]
    return str(error)


def test_a_training_writes_weights_curves_pictures_and_the_split(trained):
    assert {"epoch", "learning_rate", "train_loss", "val_loss", "val_explained"} <= {*trained.log[0]}
    assert [row[0] for row in trained.log[1:]] == ["1", "2"]
    names = {"model.pt", "checkpoint_latest.pt", "checkpoint_previous.pt", "training_log.csv", "splits_final.json"}
    assert names <= {file.name for file in trained.output.iterdir()}
    (fold,) = json.loads((trained.output / "splits_final.json").read_text())
    assert (len(fold["train"]), len(fold["val"])) == (3, 3)
    pictures = json.loads((trained.output / "pictures" / "pictures.json").read_text())["pictures"]
    assert [(p["epoch"], p["case"]) for p in pictures] == [(e, c) for e in (1, 2) for c in fold["val"][:2]]
    assert list(trained.output.glob("events.out.tfevents.*"))


def test_weights_are_those_of_the_ordinary_network_and_record_how_they_were_trained(trained):
    network = create_mednext("v2_tiny", out_channels=1)
    load_weights(network, trained.output / "model.pt")
    about = read_about(trained.output / "model.pt")
    assert (about["objective"], about["dataset"]) == ("masked autoencoding", "Task04_Hippocampus")
    assert about["labels"] == ["reconstruction of image"]
    assert about["settings"]["form"] == "dense"
    assert (about["settings"]["block_size"], about["settings"]["mask_ratio"]) == (8, 0.75)
    assert len(about["images"]) == len(about["validation"]) == 3
    whole = trained.load("checkpoint_latest.pt")["model"]
    assert set(whole) == {f"autoencoder.network.{name}" for name in network.state_dict()}


def test_the_lowest_validation_loss_chooses_the_weights(images, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr("mednextv2.training.autoencoding.errors", lambda sums: (next(losses), 0.0))
    work = Pretraining("train", tmp_path, dataset_dir=images, epochs=3).run()
    assert work["validate::evaluator"].state.best_metric_epoch == 2
    assert read_about(work.output / "model.pt")["epoch"] == 2


def test_a_training_that_was_interrupted_goes_on(images, tmp_path):
    Pretraining("train", tmp_path, dataset_dir=images, picture_interval=1, seed=3).run()
    before = torch.load(tmp_path / "out" / "checkpoint_latest.pt", weights_only=True)
    work = Pretraining("train", tmp_path, dataset_dir=images, picture_interval=1, epochs=3, seed=3)
    steps = []
    work.workflow.initialize()
    draw = work["masks"].training
    work["masks"].training = lambda step, samples: (steps.append(step), draw(step, samples))[1]
    work.workflow.run()
    assert before["epoch"] == 1
    assert [row[0] for row in work.log[1:]] == ["1", "2", "3"]
    assert steps == [1, 2]  # masks go on where they were
    pictures = json.loads((work.output / "pictures" / "pictures.json").read_text())["pictures"]
    assert sorted({p["epoch"] for p in pictures}) == [1, 2, 3]


def test_validation_is_the_same_every_time(trained, images, tmp_path):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # what a training before it does to random numbers
        work = Pretraining("train", tmp_path, dataset_dir=images, val_iterations=3)
        load_weights(work["network_def"], trained.output / "model.pt")
        work["validate::evaluator"].run()
        found.append(work["validate::evaluator"].state.metrics["val_loss"])
    assert found[0] == found[1]


@pytest.mark.parametrize("form", ["sparse", "tokens", "s3d"])
def test_sparse_forms_train_and_only_the_ordinary_network_is_kept(images, tmp_path, form):
    work = Pretraining("train", tmp_path, dataset_dir=images, form=form).run()
    load_weights(create_mednext("v2_tiny", out_channels=1), work.output / "model.pt")
    whole = work.load("checkpoint_latest.pt")["model"]
    assert any("densification" in name for name in whole) == (form != "sparse")
    begun = create_mednext("v2_tiny", out_channels=1)
    report = load_pretrained(begun, work.output / "checkpoint_latest.pt", 1, 1)
    assert (report.new, report.unused) == ({}, {})
    assert all(torch.equal(begun.state_dict()[k], v) for k, v in work.load("model.pt").items())
    again = Pretraining("train", tmp_path, dataset_dir=images, form=form, epochs=2).run()
    assert [row[0] for row in again.log[1:]] == ["1", "2"]


@pytest.mark.parametrize("form", ["dense", "s3d"])
def test_resenc_l_trains(images, tmp_path, form):
    pytest.importorskip("dynamic_network_architectures")
    settings = {"network_filters": 4, "optimizer_name": "sgd", "learning_rate": 1e-2, "warmup_epochs": 0, "form": form}
    work = Pretraining("train", tmp_path, "resenc_l", dataset_dir=images, spacing=None, **settings).run()
    about = read_about(work.output / "model.pt")
    assert (about["network"], about["settings"]["network_filters"]) == ("resenc_l", 4)
    assert set(work.load("model.pt")) == set(work["network_def"].state_dict())


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_the_doubled_batch(images, tmp_path):
    runs = ["mednext,dense", "mednext,s3d"]
    script = Path(__file__).with_name("pretraining_runs.py")
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    alone = run_python(script, images, tmp_path, *runs, cwd=tmp_path, PYTHONPATH=path, OMP_NUM_THREADS="1")
    assert alone.returncode == 0, alone.stderr[-3000:]
    both = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script, images, tmp_path, *runs,
        cwd=tmp_path, PYTHONPATH=path, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert both.returncode == 0, both.stderr[-3000:]
    for run in runs:
        one, two = (
            torch.load(tmp_path / f"{workflow}_{run.replace(',', '_')}.pt", weights_only=True)
            for workflow in ("train", "multi_gpu_train")
        )
        assert len(one) > 50
        scale = max(float(gradient.abs().max()) for gradient in one.values())
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4 * scale)


def test_a_training_does_not_start_with_what_cannot_work(images, tmp_path):
    for settings, message in [
        ({"block_size": 12}, "block_size 12: a patch of 16×16×16 voxels is not a multiple of it"),
        ({"mask_ratio": 1.0}, "a mask would hide everything"),
        ({"mask_ratio": 0.01}, "a mask would hide nothing"),
        ({"mask_ratio": [0.9, 0.6]}, "should be a number such as 0.75, or a range"),
        ({"block_size": 16}, "a mask would hide everything or nothing"),
        ({"form": "s4d"}, "form 's4d': should be one of dense, sparse, tokens, s3d"),
        ({"patch_size": [16, 16]}, "patch_size [16, 16]: should have 3 numbers"),
        ({"defective": "maybe"}, "defective 'maybe': should be stop or exclude"),
        ({"several_channels": "maybe"}, "several_channels 'maybe': should be refuse or split"),
        ({"dataset_dir": tmp_path / "none"}, "there is no such folder"),
        ({"splits": tmp_path / "none.json"}, "there is no such file"),
    ]:
        assert message in refused(tmp_path, **{"dataset_dir": images, **settings}), settings


def test_a_form_that_a_network_does_not_have_is_refused_before_images_are_read(tmp_path):
    message = refused(tmp_path, "segresnet", dataset_dir=tmp_path / "none", form="s3d", network_filters=8)
    assert "form 's3d'" in message
    assert "no such folder" not in message


def test_images_that_cannot_be_used_are_refused(images, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "empty").mkdir()
    shutil.copy(images / "imagesTr" / "phantom_000.nii.gz", tmp_path / "one" / "a.nii.gz")
    assert "holds no images" in refused(tmp_path, dataset_dir=tmp_path / "empty")
    assert "1 image of one patient" in refused(tmp_path, dataset_dir=tmp_path / "one")
    (tmp_path / "one" / "b.nii.gz").write_bytes(b"x")
    assert "1 image of 2 cannot be used" in refused(tmp_path, dataset_dir=tmp_path / "one")


def test_a_full_disk_is_one_message(images, tmp_path):
    Pretraining("train", tmp_path, dataset_dir=images)["store"].prepare([])  # folders that exist
    with room_for(20_000):
        message = refused(tmp_path, dataset_dir=images)
    assert "cannot be written" in message
    assert "make room" in message


# ----------------------------------------------------------------------------------------------- evaluation and report


def test_held_out_images_are_evaluated(trained, images, tmp_path):
    weights = trained.output / "model.pt"
    work = Pretraining("evaluate", tmp_path, dataset_dir=images, weights=weights, pictures=2).run()
    rows = read_csv(work.output / "cases.csv")
    assert [row["case"] for row in rows] == sorted(read_about(weights)["validation"])
    assert len(list((work.output / "pictures").glob("*.png"))) == 2
    again = Pretraining("evaluate", tmp_path, dataset_dir=images, weights=weights, pictures=0, batch_size=3).run()
    for first, second in zip(rows, read_csv(again.output / "cases.csv"), strict=True):
        assert float(first["mean_squared_error"]) == pytest.approx(float(second["mean_squared_error"]), rel=1e-3)
    everything = Pretraining("evaluate", tmp_path, dataset_dir=images, weights=weights, score_trained_cases=True).run()
    assert len(read_csv(everything.output / "cases.csv")) == 6
    code, out, _ = call_verb("report", work.output)
    assert (code, Path(out.strip()).name) == (0, "report.html")


def test_a_sparse_form_is_evaluated_with_its_checkpoint(images, tmp_path):
    trained = Pretraining("train", tmp_path, dataset_dir=images, form="s3d").run()
    settings = {"dataset_dir": images, "output_dir": tmp_path / "evaluation"}
    latest = trained.output / "checkpoint_latest.pt"
    work = Pretraining("evaluate", tmp_path, weights=latest, **settings).run()
    assert work["form"] == "s3d"  # of the record
    assert len(read_csv(work.output / "cases.csv")) == 3
    with pytest.raises(RuntimeError) as caught:  # of MONAI, around the message
        Pretraining("evaluate", tmp_path, weights=trained.output / "model.pt", **settings).run()
    assert "holds only the ordinary network" in str(find_input_error(caught.value))


def test_a_training_is_the_same_with_and_without_recording(images, tmp_path, monkeypatch):
    found = []
    for recorded in (False, True):
        cuda = StandIn(monkeypatch) if recorded else None
        work = Pretraining(
            "train", tmp_path, dataset_dir=images, output_dir=tmp_path / str(recorded), cuda_graph=recorded,
            iterations_per_epoch=3, val_iterations=3,
        ).run()  # fmt: skip
        losses = [[row[work.log[0].index(name)] for name in ("train_loss", "val_loss")] for row in work.log]
        found.append((work.load("model.pt"), losses))
    assert cuda.captured == 2 + 1
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0)
    assert found[1][1] == found[0][1]


def test_the_weights_start_a_fine_tuning(trained, images, tmp_path):
    code, _, err = call_verb(
        "run", "mednextv2_hippocampus", "finetune", "--dataset_dir", images, "--pretrained",
        trained.output / "model.pt", "--patch_size", "[16,16,16]", "--batch_size", "2", "--epochs", "1",
        "--iterations_per_epoch", "1", "--val_iterations", "1", "--num_workers", "0", "--learning_rate", "1e-9",
        "--output_dir", tmp_path / "out", "--prepared_dir", tmp_path / "prepared",
    )  # fmt: skip
    assert code == 0, err
    old = torch.load(trained.output / "model.pt", weights_only=True)
    new = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    body = [name for name in old if not name.startswith("heads.")]
    assert {name for name in new if not name.startswith("heads.")} == {*body}  # encoder and decoder
    assert all(torch.allclose(new[name], old[name], atol=1e-6) for name in body)
    assert new["heads.0.weight"].shape[0] == 3
    origin = read_about(tmp_path / "out" / "model.pt")["pretrained"]
    assert origin["objective"] == "masked autoencoding"
    assert len(origin["images"]) == 3


def test_a_training_is_reported(trained):
    code, out, _ = call_verb("report", trained.output)
    assert code == 0
    assert "Reconstructions in epoch 2" in Path(out.strip()).read_text(encoding="utf-8")
