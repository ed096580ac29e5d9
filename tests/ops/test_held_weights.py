"""What is made of weights, kept while nobody changes them, and made anew otherwise."""

import gc
import threading
import weakref

import pytest
import torch

from mednextv2.ops.held_weights import hold_weights, holding, kept


class Maker:
    """Counts how often it made something."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return torch.full((2,), float(self.calls))


@pytest.fixture
def make():
    return Maker()


@pytest.fixture
def weight():
    return torch.nn.Parameter(torch.randn(3, 3))


def test_without_a_promise_everything_is_made_anew(make, weight):
    results = [kept("folded", weight, (weight,), make, True) for _ in range(2)]
    assert not holding()
    assert make.calls == 2
    assert not torch.equal(*results)


def test_within_a_promise_it_is_made_once(make, weight):
    with hold_weights():
        assert holding()
        first = kept("folded", weight, (weight,), make, True)
        assert kept("folded", weight, (weight,), make, True) is first
        assert kept("folded", weight, (weight.view(9)[:],), make, True) is first  # a view is as good
    assert make.calls == 1
    assert not holding()


def test_another_promise_makes_it_anew(make, weight):
    for _ in range(2):
        with hold_weights():
            kept("folded", weight, (weight,), make, True)
    assert make.calls == 2


def test_results_are_told_apart_by_name_owner_and_sources(make, weight):
    bias = torch.nn.Parameter(torch.zeros(3))
    with hold_weights():
        kept("folded", weight, (weight,), make, True)
        kept("taps", weight, (weight,), make, True)
        kept("folded", bias, (weight,), make, True)
        assert make.calls == 3
        kept("folded", weight, (weight, bias), make, True)  # of other sources
        kept("folded", weight, (weight.detach().clone(), bias), make, True)  # on other memory
        assert make.calls == 5
        kept("taps", weight, (weight,), make, True)
    assert make.calls == 5


def test_what_is_not_wanted_is_neither_kept_nor_looked_up(make, weight):
    with hold_weights():
        first = kept("folded", weight, (weight,), make, True)
        assert kept("folded", weight, (weight,), make, False) is not first
        assert kept("folded", weight, (weight,), make, True) is first
    assert make.calls == 2


def test_an_inner_promise_is_part_of_the_outer_one(make, weight):
    with hold_weights():
        first = kept("folded", weight, (weight,), make, True)
        for held in (True, False):
            with hold_weights(held):
                assert kept("folded", weight, (weight,), make, True) is first
        assert holding()
        assert kept("folded", weight, (weight,), make, True) is first
    assert make.calls == 1


def test_no_promise_is_none(make, weight):
    with hold_weights(False):
        assert not holding()
        with hold_weights():
            assert holding()
        assert not holding()
        for _ in range(2):
            kept("folded", weight, (weight,), make, True)
    assert make.calls == 2


def test_a_failure_ends_the_promise():
    with pytest.raises(RuntimeError, match="a test"), hold_weights():
        raise RuntimeError("a test")
    assert not holding()


def test_the_promise_is_that_of_one_thread():
    found = []
    with hold_weights():
        thread = threading.Thread(target=lambda: found.append(holding()))
        thread.start()
        thread.join()
        assert holding()
    assert found == [False]


def test_what_was_kept_is_freed_with_the_promise_and_with_its_owner(make, weight):
    def keep(owner):
        return weakref.ref(kept("folded", owner, (owner,), make, True))

    with hold_weights():
        first, other = keep(weight), torch.nn.Parameter(torch.zeros(1))
        second = keep(other)
        gc.collect()
        assert first() is not None
        assert second() is not None
        del other
        gc.collect()
        assert first() is not None
        assert second() is None
    gc.collect()
    assert first() is None


class OnGpu(torch.Tensor):
    """A weight that says it is on a GPU."""

    is_cuda = True
    device = torch.device("cuda", 0)


class Stream:
    def __init__(self, number):
        self.cuda_stream = number


def test_a_graph_that_is_recorded_computes_for_itself_and_streams_do_not_share(make, monkeypatch):
    weight, state = torch.zeros(3).as_subclass(OnGpu), {"capturing": False, "stream": 1}
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state["capturing"])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(state["stream"]))
    with hold_weights():
        for capturing, stream, calls in [
            (False, 1, 1),
            (False, 1, 1),
            (True, 1, 2),
            (True, 1, 3),
            (False, 1, 3),
            (False, 2, 4),
        ]:
            state.update(capturing=capturing, stream=stream)
            kept("folded", weight, (weight,), make, True)
            assert make.calls == calls
