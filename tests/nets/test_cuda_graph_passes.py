"""Single recordings, with a stand-in for CUDA graphs that computes on the CPU."""

import copy
import gc

import pytest
import torch
from net_helpers import TwoHeads, loss_of, patches, train

from mednextv2.nets import CudaGraphs
from mednextv2.nets.cuda_graph_passes import Place, RecordedPass, RecordedStep

CPU, USUAL = torch.device("cpu"), (False, torch.float32)

# --- without gradients -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_pass_is_recorded_once_and_replayed_on_other_inputs(cuda):
    network, inputs = TwoHeads().eval(), patches(4)
    expected = [network(x) for x in inputs]
    network.calls = 0
    recorded = RecordedPass(network, inputs[0], Place(CPU), USUAL)
    assert (cuda.captured, cuda.replayed, cuda.warm_ups, network.calls) == (1, 0, 1, 2)
    found = [recorded(x) for x in inputs]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)  # none was overwritten by those after it
    assert (cuda.replayed, network.calls) == (4, 2)
    assert recorded.ready()
    assert not recorded.waiting()


@torch.no_grad()
def test_the_input_of_a_recording_is_left_alone(cuda):
    network, (first, second) = TwoHeads().eval(), patches(2)
    before = first.clone()
    recorded = RecordedPass(network, first, Place(CPU), USUAL)
    recorded(second)
    assert torch.equal(first, before)


@torch.no_grad()
def test_several_outputs_come_as_a_list_of_copies(cuda):
    network, inputs = TwoHeads().train(), patches(2)
    recorded = RecordedPass(network, inputs[0], Place(CPU), USUAL)
    found = [recorded(x) for x in inputs]
    torch.testing.assert_close(found, [network(x) for x in inputs], rtol=0, atol=0)


