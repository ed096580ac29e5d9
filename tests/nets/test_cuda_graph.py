"""Recording and replaying of a network, with a stand-in for CUDA graphs that computes on the CPU."""

import copy
import pickle

import pytest
import torch
from monai.data import MetaTensor
from net_helpers import TwoHeads, loss_of, patches, train, usual

from mednextv2 import ops
from mednextv2.nets import CudaGraphs, MedNeXt

# --- without gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode])
def test_the_second_pass_is_recorded_and_replayed_from_then_on(cuda, grad):
    network, graphs, inputs = TwoHeads().eval(), CudaGraphs(), patches(4)
    with grad():
        expected = [network(x) for x in inputs]
        network.calls = 0
        found = [graphs(network, x) for x in inputs]
    assert network.calls == 1 + 2  # the first pass; the second to warm up and to record
    assert (cuda.captured, cuda.replayed, cuda.warm_ups) == (1, 3, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)  # none was overwritten by those after it
    assert cuda.stream is cuda.main


def test_weights_that_change_in_place_are_seen_by_a_replay(cuda):
    network, graphs, (x,) = TwoHeads().eval(), CudaGraphs(), patches(1)
    with torch.no_grad():
        for _ in range(3):
            graphs(network, x)
        network.load_state_dict(TwoHeads().state_dict())
        torch.testing.assert_close(graphs(network, x), network(x), rtol=0, atol=0)
    assert cuda.captured == 1


def test_recordings_give_way_to_a_pass_that_finds_no_memory_beside_them(cuda, caplog):
    network, graphs, (x,), (other,) = TwoHeads().eval(), CudaGraphs(), patches(1), patches(1, batch=3)

    def run(x):
        if len(x) == 3 and graphs._recordings:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(x)

    with torch.no_grad():
        for _ in range(3):
            graphs(network, x, run)
        assert cuda.captured == 1
        for _ in range(3):
            torch.testing.assert_close(graphs(network, other, run), network(other), rtol=0, atol=0)
            torch.testing.assert_close(graphs(network, x, run), network(x), rtol=0, atol=0)
    assert cuda.captured == 1
    assert [r.getMessage() for r in caplog.records] == [
        "The GPU's memory is too small for CUDA graphs beside passes of other shapes; the network runs without graphs "
        "from now on"
    ]


def test_a_copy_makes_its_own_recordings(cuda):
    network, graphs, (x,) = TwoHeads().eval(), CudaGraphs(), patches(1)
    with torch.no_grad():
        for _ in range(3):
            graphs(network, x)
        for other in (copy.deepcopy(graphs), pickle.loads(pickle.dumps(graphs))):
            assert other.enabled
            assert not other._recordings
            for _ in range(3):
                other(network, x)
    assert cuda.captured == 3
    assert not copy.deepcopy(CudaGraphs(False)).enabled


def test_parameters_that_are_trained_from_some_step_on_get_gradients(cuda):
    network, graphs, (x,) = TwoHeads().train(), CudaGraphs(), patches(1)
    network.body.requires_grad_(False)
    for trained in (False, True):
        network.body.requires_grad_(trained)
        for _ in range(3):
            network.zero_grad()
            loss_of(graphs(network, x)).backward()
        assert (network.body.weight.grad is not None) == trained
    assert cuda.replayed > 2


def test_other_shapes_types_and_modes_are_recorded_for_themselves(cuda):
    network, graphs = TwoHeads().eval(), CudaGraphs()
    with torch.no_grad():
        for _ in range(3):
            for batch in (1, 2):
                (x,) = patches(1, batch)
                torch.testing.assert_close(graphs(network, x), network(x), rtol=0, atol=0)
        assert cuda.captured == 2
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                assert graphs(network, x).dtype == torch.bfloat16
            network.train()
            assert len(graphs(network, x)) == 2
            network.eval()
        assert cuda.captured == 4
        for _ in range(3):  # no more than four
            x = patches(1, 3)[0]
            torch.testing.assert_close(graphs(network, x), network(x), rtol=0, atol=0)
    assert cuda.captured == 4


def test_another_implementation_of_the_operators_is_not_replayed_from_the_first(cuda):
    network, graphs = (
        MedNeXt(init_filters=4, blocks_down=(1,) * 4, blocks_bottleneck=1, blocks_up=(1,) * 4).eval(),
        CudaGraphs(),
    )
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        for name in ("torch", "reference"):
            with ops.use(name):
                for _ in range(3):
                    torch.testing.assert_close(graphs(network, x), network(x), rtol=0, atol=0)
    assert cuda.captured == 2


