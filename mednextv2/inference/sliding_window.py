"""A sliding window that turns logits into labels on the way, so that only a part of them is in memory."""

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import compute_importance_map, to_affine_nd
from monai.transforms.utils import scale_affine
from monai.utils import PytorchPadMode
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mednextv2.allocator import return_freed_memory
from mednextv2.errors import InputError
from mednextv2.inference.air_skipping import air_windows
from mednextv2.inference.logits_to_labels import LabelWriter
from mednextv2.inference.mirroring import MirroringInferer, holding_weights_of, one_tensor
from mednextv2.inference.window_cells import Cells, Index, most_waiting, window_order
from mednextv2.inference.window_grid import WindowGrid
from mednextv2.label_scheme import LabelScheme
from mednextv2.wording import times

logger = logging.getLogger(__name__)

_GIB = 2**30
_KEPT = _GIB  # bytes of freed memory that the process keeps after a large image


class StreamingInferer(MirroringInferer):
    """A sliding window with test-time mirroring, whose result is labels; the logits are never all in memory.

    Windows are taken slab by slab. As soon as no further window covers a part of the image, its logits become labels
    and are freed. If the last step of the preprocessing was to resample the image with
    :class:`mednextv2.transforms.Resampled`, labels are decided on the grid before resampling: they equal those of
    MONAI's `SlidingWindowInferer`, a linear `Invertd` and an arg-max, with a memory of
    `classes × overlap × cross-section` instead of `classes × volume`. `Invertd` then has nothing to
    resample and does the rest.

    If a GPU's memory is too small, windows are predicted one by one; if that is not enough, the sums move to the CPU.
    Each is reported in one line.

    Args:
        roi_size: The size of a window in voxels.
        scheme: The meaning of the network's outputs.
        mirror_axes: Spatial axes to flip, with all their combinations: 2^n predictions, whose logits are averaged.
        air: The largest intensity of air, for all channels or for each. Windows with only air around the body become
            background and are not predicted, see :func:`mednextv2.inference.air_level`. If None, all are predicted.
        probabilities: A function that is called with the shape `(outputs, ...)` of an image's probabilities, on the
            grid of its labels, and returns the array, usually a memory-mapped file, into which they are written cell by
            cell. If None, no probabilities are written.
        mirroring: Whether to flip at all: see :class:`mednextv2.inference.MirroringInferer`.
        memory: GiB that sums in float32 may take; larger sums are kept in float16, as differences from the largest.
        **kwargs: The arguments of `monai.inferers.SlidingWindowInferer`, except `buffer_steps` and `with_coord`.

    In three ways, it is not MONAI's inferer: logits are summed in float32 also for images in half precision, nothing is
    differentiated, and a network must return one tensor, which has the size of the window and the scheme's outputs.

    Source:
        nnU-Net's prediction: the mean of logits over windows (weighted by a Gaussian), mirrorings and folds, linearly
        resampled to the image's grid, then decided.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        scheme: LabelScheme,
        mirror_axes: Sequence[int] = (),
        air: float | Sequence[float] | None = None,
        memory: float = 2.0,
        probabilities: Callable[[tuple[int, ...]], np.ndarray] | None = None,
        mirroring: bool = True,
        **kwargs: Any,
    ) -> None:
        if not isinstance(scheme, LabelScheme):  # MONAI's second argument is sw_batch_size
            raise TypeError(f"StreamingInferer's second argument is a LabelScheme, but {scheme!r} was given")
        if kwargs.get("buffer_steps") or kwargs.get("with_coord"):
            raise ValueError("StreamingInferer knows no buffer_steps and no with_coord")
        super().__init__(roi_size, mirror_axes, mirroring, **kwargs)
        self.scheme, self.air, self.memory, self.probabilities = scheme, air, memory, probabilities

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Segment images.

        Args:
            inputs: The images, `(B, C, X, Y, Z)` or `(B, C, X, Y)`: a tensor, a batch of MetaTensors from a loader, or
                one MetaTensor as `image[None]`.
            network: The network, which returns logits `(b, outputs, *roi_size)`.
            *args: Passed on to the network.
            **kwargs: Passed on to the network, except `device`, which replaces that of the inferer.

        Returns:
            Labels of the scheme's `dtype`, `(B, 1, ...)`, on the grid that the images had before they were
            resampled.

        Raises:
            InputError: If a window does not fit into the GPU's memory.
            ValueError: If images were resampled before the last step of the preprocessing, images or logits do not have
                the expected shape, or an argument is given that only MONAI's inferer knows.
        """
        dims = len(self.roi_size) if isinstance(self.roi_size, Sequence) else inputs.ndim - 2
        if not 1 <= dims <= 3:
            raise ValueError(f"images may have one to three spatial dimensions, but these have {dims}")
        if inputs.ndim != dims + 2:
            raise ValueError(
                f"a window of {dims} dimensions needs images (batch, channel, ...) of {dims + 2}, but their shape is "
                f"{tuple(inputs.shape)}"
            )
        device = kwargs.pop("device", self.device)
        if kwargs.pop("buffer_steps", None) or kwargs.get("condition") is not None:
            raise ValueError("StreamingInferer knows no buffer_steps and no condition")
        kwargs.pop("buffer_dim", None)  # it has no effect without buffer_steps
        predictor = self.predictor(network)
        if args or kwargs:
            predictor = partial(_call, predictor, args, kwargs)
        with torch.no_grad(), holding_weights_of(network):
            labels = torch.stack([_Stream(self, image, predictor, device).run() for image in _images(inputs)])
        if not isinstance(inputs, MetaTensor):
            return labels
        labels = MetaTensor(labels).copy_meta_from(inputs)
        scale = scale_affine(tuple(inputs.shape[2:]), tuple(labels.shape[2:]))
        scale = to_affine_nd(inputs.affine.shape[-1] - 1, scale)  # the affine of a 2D image can be that of three axes
        # if images were resampled, labels have the voxels from before
        labels.affine = inputs.affine @ torch.as_tensor(scale).to(inputs.affine)
        return labels


