import importlib.util
import logging
import sys

import pytest
import torch
from handler_helpers import Scripted, batches, make_evaluator, make_trainer
from monai.handlers import ValidationHandler
from torch import nn

from mednextv2.training import EarlyStopping, GradientClipping, step_loss, tensorboard_available

# --- GradientClipping ------------------------------------------------------------------------------------------------


def one_step(max_norm, scale, amp=False):
    """Train one step of plain gradient descent at rate 1: the change of the weights is the gradient."""
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    handlers = [GradientClipping(network, optimizer, max_norm)] if max_norm else []
    make_trainer(network, optimizer, handlers, data=batches(1, scale), amp=amp).run()
    return nn.utils.parameters_to_vector(network.parameters()).detach() - before


@pytest.mark.parametrize("max_norm", [0.5, 12.0])
def test_large_gradients_are_clipped_to_the_largest_norm(max_norm):
    free, clipped = one_step(None, 100.0), one_step(max_norm, 100.0)
    assert free.norm() > 1000
    assert clipped.norm().item() == pytest.approx(max_norm, rel=1e-4)
    assert torch.allclose(clipped / clipped.norm(), free / free.norm(), atol=1e-5)  # the direction stays


def test_small_gradients_stay_as_they_are():
    free, clipped = one_step(None, 0.1), one_step(12.0, 0.1)
    assert 0 < free.norm() < 12
    assert torch.equal(free, clipped)


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_scaled_gradients_of_half_precision_are_unscaled_before_they_are_clipped(monkeypatch, scale):
    expected = one_step(12.0, scale)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: scaler)
    assert torch.allclose(one_step(12.0, scale, amp=True), expected, atol=1e-5)
    assert scaler.get_scale() == 1024.0


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def pretend(monkeypatch, tmp_path, *modules):
    """Make Python find these modules, `name=its code`, before those that are installed, and none that was imported."""
    for module in modules:
        name, code = module.split("=", 1)
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)


def test_missing_tensorboard_is_said_with_the_remedy(monkeypatch, caplog):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else real(name))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # its import fails, as without the package
    with caplog.at_level(logging.WARNING, "mednextv2"):
        assert tensorboard_available() is False
    assert "it is not installed: pip install tensorboard." in caplog.text


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ModuleNotFoundError('No module named google')", "ModuleNotFoundError: No module named google"),
        ("raise TypeError('old')", "TypeError: old"),
        ("__version__ = '1.0'", "requires TensorBoard version 1.15 or above"),
    ],
)
def test_broken_tensorboard_is_said_with_the_reason(monkeypatch, caplog, tmp_path, code, reason):
    pretend(monkeypatch, tmp_path, f"tensorboard={code}")
    with caplog.at_level(logging.WARNING, "mednextv2"):
        assert tensorboard_available() is False
    assert "it cannot be imported" in caplog.text
    assert reason in caplog.text
    assert "pip install --force-reinstall tensorboard" in caplog.text


def test_tensorboard_is_found(caplog):
    assert tensorboard_available() is True
    assert caplog.text == ""


# --- EarlyStopping and the loss of a step ----------------------------------------------------------------------------


def epochs_of_a_training(patience, *scores):
    """How many epochs a training takes whose validations score like this."""
    network = nn.Linear(3, 1)
    evaluator = make_evaluator(score=Scripted(*scores))
    handlers = [ValidationHandler(validator=evaluator, interval=1), EarlyStopping(evaluator, patience)]
    trainer = make_trainer(network, torch.optim.SGD(network.parameters(), lr=0.0), handlers, epochs=len(scores))
    trainer.run()
    return trainer.state.epoch


def test_training_ends_so_many_epochs_after_the_best_validation():
    assert epochs_of_a_training(2, 0.1, 0.5, 0.4, 0.4, 0.6, 0.7) == 4
    assert epochs_of_a_training(3, 0.1, 0.5, 0.4, 0.4, 0.6, 0.5) == 6


def test_training_goes_on_without_patience():
    assert epochs_of_a_training(0, 0.5, 0.1, 0.1, 0.1, 0.1) == 5


def test_loss_of_a_step_is_found_in_every_form_of_output():
    loss = torch.tensor(0.5, requires_grad=True)
    for output in ({"loss": loss}, [{"loss": loss}, {"loss": loss}]):
        assert isinstance(step_loss(output), torch.Tensor)  # not read
        assert step_loss(output) == 0.5
        assert not step_loss(output).requires_grad
    assert step_loss({"loss": 0.5}) == 0.5
    assert step_loss({"pred": loss}) is None
    assert step_loss([]) is None
    assert step_loss(None) is None