def test_weights_that_are_moved_are_recorded_anew(cuda):
    network, graphs, (x,) = TwoHeads().eval(), CudaGraphs(), patches(1)
    with torch.no_grad():
        for _ in range(2):
            graphs(network, x)
        network.double().float()
        found = [graphs(network, x) for _ in range(3)]
        assert cuda.captured == 2
        graphs.clear()
        graphs(network, x)
        assert cuda.captured == 2
        graphs(network, x)
    assert cuda.captured == 3
    torch.testing.assert_close(found, [network(x)] * 3, rtol=0, atol=0)


def test_metadata_is_dropped(cuda):
    network, graphs = TwoHeads().eval(), CudaGraphs()
    with torch.no_grad():
        for x in patches(3):
            assert type(graphs(network, MetaTensor(x))) is torch.Tensor


def test_another_call_than_the_networks_own_can_be_recorded_without_gradients_only(cuda):
    network, graphs = TwoHeads().eval(), CudaGraphs()
    for x in patches(3):
        with torch.no_grad():
            torch.testing.assert_close(graphs(network, x, lambda x: 2 * network(x)), 2 * network(x), rtol=0, atol=0)
    assert cuda.captured == 1
    for x in patches(3):
        assert graphs(network, x, lambda x: 2 * network(x)).requires_grad
    assert cuda.captured == 1


# --- with gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_training_is_the_same_recorded_or_not(cuda, set_to_none, autocast):
    network, graphs, inputs = TwoHeads(), CudaGraphs(), patches(6)
    expected = train(copy.deepcopy(network), usual, inputs, set_to_none, autocast)
    found = train(network, graphs, inputs, set_to_none, autocast)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    # gradients that are only set to zero would be added to those that a replay writes to the same memory
    assert cuda.replayed == (10 if set_to_none else 0)


def test_a_network_of_ours_trains_the_same_with_deep_supervision_drop_path_and_checkpointing(cuda):
    settings = {"init_filters": 4, "blocks_down": (1,) * 4, "blocks_bottleneck": 1, "blocks_up": (1,) * 4}
    for more in ({}, {"activation_checkpointing": True}, {"drop_path_rate": 0.9}):
        network = MedNeXt(**settings, deep_supervision=True, **more)
        twin, graphs = copy.deepcopy(network), CudaGraphs()
        weights = []
        for one, run in ((twin, usual), (network, graphs)):
            optimizer = torch.optim.AdamW(one.parameters(), 1e-3, fused=True)
            for step in range(4):
                optimizer.zero_grad()
                torch.manual_seed(step)
                x = torch.randn(2, 1, 16, 16, 16)
                heads = run(one, x)
                assert isinstance(heads, list)
                assert len(heads) == 5
                sum((h**2).mean() for h in heads).backward()
                optimizer.step()
            weights.append([p.detach() for p in one.parameters()])
        if "drop_path_rate" not in more:  # whose random numbers recording has used, too
            torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert cuda.replayed == 3 * 6


def test_gradients_that_are_accumulated_are_added(cuda):
    network, graphs = TwoHeads(), CudaGraphs()
    twin = copy.deepcopy(network)
    for _ in range(3):
        network.zero_grad(), twin.zero_grad()
        for x in patches(2):
            loss_of(graphs(network, x)).backward()
            loss_of(twin(x)).backward()
    torch.testing.assert_close([p.grad for p in network.parameters()], [p.grad for p in twin.parameters()])
    assert cuda.replayed == 2 * 2  # the first of each pair, from the second pair on


def test_a_pass_before_the_backward_pass_of_the_last_is_not_replayed(cuda):
    network, graphs, inputs = TwoHeads(), CudaGraphs(), patches(5)
    train(network, graphs, inputs[:3])
    network.zero_grad()
    replayed = cuda.replayed
    first, second = graphs(network, inputs[3]), graphs(network, inputs[4])
    assert cuda.replayed == replayed + 1
    with torch.no_grad():
        graphs(network.eval(), inputs[0])
    network.train()
    (loss_of(first) + 2 * loss_of(second)).backward()
    found = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    (loss_of(network(inputs[3])) + 2 * loss_of(network(inputs[4]))).backward()
    torch.testing.assert_close(found, [p.grad for p in network.parameters()])


def test_an_input_that_needs_a_gradient_gets_one(cuda):
    network, graphs = TwoHeads(), CudaGraphs()
    for x in patches(3):
        x.requires_grad_()
        loss_of(graphs(network, x)).backward()
        assert x.grad.any()
    assert cuda.captured == 0


def test_training_and_validation_share_a_network(cuda):
    network, graphs = TwoHeads(), CudaGraphs()
    twin = copy.deepcopy(network)
    for _ in range(3):
        inputs = patches(3)
        expected, found = train(twin.train(), usual, inputs), train(network.train(), graphs, inputs)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        network.eval(), twin.eval()
        with torch.no_grad():
            for x in inputs:
                torch.testing.assert_close(graphs(network, x), twin(x), rtol=0, atol=0)
    assert cuda.captured == 2 + 1
    assert graphs._places.keys() == {torch.device("cpu")}  # one pool for both
