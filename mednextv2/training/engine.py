"""MONAI's trainer and inferer, changed so that the GPU stays busy."""

import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from ignite.engine import Engine, Events, State
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from mednextv2.errors import InputError, find_input_error
from mednextv2.nets.cuda_graph import CudaGraphs
from mednextv2.training.time_estimate import TimeEstimate
from mednextv2.wording import count, times

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "ALLOC_FAILED",
)  # messages of CUDA, of PyTorch on CPUs, of its libraries


class Trainer(SupervisedTrainer):
    """MONAI's trainer, which scales gradients in float16 only, and says what to lower when memory is too small.

    MONAI scales the loss whenever autocast is on. bfloat16 has the exponents of float32, so no gradient is too small
    for it, and each step would wait for the GPU to learn whether a gradient is infinite.

    Args:
        *args: The arguments of `monai.engines.SupervisedTrainer`.
        **kwargs: Its keyword arguments.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_event_handler(Events.STARTED, _choose_scaler)
        TimeEstimate(workflow_state(self).device.type).attach(self)
        self.logger.addFilter(_is_news)

    def run(self) -> None:  # type: ignore[override]  # like MONAI's method, it has none of ignite's arguments
        """Train.

        Raises:
            InputError: If the memory is too small for a step, or for the workers that read patches.
        """
        try:
            super().run()
        except KeyboardInterrupt:
            done, wanted = max(0, self.state.epoch - 1), self.state.max_epochs
            self.logger.warning("Stopped after epoch %s of %s; the same command goes on from there.", done, wanted)
            raise
        except (RuntimeError, MemoryError, OSError) as e:
            if found := find_input_error(e):
                raise found from e
            if not is_out_of_memory(e):
                raise
            raise InputError(self._advice()) from e

    def _advice(self) -> str:
        batch = self.state.batch["image"] if isinstance(self.state.batch, dict) else None
        step = "a training step"
        if isinstance(batch, Tensor):
            step += f" with {count(len(batch), 'patch', 'patches')} of {times(batch.shape[2:])} voxels"
        device = workflow_state(self).device
        return (
            f"device {device}: its memory is too small for {step}; lower --batch_size or --patch_size, or "
            "choose a smaller --variant"
        )


class WorkflowState(State):
    """What MONAI's workflows add to the state of ignite."""

    device: torch.device
    best_metric: float
    best_metric_epoch: int


def workflow_state(engine: Engine) -> WorkflowState:
    """Return the state of a MONAI engine, with the attributes that ignite does not know."""
    return cast(WorkflowState, engine.state)


def _choose_scaler(engine: SupervisedTrainer) -> None:
    if engine.scaler is not None and engine.amp_kwargs.get("dtype") == torch.bfloat16:
        off = torch.amp.GradScaler(workflow_state(engine).device.type, enabled=False)  # passes everything through
        engine.scaler = off  # type: ignore[assignment]  # MONAI's annotation is CUDA's outdated subclass


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out ignite's lines about an exception, which whoever catches it reports in any case."""
    return "terminating due to exception" not in str(record.msg)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that the memory of a GPU or of the computer was too small."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(t in str(error) for t in _OUT_OF_MEMORY)


class RecordingInferer(SimpleInferer):
    """MONAI's call of the network on a batch, replayed from CUDA graphs.

    Args:
        graphs: The CUDA graphs of the network, which training and validation share.
    """

    def __init__(self, graphs: CudaGraphs) -> None:
        super().__init__()
        self.graphs = graphs

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the network's output; only calls of modules without further arguments are recorded."""
        if args or kwargs or not isinstance(network, nn.Module):
            return network(inputs, *args, **kwargs)
        return self.graphs(network, inputs)
