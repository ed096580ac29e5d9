"""Masked autoencoding in MONAI's engines: batches with masks, the loss, and the error of a validation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.handlers import from_engine
from torch import Tensor, nn

from mednextv2.distributed import process_rank
from mednextv2.nets.visible_cells import visible_positions
from mednextv2.training.masking import BlockMasks
from mednextv2.training.reconstruction_loss import ReconstructionLoss

#: What MONAI's engines take: the input of the network, the target, here the image and its visible cells, and possibly
#: further arguments of the network.
Prepared = tuple[Tensor, tuple[Tensor, Tensor]] | tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor], dict[str, Any]]


class ReconstructedChannels:
    """What the outputs of an autoencoder mean, in the place of a label scheme, whose outputs files of networks name.

    Attributes:
        outputs: The number of outputs.
        legend: The meaning of each of them, as weights record it.

    Args:
        channels: The names of the image channels.
    """

    def __init__(self, channels: Sequence[str]) -> None:
        self.outputs = len(channels)
        self.legend = [f"reconstruction of {name}" for name in channels]


class PackedAutoencoder(nn.Module):
    """A masked autoencoder with a single input, as CUDA graphs and MONAI's engines take it.

    The input is the image with the visible voxels, as 1 and 0, as its last channel: see :func:`pack`. The visible cells
    can also be given as the autoencoder itself takes them.

    Args:
        autoencoder: The autoencoder, which takes an image and its visible cells.
        block_size: The voxels of a cell along each axis.
    """

    def __init__(self, autoencoder: nn.Module, block_size: Sequence[int]) -> None:
        super().__init__()
        self.autoencoder, self.block_size = autoencoder, tuple(block_size)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Reconstruct an image.

        Args:
            x: The image and its visible voxels, `(N, C + 1, *space)`; or the image, if the cells are given.
            visible: The visible cells, bool, `(N, *grid)`.

        Returns:
            The reconstruction, `(N, C, *space)`.
        """
        if visible is not None:
            return self.autoencoder(x, visible)
        cells = x[:, -1]
        for axis, block in enumerate(self.block_size, 1):
            cells = cells.unflatten(axis, (-1, block)).select(axis + 1, 0)
        return self.autoencoder(x[:, :-1], cells > 0.5)


def pack(image: Tensor, visible: Tensor) -> Tensor:
    """Return an image with its visible voxels as a further channel.

    Args:
        image: The image, `(N, C, *space)`.
        visible: The visible cells, bool, `(N, *grid)`, on the same device.
    """
    return torch.cat([image, visible_positions(visible, image.shape[2:])[:, None].to(image.dtype)], 1)


class TrainingMasks:
    """Add the masks of a step to its batch: a `prepare_batch` of MONAI's trainer.

    Masks depend on the number of the step, which :class:`MaskSteps` tells.

    Args:
        masks: Draws the masks.
        packed: Whether the masks are a part of the input, as CUDA graphs need it. If not, they are an argument of the
            network and stay on the CPU, where the sparse forms of the autoencoder need them.
    """

    def __init__(self, masks: BlockMasks, packed: bool = True) -> None:
        self.masks, self.packed, self.step = masks, packed, 0

    def __call__(
        self, batch: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> Prepared:
        """Return the input of the autoencoder, the pair of images and visible cells, and further arguments."""
        first = process_rank() * len(batch["image"])
        visible = self.masks.training(self.step, range(first, first + len(batch["image"])))
        return _prepared(batch, visible, self.packed, device, non_blocking)


class MaskSteps:
    """A handler that tells the masks of a training the number of each step.

    Args:
        masks: The masks.
    """

    def __init__(self, masks: TrainingMasks) -> None:
        self.masks = masks

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._note)

    def _note(self, engine: Engine) -> None:
        self.masks.step = engine.state.iteration - 1