@pytest.mark.parametrize("around", [False, True])
@torch.no_grad()
def test_autocast_is_as_it_was_told_whatever_is_around(cuda, around):
    network, (x,) = TwoHeads().eval(), patches(1)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            recorded = RecordedPass(network, x, Place(CPU), (enabled, torch.bfloat16))
            found = recorded(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            torch.testing.assert_close(found, network(x), rtol=0, atol=0)


@torch.no_grad()
def test_copies_of_weights_that_autocast_made_before_are_not_recorded(cuda):
    network, (x,) = TwoHeads().eval(), patches(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=False):  # keeps autocast's cache between warm-up and capture
        recorded = RecordedPass(network, x, Place(CPU), (True, torch.bfloat16))
    for p in network.parameters():
        p.add_(0.5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(recorded(x), network(x), rtol=0, atol=0)


# --- with gradients --------------------------------------------------------------------------------------------------


def test_a_step_has_the_outputs_and_gradients_of_the_network(cuda):
    network, inputs = TwoHeads(), patches(3)
    twin = copy.deepcopy(network)
    step = RecordedStep(network, inputs[0], Place(CPU), USUAL)
    assert (cuda.captured, cuda.replayed) == (2, 0)
    assert all(p.grad is None for p in network.parameters())  # recording is no training
    for x in inputs:
        network.zero_grad(), twin.zero_grad()
        found, expected = step(x), twin(x)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        loss_of(found).backward(), loss_of(expected).backward()
        pairs = zip(network.parameters(), twin.parameters(), strict=True)
        assert all(torch.equal(p.grad, q.grad) for p, q in pairs)
    assert cuda.replayed == 2 * 3


def test_a_single_output_is_no_list(cuda):
    network, (x,) = TwoHeads().eval(), patches(1)
    step = RecordedStep(network, x, Place(CPU), USUAL)
    y = step(x)
    torch.testing.assert_close(y, network(x), rtol=0, atol=0)
    y.square().sum().backward()
    assert network.small.weight.grad is None  # takes no part in evaluation
    assert network.head.weight.grad is not None


def test_a_step_is_ready_without_gradients_of_before_and_waits_for_its_backward_pass(cuda):
    network, (x,) = TwoHeads(), patches(1)
    step = RecordedStep(network, x, Place(CPU), USUAL)
    assert (step.ready(), step.waiting()) == (True, False)
    loss = loss_of(step(x))
    assert (step.ready(), step.waiting()) == (True, True)
    loss.backward()
    assert (step.ready(), step.waiting()) == (False, False)  # a replay would write to the gradients' memory
    network.zero_grad()
    assert step.ready()


def test_the_backward_pass_of_a_forward_pass_that_was_replaced_is_refused(cuda):
    network, inputs = TwoHeads(), patches(2)
    step = RecordedStep(network, inputs[0], Place(CPU), USUAL)
    first, second = step(inputs[0]), step(inputs[1])
    with pytest.raises(RuntimeError, match="replayed once only; cuda_graph=False allows more"):
        loss_of(first).backward()
    loss_of(second).backward()  # the latest is still there


def test_a_second_derivative_is_refused(cuda):
    network, (x,) = TwoHeads(), patches(1)
    step = RecordedStep(network, x, Place(CPU), USUAL)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss_of(step(x)), parameters, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradients[0].sum().backward()


def test_the_gradients_memory_is_that_of_the_graph(cuda):
    network, graphs = TwoHeads(), CudaGraphs()
    places = []
    for x in patches(4):
        network.zero_grad()
        loss_of(graphs(network, x)).backward()
        places.append(network.body.weight.grad.data_ptr())
    assert places[1] == places[2] == places[3]


def test_a_forward_pass_without_a_backward_pass_is_forgotten(cuda):
    network, graphs, inputs = TwoHeads(), CudaGraphs(), patches(4)
    train(network, graphs, inputs[:3])
    network.zero_grad()
    outputs = graphs(network, inputs[3])
    replayed = cuda.replayed
    graphs(network, inputs[3])
    assert cuda.replayed == replayed
    del outputs
    gc.collect()
    graphs(network, inputs[3])
    assert cuda.replayed == replayed + 1


def test_a_second_backward_pass_is_refused(cuda):
    network, graphs, inputs = TwoHeads(), CudaGraphs(), patches(3)
    train(network, graphs, inputs)
    network.zero_grad()
    loss = loss_of(graphs(network, inputs[0]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        loss.backward()


def test_frozen_parameters_get_no_gradient(cuda):
    network, graphs, inputs = TwoHeads(), CudaGraphs(), patches(4)
    network.body.requires_grad_(False)
    network.small.requires_grad_(False)  # so that one of the outputs needs none
    twin = copy.deepcopy(network)
    for x in inputs:
        network.zero_grad(), twin.zero_grad()
        loss_of(graphs(network, x)).backward()
        loss_of(twin(x)).backward()
    assert cuda.captured == 2
    assert network.body.weight.grad is None
    torch.testing.assert_close(network.head.weight.grad, twin.head.weight.grad, rtol=0, atol=0)


# --- where it is recorded --------------------------------------------------------------------------------------------


def test_a_warm_up_runs_once_on_the_side_stream(cuda):
    place, seen = Place(CPU), []
    place.warm_up(lambda: seen.append(cuda.stream))
    assert seen == [place.stream]
    assert place.stream is not cuda.main
    assert cuda.stream is cuda.main


def test_a_capture_returns_its_result_and_a_graph_that_repeats_it(cuda):
    place, x = Place(CPU), torch.ones(3)
    graph, result = place.capture(lambda: x * 2)
    x.fill_(5)
    graph.replay()
    assert result.tolist() == [10, 10, 10]


def test_a_failed_capture_gives_the_stream_back_and_what_it_took(cuda):
    place = Place(CPU)
    cuda.failing = (0, RuntimeError("a test"))
    with pytest.raises(RuntimeError), place.in_use():
        place.capture(lambda: torch.ones(2) * 2)
    assert cuda.stream is cuda.main
    assert cuda.undone == [("end", 0, "pool"), ("release", 0, "pool"), ("random numbers", "state")]


def test_where_nothing_fails_nothing_is_undone(cuda):
    place = Place(CPU)
    with place.in_use():
        place.capture(lambda: torch.ones(2) * 2)
    assert (cuda.undone, cuda.stream) == ([], cuda.main)