def _images(inputs: Tensor) -> list[Tensor]:
    """Return the images of a batch, each with its own record of transforms."""
    if isinstance(inputs, MetaTensor) and inputs.is_batch:
        return decollate_batch(inputs)
    return [inputs[i] for i in range(len(inputs))]  # as after `image[None]`: the record is that of one image


class _Stream:
    """The state of one image in the sliding window."""

    def __init__(
        self,
        settings: StreamingInferer,
        image: Tensor,
        predictor: Callable[[Tensor], Tensor],
        device: torch.device | str | None,
    ) -> None:
        self.settings, self.predictor = settings, predictor
        self.grid = WindowGrid.of(image, settings)
        image = image.as_tensor() if isinstance(image, MetaTensor) else image
        self.home = image.device  # the device for the labels
        if any(self.grid.padding):
            image = F.pad(image, self.grid.padding, PytorchPadMode(settings.padding_mode).value, settings.cval)
        self.image = image
        self.window_device = torch.device(settings.sw_device or image.device)
        if device is None and settings.cpu_thresh is not None and image[0].numel() > settings.cpu_thresh:
            device = "cpu"
        device = torch.device(device or image.device)
        axes, outputs = self.grid.axes, settings.scheme.outputs
        large = self.large = most_waiting(axes) * outputs * 4 > settings.memory * _GIB
        # the shift is needed for float16, and for air, whose logits are set rather than predicted
        shifted = not settings.scheme.regions and (large or settings.air is not None)
        self.cells = Cells(axes, torch.float16 if large else torch.float32, device, shifted)
        shape = (outputs, *(target.size for target in self.grid.targets))
        into = settings.probabilities and settings.probabilities(shape)
        self.writer = LabelWriter(self.grid.targets, settings.scheme, device, into)
        self.batch = settings.sw_batch_size
        self.weights = self._weights(tuple(axis.patch for axis in axes))

    def _weights(self, patch: tuple[int, ...]) -> Tensor:
        settings, known = self.settings, self.settings.roi_weight_map
        if known is not None and tuple(known.shape[-len(patch) :]) == patch:  # as MONAI's inferer keeps it
            weights = known.to(self.window_device, torch.float32)
        else:
            weights = compute_importance_map(
                patch, settings.mode, settings.sigma_scale, device=self.window_device, dtype=torch.float32
            )
        return weights.reshape(patch)

    def run(self) -> Tensor:
        """Return the labels, `(1, ...)`."""
        windows, air = window_order(self.grid.axes), self._air()
        if air:
            logger.info("%d of %d windows are nothing but air and not predicted", len(air), len(windows))
        with self._progress(len(windows)) as bar:
            waiting: list[Index] = []
            for window in windows:
                if window in air:
                    self._flush(waiting, bar)  # cells are finished in order
                    self._finish(self.cells.skip(window))
                    bar.update(1)
                    continue
                waiting.append(window)
                if len(waiting) >= self.batch:
                    self._flush(waiting, bar)
            self._flush(waiting, bar)
        return self.writer.labels.to(self.home)[None]

    def _progress(self, total: int) -> tqdm:
        return tqdm(
            total=total, desc="windows", unit="window", disable=not self.settings.progress, leave=False, delay=5,
            mininterval=0.5 if sys.stderr.isatty() else 20, dynamic_ncols=True,
        )  # fmt: skip

    def _patch(self, window: Index) -> Tensor:
        starts = [axis.starts[w] - axis.starts[0] for axis, w in zip(self.grid.axes, window, strict=True)]
        place = [slice(s, s + axis.patch) for s, axis in zip(starts, self.grid.axes, strict=True)]
        return self.image[(slice(None), *place)]

    def _air(self) -> set[Index]:
        if self.settings.air is None:
            return set()
        return air_windows(self.image, self.grid.axes, self.settings.air)

    def _flush(self, windows: list[Index], bar: tqdm) -> None:
        while windows:
            some = windows[: self.batch]
            logits = self._predict(some)
            if logits is None:
                continue  # try again with a smaller batch or with more memory
            self._check(logits, len(some))
            for window, prediction in zip(some, logits.float(), strict=True):
                self._reserve(window, prediction)
                self._finish(self.cells.add(window, prediction, self.weights))
            del windows[: len(some)], logits, prediction  # otherwise they would occupy memory while the next are made
            if self.large:
                return_freed_memory(_KEPT)
            bar.update(len(some))

    def _check(self, logits: Any, windows: int) -> None:
        expected = (windows, self.settings.scheme.outputs, *self.weights.shape)
        if tuple(one_tensor(logits).shape) != expected:
            raise ValueError(
                f"the labels need logits of shape {expected} (windows, outputs, ...), but those of the network have "
                f"{tuple(logits.shape)}"
            )

    def _finish(self, cells: list[Index]) -> None:
        for index in cells:
            sums, weights = self.cells.take(index)
            self.writer.finish(index, sums, weights)
            self.cells.give_back(sums, weights)

    # --- when memory is too small ----------------------------------------------------------------------------------

    def _predict(self, windows: list[Index]) -> Tensor | None:
        try:
            return self.predictor(torch.stack([self._patch(w) for w in windows]).to(self.window_device))
        except torch.OutOfMemoryError as e:
            error = e
        torch.cuda.empty_cache()
        if len(windows) > 1:
            self.batch = 1
            logger.warning("The GPU's memory is too small for %d windows at a time; going on with one", len(windows))
        elif not self._leave_the_gpu():
            raise InputError(
                f"the GPU's memory is too small for one window of {times(self.weights.shape)} voxels; "
                "use --device cpu, or a network trained with a smaller patch_size"
            ) from error
        return None

    def _reserve(self, window: Index, logits: Tensor) -> None:
        try:
            self.cells.reserve(window, logits)
        except torch.OutOfMemoryError:
            if not self._leave_the_gpu():
                raise
            self.cells.reserve(window, logits)

    def _leave_the_gpu(self) -> bool:
        """Move the sums to the CPU, if they are not there."""
        if self.cells.device.type == "cpu":
            return False
        logger.warning("The GPU's memory is too small for the image's logits; they are kept in the computer's")
        self.cells.to(torch.device("cpu"))
        torch.cuda.empty_cache()
        return True


def _call(predictor: Callable[..., Tensor], args: tuple, kwargs: dict[str, Any], x: Tensor) -> Tensor:
    return predictor(x, *args, **kwargs)
