"""The trainer and the inferer beside MONAI's."""

import pytest
import torch
from cuda_stand_in import StandIn
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets import CudaGraphs
from mednextv2.training import GradientClipping, Progress, RecordingInferer, Trainer, TrainingCheckpoint, warmup_poly
from mednextv2.training.engine import is_out_of_memory


def batches(count=3):
    return [{"image": torch.randn(2, 3, 4), "label": torch.randn(2, 3, 1)} for _ in range(count)]


def make_trainer(network, handlers=(), data=None, epochs=1, optimizer=None, **settings):
    return Trainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=batches() if data is None else data,
        network=network,
        optimizer=optimizer or torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=nn.MSELoss(),
        train_handlers=list(handlers),
        optim_set_to_none=True,
        decollate=False,
        **settings,
    )


# --- the scale of gradients ------------------------------------------------------------------------------------------


@pytest.fixture
def scaler(monkeypatch):
    """What MONAI makes when autocast is on."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: scaler)
    return scaler


half = {"amp": True, "amp_kwargs": {"dtype": torch.bfloat16}}
ignore_autocast = pytest.mark.filterwarnings(
    "ignore:User provided device_type of 'cuda'", "ignore:CUDA is not available"
)


def weights_after(network, **settings):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    trainer = make_trainer(network, [GradientClipping(network, optimizer, 0.1)], optimizer=optimizer, **settings)
    trainer.run()
    return trainer, [p.detach() for p in network.parameters()]


@ignore_autocast
def test_in_bfloat16_no_gradient_is_scaled(scaler, monkeypatch):
    data, (one, other) = batches(), (nn.Linear(4, 1), nn.Linear(4, 1))
    other.load_state_dict(one.state_dict())

    def fail(*args):
        raise AssertionError("it looks for infinite gradients")

    monkeypatch.setattr(torch, "_amp_foreach_non_finite_check_and_unscale_", fail)
    trainer, found = weights_after(one, data=data, **half)
    assert not trainer.scaler.is_enabled()
    assert trainer.scaler is not scaler
    torch.testing.assert_close(found, weights_after(other, data=data)[1])


@ignore_autocast
@pytest.mark.parametrize("amp_kwargs", [{"dtype": torch.float16}, {}])
def test_in_float16_gradients_are_scaled(scaler, amp_kwargs):
    trainer, _ = weights_after(nn.Linear(4, 1), amp=True, amp_kwargs=amp_kwargs)
    assert trainer.scaler is scaler
    assert scaler.is_enabled()


def test_without_autocast_there_is_no_scale():
    assert weights_after(nn.Linear(4, 1))[0].scaler is None


@ignore_autocast
def test_a_training_can_go_on_in_the_other_half_precision(scaler, tmp_path):
    for epochs, dtype in enumerate((torch.float16, torch.bfloat16, torch.float16), 1):
        network = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        schedule = warmup_poly(optimizer, 10)
        handlers = [TrainingCheckpoint(tmp_path, network, optimizer, schedule)]
        trainer = make_trainer(
            network, handlers, epochs=epochs, optimizer=optimizer, amp=True, amp_kwargs={"dtype": dtype}
        )
        trainer.run()
        assert trainer.state.epoch == epochs
        assert trainer.scaler.is_enabled() == (dtype == torch.float16)


# --- too little memory -----------------------------------------------------------------------------------------------

OUT_OF_MEMORY = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CUDA outside of the allocator": RuntimeError("CUDA error: out of memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory"),
    "Python": MemoryError(),
}


class Failing(nn.Linear):
    def __init__(self, error):
        super().__init__(4, 1)
        self.error = error

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_too_little_memory_is_told_with_what_to_lower(error, caplog):
    with pytest.raises(InputError) as caught:
        make_trainer(
            Failing(error), [Progress("training")], data=[{**batches(1)[0], "image": torch.zeros(2, 1, 16, 32)}]
        ).run()
    assert str(caught.value) == (
        "device cpu: its memory is too small for a training step with 2 patches of 16×32 voxels; lower --batch_size or "
        "--patch_size, or choose a smaller --variant"
    )
    assert is_out_of_memory(error)
    assert caught.value.__cause__ is error
    assert not [record for record in caplog.records if "terminating" in record.getMessage()]  # one line is enough


def test_too_little_memory_before_the_first_batch_is_told_too():
    class Loader:
        def __len__(self):
            return 1

        def __iter__(self):
            raise MemoryError

    with pytest.raises(InputError, match="too small for a training step; lower"):
        make_trainer(nn.Linear(4, 1), data=Loader()).run()


def test_a_killed_worker_is_told_by_the_trainer_itself():
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    with pytest.raises(InputError, match="a worker process was killed") as caught:
        make_trainer(Failing(error)).run()
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: device-side assert"), ValueError("out of memory"), KeyError(1)]
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught:
        make_trainer(Failing(error)).run()
    assert caught.value is error


# --- recording -------------------------------------------------------------------------------------------------------


def test_a_recorded_training_has_the_same_weights(monkeypatch):
    cuda, data = StandIn(monkeypatch), batches(5)
    one, other = nn.Linear(4, 1), nn.Linear(4, 1)
    other.load_state_dict(one.state_dict())
    make_trainer(one, data=data, inferer=RecordingInferer(CudaGraphs())).run()
    assert cuda.replayed == 2 * 4
    make_trainer(other, data=data, inferer=RecordingInferer(CudaGraphs(False))).run()
    assert cuda.replayed == 2 * 4
    torch.testing.assert_close(list(one.parameters()), list(other.parameters()), rtol=0, atol=0)


def test_further_arguments_reach_the_network(monkeypatch):
    cuda, inferer, x = StandIn(monkeypatch), RecordingInferer(CudaGraphs()), torch.zeros(1)
    for _ in range(3):
        assert inferer(x, lambda x, y, z: y + z, 1, z=2) == 3
    assert cuda.captured == 0


def test_a_function_in_the_network_s_place_is_called_as_usual(monkeypatch):
    cuda, inferer, x = StandIn(monkeypatch), RecordingInferer(CudaGraphs()), torch.zeros(1)
    for _ in range(3):
        assert inferer(x, lambda x: x + 1) == 1
    assert cuda.captured == 0
