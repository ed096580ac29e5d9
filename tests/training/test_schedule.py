import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import PolynomialLR

from mednextv2.training import OPTIMIZERS, create_optimizer, warmup_poly


def make_optimizer(*rates):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def rates(optimizer, scheduler, epochs):
    """The learning rate of each epoch: the schedule is stepped at its end."""
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("epochs", [1, 2, 10, 1000])
@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_without_warmup_it_is_torchs_polynomial_schedule(epochs, power):
    ours, theirs = make_optimizer(0.01), make_optimizer(0.01)
    found = rates(ours, warmup_poly(ours, epochs, power=power), epochs)
    assert found == pytest.approx(rates(theirs, PolynomialLR(theirs, epochs, power), epochs), rel=1e-9)
    assert found[0] == 0.01


def test_power_is_that_of_nnunet_unless_told():
    optimizer = make_optimizer(1.0)
    assert rates(optimizer, warmup_poly(optimizer, 4), 4) == pytest.approx([1, 0.75**0.9, 0.5**0.9, 0.25**0.9])


def test_warmup_is_linear_up_to_the_peak_and_the_decay_starts_there():
    optimizer = make_optimizer(2.0)
    found = rates(optimizer, warmup_poly(optimizer, 10, warmup_epochs=3, power=0.9), 10)
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert found[3:] == pytest.approx([2 * (1 - i / 7) ** 0.9 for i in range(7)])
    assert found[3:] == sorted(found[3:], reverse=True)


@pytest.mark.parametrize("warmup", [0, 1, 5, 19, 20, 50])
@pytest.mark.parametrize("epochs", [1, 2, 20])
def test_every_epoch_learns_and_one_has_the_full_rate(epochs, warmup):
    optimizer = make_optimizer(0.5)
    found = rates(optimizer, warmup_poly(optimizer, epochs, warmup), epochs)
    assert min(found) > 0
    assert max(found) == 0.5


def test_rate_is_zero_and_not_negative_after_the_end():
    optimizer = make_optimizer(0.5)
    scheduler = warmup_poly(optimizer, 3)
    rates(optimizer, scheduler, 3)
    assert optimizer.param_groups[0]["lr"] == 0
    rates(optimizer, scheduler, 2)
    assert optimizer.param_groups[0]["lr"] == 0


def test_parameter_groups_keep_their_ratio():
    optimizer = make_optimizer(1.0, 0.1)
    scheduler = warmup_poly(optimizer, 10, 2)
    for _ in range(9):
        big, small = (group["lr"] for group in optimizer.param_groups)
        assert small == pytest.approx(big / 10)
        optimizer.step()
        scheduler.step()


def test_new_layers_have_a_warm_up_of_their_own_before_that_of_all_layers():
    optimizer = make_optimizer(2.0)
    found = rates(optimizer, warmup_poly(optimizer, 12, 3, new_layers_epochs=2), 12)
    rising = [2 / 3, 4 / 3]  # a third and two thirds of the peak of 2
    again = [0.5, 1.0, 1.5]
    falling = [2 * ((7 - n) / 7) ** 0.9 for n in range(7)]
    assert found == pytest.approx([*rising, *again, *falling])


@pytest.mark.parametrize(("epochs", "first", "warmup"), [(1, 5, 5), (2, 5, 5), (5, 2, 9), (9, 0, 3), (9, 3, 0)])
def test_every_epoch_learns_with_warm_ups_of_any_length(epochs, first, warmup):
    optimizer = make_optimizer(0.5)
    found = rates(optimizer, warmup_poly(optimizer, epochs, warmup, new_layers_epochs=first), epochs)
    assert min(found) > 0
    assert max(found) == 0.5


@pytest.mark.parametrize("stop", [1, 2, 5, 9])
def test_schedule_goes_on_from_its_saved_state(tmp_path, stop):
    whole = make_optimizer(1.0)
    expected = rates(whole, warmup_poly(whole, 10, 3), 10)
    first = make_optimizer(1.0)
    scheduler = warmup_poly(first, 10, 3)
    found = rates(first, scheduler, stop)
    torch.save({"optimizer": first.state_dict(), "schedule": scheduler.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = make_optimizer(1.0)
    scheduler = warmup_poly(second, 10, 3)
    second.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["schedule"])
    assert found + rates(second, scheduler, 10 - stop) == expected


# --- the optimizer ---------------------------------------------------------------------------------------------------


def test_adamw_is_mednexts():
    optimizer = create_optimizer("adamw", [nn.Parameter(torch.ones(3))], 1e-3)
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 1e-4, 3e-5)


def test_sgd_is_nnunets():
    optimizer = create_optimizer("sgd", [nn.Parameter(torch.ones(3))], 1e-2)
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (1e-2, 0.99, True, 3e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_call_updates_all_parameters(name):
    (group,) = create_optimizer(name, [nn.Parameter(torch.ones(3))], 1e-3).param_groups
    assert group["fused"] is True


def test_other_optimizers_are_refused():
    with pytest.raises(ValueError, match="'adam' is none of adamw, sgd"):
        create_optimizer("adam", [nn.Parameter(torch.ones(3))], 1e-3)
