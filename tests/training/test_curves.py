"""TensorBoard's own reader finds the curves."""

import resource

import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardStatsHandler

from mednextv2.training.curves import CurveWriter

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def curves(folder):
    found = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, round(e.value, 5)) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_curves_are_found_by_tensorboard(tmp_path):
    writer = CurveWriter(tmp_path / "new" / "out")
    for step, value in enumerate((0.5, 0.25, 0.125), start=1):
        writer.add_scalar("loss", torch.tensor(value), step)
        writer.add_scalar("dice", 1 - value, global_step=step)
    writer.flush()
    assert curves(tmp_path / "new" / "out") == {
        "loss": [(1, 0.5), (2, 0.25), (3, 0.125)],
        "dice": [(1, 0.5), (2, 0.75), (3, 0.875)],
    }
    writer.close()
    writer.add_scalar("loss", 3, 4)
    assert len(curves(tmp_path / "new" / "out")["loss"]) == 3


def test_monai_s_handler_writes_with_it(tmp_path):
    engine = Engine(lambda engine, batch: batch)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: engine.state.metrics.update(val_dice=engine.state.epoch / 4)
    )
    TensorBoardStatsHandler(summary_writer=CurveWriter(tmp_path), iteration_log=False).attach(engine)
    engine.run([0], max_epochs=3)
    assert curves(tmp_path) == {"val_dice": [(1, 0.25), (2, 0.5), (3, 0.75)]}
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_is_made_before_the_first_value(tmp_path):
    CurveWriter(tmp_path / "none").close()
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_costs_the_curves_alone(tmp_path, caplog):
    (tmp_path / "file").touch()
    writer = CurveWriter(tmp_path / "file" / "out")
    for step in range(3):
        writer.add_scalar("loss", 1.0, step)
    assert caplog.text.count("no more TensorBoard curves (Not a directory)") == 1


def test_a_full_disk_costs_the_curves_alone(tmp_path, caplog):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250, before[1]))
    try:
        writer = CurveWriter(tmp_path)
        for step in range(20):
            writer.add_scalar("loss", step, step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caplog.text.count(f"{tmp_path}: no more TensorBoard curves (File too large); scores are in the CSV") == 1
    found = curves(tmp_path)["loss"]
    assert found == [(step, step) for step in range(len(found))]
    assert 1 < len(found) < 20


def test_a_disk_without_any_room_has_no_empty_file(tmp_path, caplog):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        CurveWriter(tmp_path).add_scalar("loss", 1, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no more TensorBoard curves" in caplog.text
    assert not any(tmp_path.iterdir())


def test_another_process_of_a_training_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("mednextv2.training.curves.is_main_process", lambda: False)
    CurveWriter(tmp_path).add_scalar("loss", 1, 1)
    assert not any(tmp_path.iterdir())
