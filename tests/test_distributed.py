"""Ranks of processes that train together, and of one that is alone."""

import pytest
import torch
from forked_processes import in_two_processes, joined
from torch import distributed as dist

from mednextv2.distributed import (
    is_main_process,
    join_processes,
    leave_processes,
    process_rank,
    staying_joined,
    sum_over_processes,
)


def one_process_of_two(rank, folder):
    """Return what the functions say before, within and after a group of two processes."""
    said = [(process_rank(), is_main_process())]
    with joined(rank, folder):
        said.append((process_rank(), is_main_process()))
    return [*said, (process_rank(), is_main_process())]


def test_only_rank_0_of_two_processes_is_the_main_one(tmp_path):
    first, second = in_two_processes(one_process_of_two, tmp_path)
    alone = (0, True)
    assert first == [alone, (0, True), alone]
    assert second == [alone, (1, False), alone]


def test_processes_stay_joined_between_two_trainings(monkeypatch, tmp_path):
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "0"), ("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    joined = []
    init = dist.init_process_group
    monkeypatch.setattr(dist, "init_process_group", lambda **settings: (joined.append(settings), init(**settings)))
    with staying_joined():
        join_processes("gloo")
        leave_processes()
    assert dist.is_initialized()
    join_processes("gloo")
    leave_processes()
    assert not dist.is_initialized()
    assert joined == [{"backend": "gloo"}]


def test_a_pytorch_without_processes_is_alone(monkeypatch):
    monkeypatch.setattr(dist, "is_available", lambda: False)
    monkeypatch.setattr(dist, "is_initialized", lambda: pytest.fail("does not exist there"))
    assert process_rank() == 0
    assert is_main_process()


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_sum_over_processes_is_an_operator_with_a_gradient(group):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(sum_over_processes, (x,))
    assert torch.autograd.gradcheck(sum_over_processes, x)
    assert torch.autograd.gradgradcheck(sum_over_processes, x)
