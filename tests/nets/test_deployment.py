import inspect
from datetime import timedelta

import pytest
import torch
from net_helpers import V1, V2, assert_same, gradients, image, lively, tiny, trained
from torch import nn

from mednextv2.nets import MedNeXt
from mednextv2.nets.blocks import MedNeXtBlock

# ----------------------------------------------------------------------------- compilation and export


@pytest.mark.slow
def test_it_compiles_whole_in_training_and_evaluation():
    network = lively(tiny(deep_supervision=True))
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = image(3)
    expected, actual = gradients(network, x), gradients_of_compiled(compiled, network, x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x))


def test_a_compiled_graph_has_our_operators_and_an_exported_one_has_not():
    network, found = lively(tiny()).eval(), []

    def backend(graph, _):
        found.extend(str(node.target) for node in graph.graph.nodes if "mednextv2" in str(node.target))
        return graph.forward

    torch.compile(network, backend=backend, fullgraph=True)(image(3))
    blocks = sum(isinstance(module, MedNeXtBlock) for module in network.modules())
    assert found.count("mednextv2.block.default") == blocks
    exported = torch.export.export(network, (image(3),)).graph
    assert not [node for node in exported.nodes if "mednextv2" in str(node.target)]


def gradients_of_compiled(compiled, network, x):
    grads = gradients(compiled, x)
    return {k: grads[f"_orig_mod.{k}"] for k, _ in network.named_parameters()}


def test_it_can_be_exported_for_any_batch_and_size():
    network = trained(lively(tiny(spatial_dims=2))).eval()
    axes = {0: torch.export.Dim("batch"), 2: 16 * torch.export.Dim("rows"), 3: 16 * torch.export.Dim("columns")}
    exported = torch.export.export(network, (image(2, batch=2),), dynamic_shapes=(axes,)).module()
    for shape in ((1, 1, 48, 32), (3, 1, 32, 64)):
        x = torch.randn(shape)
        assert_same(exported(x), network(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_it_can_be_traced_and_run_at_another_size(spatial_dims):
    network = trained(lively(tiny(spatial_dims=spatial_dims, deep_supervision=True))).eval()
    traced = torch.jit.trace(network, image(spatial_dims, 16))
    for shape in ((1, 1, 16, 16, 16), (2, 1, 32, 16, 48)):
        x = torch.randn(shape[: spatial_dims + 2])
        assert_same(traced(x), network(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize(
    ("spatial_dims", "settings"),
    [
        (3, {**V1}),
        (3, {**V2, "deep_supervision": True, "activation_checkpointing": True}),
        (2, {**V1, "deep_supervision": True, "use_residual_connection": False}),
        (2, {**V2, "grn_denominator": "sum", "drop_path_rate": 0.5}),
    ],
    ids=["v1 3D", "v2 3D deep", "v1 2D deep", "v2 2D"],
)
def test_it_can_be_scripted_saved_and_loaded(spatial_dims, settings, tmp_path):
    network = trained(lively(tiny(spatial_dims=spatial_dims, **settings)))
    torch.jit.script(network).save(tmp_path / "net.ts")
    scripted = torch.jit.load(tmp_path / "net.ts")
    for size in (16, 32):
        x = image(spatial_dims, size, batch=2)
        torch.manual_seed(1)
        expected = network.train()(x)
        torch.manual_seed(1)
        assert_same(scripted.train()(x), expected, 1e-4)
        assert_same(scripted.eval()(x), network.eval()(x), 1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_it_can_be_exported_and_converted_to_onnx(tmp_path):
    import onnxruntime

    network = trained(lively(tiny(out_channels=3, deep_supervision=True))).eval()
    x = image(3)
    expected = network(x).detach()
    exported = torch.export.export(network, (x,))
    assert_same(exported.module()(x), expected)
    torch.onnx.export(exported, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------------------------- distributed


def one_process_of_two(rank, folder):
    """Train on one sample of the two; write the gradients that DDP leaves on this process."""
    where = f"file://{folder}/rendezvous"
    wait = timedelta(seconds=120)
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2, timeout=wait)
    data = torch.load(folder / "data.pt", weights_only=True)
    network = tiny(spatial_dims=2, deep_supervision=True).double()
    network.load_state_dict(data["model"])
    network = nn.parallel.DistributedDataParallel(network)
    loss_of(network, data["x"][rank : rank + 1]).backward()
    torch.save([p.grad for p in network.parameters()], folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def the_other_process(index, folder):
    one_process_of_two(index + 1, folder)


def loss_of(network, x):
    """Mean over samples; every instance is normalised for itself, so samples do not mix."""
    return sum((y - 1).square().mean() for y in network(x))


def test_two_processes_have_the_gradients_of_one_with_both_samples(tmp_path):
    network, x = lively(tiny(spatial_dims=2, deep_supervision=True)).double(), image(2, batch=2).double()
    torch.save({"model": network.state_dict(), "x": x}, tmp_path / "data.pt")
    other = torch.multiprocessing.spawn(the_other_process, args=(tmp_path,), nprocs=1, join=False)
    one_process_of_two(0, tmp_path)
    assert other.join()
    loss_of(network, x).backward()
    expected = [p.grad for p in network.parameters()]
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected)


def test_every_argument_of_the_network_is_documented():
    documentation = inspect.getdoc(MedNeXt)
    assert [n for n in inspect.signature(MedNeXt).parameters if f"\n    {n}: " not in documentation] == []
