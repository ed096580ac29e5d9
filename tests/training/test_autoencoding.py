"""Masked autoencoding in MONAI's engines."""

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from mednextv2.nets import MaskedAutoencoder
from mednextv2.training import (
    AutoencodingLoss,
    BlockMasks,
    MaskSteps,
    PackedAutoencoder,
    ReconstructedChannels,
    ReconstructionError,
    TrainingMasks,
    ValidationMasks,
)
from mednextv2.training.autoencoding import errors, hidden_sums, pack

PATCH = (8, 4, 8)


@pytest.fixture
def masks():
    return BlockMasks(PATCH, (4, 2, 4), 0.5, seed=3)


def batch(count=3, seed=0):
    torch.manual_seed(seed)
    return {"image": torch.randn(count, 1, *PATCH), "number": torch.arange(7, 7 + count)}


def test_outputs_are_those_of_the_image():
    scheme = ReconstructedChannels(["T1", "T2"])
    assert (scheme.outputs, scheme.legend) == (2, ["reconstruction of T1", "reconstruction of T2"])


def test_a_packed_autoencoder_computes_what_the_autoencoder_does(masks):
    torch.manual_seed(0)
    autoencoder = MaskedAutoencoder(nn.Conv3d(1, 1, 3, padding=1))
    image, visible = batch()["image"], masks.training(0, range(3))
    packed = PackedAutoencoder(autoencoder, masks.block_size)
    torch.testing.assert_close(packed(pack(image, visible)), autoencoder(image, visible), rtol=0, atol=0)
    assert set(packed.state_dict()) == {f"autoencoder.{name}" for name in autoencoder.state_dict()}


def test_masks_of_a_step_are_those_of_its_number(masks):
    """A training that goes on at a step has the masks that it would have had."""
    prepare, seen = TrainingMasks(masks), []
    engine = Engine(lambda engine, data: seen.append(prepare(data)[1][1]))
    MaskSteps(prepare).attach(engine)
    engine.run([batch()] * 4, max_epochs=2)
    assert len(seen) == 8
    for step, visible in enumerate(seen):
        assert torch.equal(visible, masks.training(step, range(3)))
    later = Engine(lambda engine, data: seen.append(prepare(data)[1][1]))
    MaskSteps(prepare).attach(later)
    later.add_event_handler(
        "STARTED", lambda engine: (setattr(engine.state, "epoch", 1), setattr(engine.state, "iteration", 4))
    )
    later.run([batch()] * 4, max_epochs=2)
    assert torch.equal(seen[8], seen[4])


def test_processes_have_other_masks_in_a_step(masks, monkeypatch):
    monkeypatch.setattr("mednextv2.training.autoencoding.process_rank", lambda: 2)
    visible = TrainingMasks(masks)(batch())[1][1]
    assert torch.equal(visible, masks.training(0, range(6, 9)))


def test_masks_of_a_validation_depend_on_the_number_of_the_patch(masks):
    x, (image, visible) = ValidationMasks(masks)(batch())
    assert torch.equal(visible, masks.validation([7, 8, 9]))
    assert torch.equal(x[:, :1], image)
    assert torch.equal(ValidationMasks(masks)(batch(seed=1))[1][1], visible)


def test_errors_are_those_of_a_plain_computation(masks):
    image, visible = batch()["image"], masks.training(0, range(3))
    made = image + torch.randn_like(image) / 2
    hidden = ~visible.repeat_interleave(4, 1).repeat_interleave(2, 2).repeat_interleave(4, 3)[:, None]
    for index in range(3):
        difference, content = (part[index][hidden[index]].double() for part in (made - image, image))
        error, explained = errors(hidden_sums(made, image, visible)[index])
        assert error == pytest.approx(float(difference.square().mean()))
        assert explained == pytest.approx(1 - float(difference.square().sum() / content.square().sum()))
    assert float(AutoencodingLoss()(made, (image, visible))) == pytest.approx(
        float((made - image)[hidden].square().mean()), rel=1e-6
    )


def test_the_mean_explains_nothing_and_the_image_everything(masks):
    image, visible = batch()["image"], masks.training(0, range(3))
    assert errors(hidden_sums(torch.zeros_like(image), image, visible).sum(0))[1] == pytest.approx(0)
    assert errors(hidden_sums(image, image, visible).sum(0)) == (0, 1)


def test_the_metric_is_that_of_all_patches(masks):
    image, visible = batch(5)["image"], masks.training(0, range(5))
    made = image + torch.randn_like(image)
    metric = ReconstructionError()
    for part in (slice(0, 2), slice(2, 5)):  # batches of different sizes
        metric.update((made[part], (image[part], visible[part])))
    engine = Engine(lambda engine, data: None)
    metric.completed(engine, "val_loss")
    wanted = errors(hidden_sums(made, image, visible).sum(0))
    assert (metric.compute(), engine.state.metrics["val_loss"], engine.state.metrics["val_explained"]) == pytest.approx(
        (wanted[0], *wanted)
    )
    metric.reset()
    metric.update((image, (image, visible)))
    assert metric.compute() == 0
