"""Pictures of reconstructions."""

import io
import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from matplotlib import image as matplotlib_image
from torch import nn

from mednextv2.data import CaseStore, FixedPatches, ImagePatches
from mednextv2.training import BlockMasks, CurveWriter, ReconstructionPictures
from mednextv2.training.reconstruction_pictures import draw_reconstruction, file_name, pictures_of

PATCH = (16, 16, 16)


class Half(nn.Module):
    """An autoencoder that returns half of the image, and tells whether it was in evaluation mode."""

    def forward(self, image, visible):
        assert not self.training
        return image / 2


def read(file):
    return np.round(matplotlib_image.imread(file) * 255).astype(np.uint8)


def test_a_picture_has_a_row_for_each_plane_and_four_columns():
    image = np.zeros((4, 6, 8))
    image[:, :, :] = np.linspace(0, 1, 8)  # brighter towards superior
    visible = np.zeros(image.shape, bool)
    visible[:2] = True  # the patient's right half is hidden
    grey = draw_reconstruction(image, visible, 1 - image)
    repeat, gap, width = 20, 4, 6 * 20 + 4  # 160 pixels for 8 voxels
    assert grey.shape == ((6 + 8 + 8) * repeat + 2 * gap, 4 * width - gap)
    coronal = grey[6 * repeat + gap :][: 8 * repeat]
    column = [coronal[:, i * width : i * width + 4 * repeat] for i in range(4)]
    top, bottom = (lambda panel: panel[0, 0], lambda panel: panel[-1, 0])
    assert (top(column[0]), bottom(column[0])) == (255, 0)  # superior is at the top
    assert (top(column[3]), bottom(column[3])) == (0, 255)
    hidden, seen = slice(0, 2 * repeat), slice(2 * repeat, 4 * repeat)  # the patient's right is on the left-hand side
    assert not column[1][:, hidden].any()
    assert (column[1][:, seen] == column[0][:, seen]).all()
    assert (column[2][:, hidden] == column[3][:, hidden]).all()
    assert (column[2][:, seen] == column[0][:, seen]).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_sides_are_where_radiologists_expect_them(axis):
    image = np.zeros((4, 4, 4))
    image[tuple(slice(2, None) if a == axis else slice(None) for a in range(3))] = 1  # the right, or the anterior half
    axial = draw_reconstruction(image, image > 5, image)[:160, :160]
    bright, dark = (axial[:, :80], axial[:, 80:]) if axis == 0 else (axial[:80], axial[80:])
    assert (bright == 255).all()
    assert not dark.any()


@pytest.fixture
def drawn(tmp_path):
    """A function that trains for some epochs and draws."""
    items = []
    for name, seed in (("a", 0), ("b c/d", 1)):
        np.save(tmp_path / f"{seed}.npy", np.random.default_rng(seed).normal(size=(1, 20, 18, 17)).astype(np.float32))
        items.append({"image": str(tmp_path / f"{seed}.npy"), "case": name})
    load = lambda item: {"image": torch.from_numpy(np.load(item["image"]))}  # noqa: E731
    items[1]["case"] = "b"
    dataset = ImagePatches(items, CaseStore(load, None, tmp_path / "s", {}), PATCH)
    masks = BlockMasks(PATCH, 8, 0.5)

    def run(epochs, done=0, **kwargs):
        network = Half().train()
        pictures = ReconstructionPictures(
            tmp_path / "out", network, dataset, FixedPatches(2, 2, 2), masks, "cpu", title="a bundle", **kwargs
        )
        engine = Engine(lambda engine, batch: None)
        pictures.attach(engine)
        engine.add_event_handler("STARTED", lambda e: setattr(e.state, "epoch", done))
        engine.run([0], max_epochs=epochs)
        assert network.training
        file = pictures_of(tmp_path / "out")
        return json.loads(file.read_text())["pictures"] if file.is_file() else []

    return run


def test_pictures_are_drawn_at_intervals_and_in_the_last_epoch(drawn, tmp_path):
    entries = drawn(5, interval=2, number=3)
    assert [entry["epoch"] for entry in entries] == [2, 2, 2, 4, 4, 4, 5, 5, 5]
    assert [entry["case"] for entry in entries[:3]] == ["a", "b", "a"]
    assert all(entry["explained"] == pytest.approx(0.75) for entry in entries)  # half of it is wrong by a half
    first = tmp_path / "out" / "pictures" / entries[0]["file"]
    assert read(first).shape[1] == 4 * (160 + 4) - 4
    same = tmp_path / "out" / "pictures" / entries[3]["file"]
    assert first != same
    assert first.read_bytes() == same.read_bytes()  # patch and mask are always the same


def test_a_training_that_goes_on_keeps_the_pictures_before_and_a_new_one_does_not(drawn):
    drawn(4, interval=1, number=1)
    assert [e["epoch"] for e in drawn(4, done=2, interval=1, number=1)] == [1, 2, 3, 4]
    assert [e["epoch"] for e in drawn(2, interval=1, number=1)] == [1, 2]


@pytest.mark.parametrize("kwargs", [{"interval": 0}, {"number": 0}])
def test_no_pictures(drawn, kwargs):
    assert drawn(2, **kwargs) == []


def test_tensorboard_shows_them(drawn, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = CurveWriter(tmp_path / "events")
    entries = drawn(2, interval=1, number=1, curves=curves)
    curves.close()
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    images = events.Images("reconstruction/a_patch_0")
    assert [event.step for event in images] == [1, 2]
    file = tmp_path / "out" / "pictures" / entries[0]["file"]
    assert images[0].encoded_image_string == file.read_bytes()
    assert (images[0].height, images[0].width) == read(io.BytesIO(file.read_bytes())).shape[:2]


def test_names_of_files_hold_no_folders():
    assert file_name("a/b c:d.e-1") == "a_b_c_d.e-1"