class ValidationMasks:
    """Add the masks of a validation to a batch: a `prepare_batch` of MONAI's evaluator.

    A patch has the same mask in every validation, which depends on its number.

    Args:
        masks: Draws the masks.
        packed: As of :class:`TrainingMasks`.
    """

    def __init__(self, masks: BlockMasks, packed: bool = True) -> None:
        self.masks, self.packed = masks, packed

    def __call__(
        self, batch: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> Prepared:
        """Return the input of the autoencoder, the pair of images and visible cells, and further arguments."""
        visible = self.masks.validation(batch["number"].tolist())
        return _prepared(batch, visible, self.packed, device, non_blocking)


def _prepared(batch: Mapping[str, Any], visible: Tensor, packed: bool, device: Any, non_blocking: bool) -> Prepared:
    image = batch["image"].to(device=device, non_blocking=non_blocking)
    if not packed:
        return image, (image, visible), (visible,), {}
    visible = visible.to(device=device, non_blocking=non_blocking)
    return pack(image, visible), (image, visible)


class AutoencodingLoss(ReconstructionLoss):
    """The reconstruction loss with the two arguments that MONAI's trainer gives."""

    def forward(self, reconstruction: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """Compute the loss.

        Args:
            reconstruction: The output of the network, `(N, C, *space)`.
            target: The image, `(N, C, *space)`, and the visible cells, `(N, *grid)`.
        """
        return super().forward(reconstruction, *target)


def hidden_sums(reconstruction: Tensor, image: Tensor, visible: Tensor) -> Tensor:
    """Return sums over the hidden voxels of each sample, from which errors are computed.

    Args:
        reconstruction: The output of the network, `(N, C, *space)`.
        image: The image, `(N, C, *space)`.
        visible: The visible cells, bool, `(N, *grid)`.

    Returns:
        `(N, 3)`, float64: the sum of squared errors, the sum of squared intensities, which is that of an image of 0,
        the mean; and the number of voxels.
    """
    hidden = ~visible_positions(visible.to(image.device), image.shape[2:])[:, None].expand_as(image)
    error = torch.where(hidden, reconstruction.float() - image.float(), 0.0)
    content = torch.where(hidden, image.float(), 0.0)
    parts = [error.square(), content.square(), hidden]
    return torch.stack([part.flatten(1).sum(1, dtype=torch.float64) for part in parts], 1)


def errors(sums: Tensor | Sequence[float]) -> tuple[float, float]:
    """Return the mean squared error, and the explained part of the variance: 1 if all is right, 0 for the mean.

    Args:
        sums: The three sums of :func:`hidden_sums`, of one or several samples together.
    """
    error, content, number = (float(part) for part in sums)
    return error / max(number, 1.0), 1 - error / content if content > 0 else float("nan")


class ReconstructionError(Metric):
    """The error of all patches of a validation, over the processes of `torch.distributed`.

    The value of the metric is the mean squared error over all hidden voxels. The engine's metrics also have
    `val_explained`, the explained part of their variance.

    Args:
        output_transform: Turns the engine's output into the reconstruction, and the pair of image and visible cells.
        device: The device of the sums; with several processes, it must be one on which they can communicate.
    """

    def __init__(
        self,
        output_transform: Callable = from_engine(["pred", "label"]),  # noqa: B008, the default has no state
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(output_transform, device)

    def reset(self) -> None:
        """Start a validation."""
        self._sums = torch.zeros(3, dtype=torch.float64, device=self._device)

    def update(self, output: Sequence[Any]) -> None:
        """Add patches.

        Args:
            output: The reconstruction, `(N, C, *space)`, and the pair of the image and the visible cells.
        """
        reconstruction, (image, visible) = output
        self._sums += hidden_sums(reconstruction.detach(), image, visible).sum(0).to(self._device)

    def _total(self) -> Tensor:
        sums = self._sums.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        return sums

    def compute(self) -> float:
        """Return the mean squared error; every process must call it."""
        return errors(self._total())[0]

    def completed(self, engine: Engine, name: str) -> None:
        """Write the error into the engine's metrics as `name`, and the explained part as `val_explained`.

        Args:
            engine: The evaluator.
            name: The name of the error.
        """
        engine.state.metrics[name], engine.state.metrics["val_explained"] = errors(self._total())
