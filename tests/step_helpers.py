"""What a training step asks of a device beside the network: counted on the meta device, which has no memory to read."""

from collections import Counter

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim import optimizer as torch_optimizer
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mednextv2.data import LabelScheme
from mednextv2.training import GradientClipping, Progress, SegmentationLoss, Trainer, TrainingLog, create_optimizer

META = torch.device("meta")
_NO_LAUNCH = ("aten.empty", "aten.new_empty", "profiler.")  # and views


class Calls(TorchDispatchMode):
    """Counts the operations that start something on a device.

    Attributes:
        names: How often each was called; views and allocations are left out.
        waits: Those that need a number of the device's, or copy from one device to another.
    """

    def __init__(self):
        super().__init__()
        self.names, self.waits, self._made = Counter(), [], _Made(self)

    def __enter__(self):
        self._made.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._made.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        kwargs = kwargs or {}
        devices = {x.device for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        if devices and kwargs.get("device") is not None:
            devices.add(torch.device(kwargs["device"]))
        if "_local_scalar_dense" in name or "nonzero" in name or len(devices) > 1:
            self.waits.append(name)
        # PyTorch has no meta kernel of this one, which returns nothing
        out = None if name == "aten._fused_sgd_.default" else function(*args, **kwargs)
        if not function.is_view and not name.startswith(_NO_LAUNCH):
            self.names[name] += 1
        return out

    @property
    def launches(self) -> int:
        return sum(self.names.values())


class _Made(TorchFunctionMode):
    """Finds tensors that are made of Python's numbers, which are copied to the device out of any dispatcher's sight."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor)
        if made and out.device == META:
            self.calls.waits.append(function.__name__)
        return out


class Heads(nn.Module):
    """Five heads that cost next to nothing, and as many parameters as a large network."""

    def __init__(self, outputs, parameters=800):
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(outputs, device=META)) for _ in range(parameters))

    def forward(self, x):
        sizes = [[n // 2**i for n in x.shape[2:]] for i in range(5)]
        shape = (1, -1, *[1] * (x.dim() - 2))
        return [w.view(shape).expand(len(x), -1, *size) for w, size in zip(self.weights, sizes, strict=False)]


class Enough(Exception):  # noqa: N818
    """Ends a training whose results nobody can read."""


def training_step_calls(
    monkeypatch, folder, optimizer_name="adamw", scheme=None, batch_dice=False, parameters=800, steps=3
) -> list[Calls]:
    """Run the trainer with its loss, clipping, optimizer and handlers on the meta device.

    Args:
        monkeypatch: The fixture; lets PyTorch treat the meta device as CUDA, with fused and joined operations.
        folder: For the training's log.
        optimizer_name: As in the recipe.
        scheme: Of the labels; two classes and background by default.
        batch_dice: As in the recipe.
        parameters: Number of the network's.
        steps: Number of them.

    Returns:
        The calls of each step, without those of a network.
    """
    joined = [*_foreach_utils._get_foreach_kernels_supported_devices(), "meta"]
    monkeypatch.setattr(_foreach_utils, "_get_foreach_kernels_supported_devices", lambda: joined)
    monkeypatch.setattr(torch_optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    scheme = scheme or LabelScheme(["background", "anterior", "posterior"])
    network = Heads(scheme.outputs, parameters)
    optimizer = create_optimizer(optimizer_name, network.parameters(), 1e-3)
    progress = Progress("training")
    data = [
        {"image": torch.zeros(2, 1, 32, 32, 32, device=META), "label": torch.zeros(2, 1, 32, 32, 32, device=META)}
    ] * steps
    found, counters = [], []

    def begin(engine):
        progress._next = float("inf")  # as in most steps: the bar is drawn once a second
        counters.append(Calls())
        counters[-1].__enter__()

    def end(engine):
        counters[-1].__exit__(None, None, None)
        found.append(counters.pop())
        if len(found) == steps:
            raise Enough

    def give_gradients(engine):
        for p in network.parameters():
            if p.grad is None:  # of the network's body
                p.grad = torch.empty_like(p)

    trainer = Trainer(
        device=META, max_epochs=2, train_data_loader=data, network=network, optimizer=optimizer,
        loss_function=SegmentationLoss(scheme, batch_dice), optim_set_to_none=True, non_blocking=True, decollate=False,
        train_handlers=[],
    )  # fmt: skip
    trainer.add_event_handler(Events.ITERATION_STARTED, begin)
    trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, give_gradients)
    for handler in (GradientClipping(network, optimizer), progress, TrainingLog(folder, optimizer)):
        handler.attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, end)
    try:
        trainer.run()
    except Enough:
        return found
    finally:
        for counter in counters:
            counter.__exit__(None, None, None)
    raise AssertionError("the training ended before its last step")
