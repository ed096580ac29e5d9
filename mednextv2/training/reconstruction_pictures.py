"""Pictures of reconstructions: the image, what the network saw, and what it made of it."""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from mednextv2.data.image_patches import FixedPatches, ImagePatches
from mednextv2.distributed import is_main_process
from mednextv2.errors import InputError
from mednextv2.images.png import encode_png
from mednextv2.nets.visible_cells import visible_positions
from mednextv2.paths import expand, prepare_folder, writing
from mednextv2.text_files import read_json
from mednextv2.training.autoencoding import errors, hidden_sums
from mednextv2.training.curves import CurveWriter
from mednextv2.training.masking import BlockMasks

logger = logging.getLogger(__name__)

#: The folder of the pictures in that of the results, and the list of them in it.
PICTURES_NAME, LIST_NAME = "pictures", "pictures.json"
#: The columns of a picture, from left to right, and its rows, from the top, with the axis that each of them cuts.
COLUMNS = ("image", "visible part", "visible part and reconstruction", "reconstruction alone")
ROWS = (("axial", 2), ("coronal", 1), ("sagittal", 0))
_WINDOW = (0.5, 99.5)  # percentiles that become black and white
_GAP = 4  # pixels between panels
_LEAST = 160  # pixels along the longer side of a panel


def draw_reconstruction(image: np.ndarray, visible: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Draw a patch: a row for each plane through its middle, and the four columns of :data:`COLUMNS`.

    Hidden cells are black. All columns have the window of the image.

    Args:
        image: Intensities, `(X, Y, Z)`, in the order right, anterior, superior.
        visible: Which voxels the network saw, bool, `(X, Y, Z)`.
        reconstruction: The output of the network, `(X, Y, Z)`.

    Returns:
        Grey values, `(rows, columns)`, uint8. The patient's left is on the right-hand side.
    """
    low, high = np.percentile(image, _WINDOW)
    scale = 255 / max(high - low, 1e-6)
    grey, made = (np.clip((part - low) * scale, 0, 255).astype(np.uint8) for part in (image, reconstruction))
    volumes = (grey, np.where(visible, grey, 0), np.where(visible, grey, made), made)
    repeat = max(1, -(-_LEAST // max(image.shape)))
    rows = [[_panel(volume, axis, repeat) for volume in volumes] for _, axis in ROWS]
    width = max(panel.shape[1] for row in rows for panel in row) + _GAP
    padded = [
        np.hstack([np.pad(p, ((0, _GAP), (0, width - p.shape[1])), constant_values=255) for p in row]) for row in rows
    ]
    return np.vstack(padded)[:-_GAP, :-_GAP]


def _panel(volume: np.ndarray, axis: int, repeat: int) -> np.ndarray:
    plane = np.take(volume, volume.shape[axis] // 2, axis=axis).T[::-1]  # superior, or anterior, is at the top
    plane = plane if axis == 0 else plane[:, ::-1]
    return plane.repeat(repeat, 0).repeat(repeat, 1)


class PictureList:
    """The pictures in a folder of results: files and a list of them, which `mednextv2 report` shows.

    Args:
        output_dir: The folder of the results.
        title: The title of the report.
    """

    def __init__(self, output_dir: str | os.PathLike, title: str) -> None:
        self.folder = expand(output_dir) / PICTURES_NAME
        self.title = title

    def add(self, name: str, grey: np.ndarray, entry: Mapping[str, Any], kept: Sequence[Mapping[str, Any]]) -> bytes:
        """Write a picture, and the list with its entry after others.

        Args:
            name: The name of its file without ending.
            grey: The grey values.
            entry: What the list says about it: `case`, `error`, `explained`, and in a training the `epoch`.
            kept: The entries before it.

        Returns:
            The PNG.
        """
        prepare_folder(self.folder, "output_dir")
        png = encode_png(grey)
        with writing(self.folder / f"{name}.png") as temporary:
            temporary.write_bytes(png)
        content = {"title": self.title, "pictures": [*kept, {**entry, "file": f"{name}.png"}]}
        with writing(self.folder / LIST_NAME) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return png

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries of the list; those of no list, or of a damaged one, are none."""
        try:
            content = read_json(self.folder / LIST_NAME)
        except InputError:
            return []
        found = content.get("pictures") if isinstance(content, dict) else None
        return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def file_name(case: str) -> str:
    """Return a case's name as a part of a file name."""
    return re.sub(r"[^\w.-]", "_", case)


class ReconstructionPictures:
    """Draw the first patches of the validation after some epochs, into files and for TensorBoard.

    Args:
        output_dir: The folder of the results.
        network: The autoencoder, also when wrapped in DistributedDataParallel.
        dataset: The patches of the validation.
        sampler: The keys of these patches.
        masks: Draws their masks.
        device: The device of the network.
        interval: Epochs from one drawing to the next; the last epoch is drawn, too. 0: nothing is drawn.
        number: Number of patches.
        title: The title of the report.
        curves: The writer for TensorBoard, or None.
        amp: Whether the network runs under autocast.
        amp_kwargs: The arguments of autocast.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        network: nn.Module,
        dataset: ImagePatches,
        sampler: FixedPatches,
        masks: BlockMasks,
        device: torch.device | str,
        interval: int = 10,
        number: int = 3,
        title: str = "",
        curves: CurveWriter | None = None,
        amp: bool = False,
        amp_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.list = PictureList(output_dir, title)
        self.network = getattr(network, "module", network)
        self.dataset, self.keys, self.masks = dataset, sampler.keys[:number], masks
        self.device, self.interval, self.curves = torch.device(device), interval, curves
        self.autocast = {"enabled": amp, **(amp_kwargs or {})}
        self._before: int | None = None  # the last epoch of an earlier run that this one continues

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if self.interval and is_main_process():
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._draw)

    def _draw(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if self._before is None:
            self._before = epoch - 1
            self._kept = [entry for entry in self.list.entries() if entry.get("epoch", 0) <= self._before]
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        for key in self.keys:
            item = self.dataset[key]
            image, visible = item["image"][None], self.masks.validation([item["number"]])
            made = self._reconstruct(image, visible)
            error, explained = errors(hidden_sums(made, image, visible)[0])
            shown = visible_positions(visible, image.shape[2:])[0]
            grey = draw_reconstruction(image[0, 0].numpy(), shown.numpy(), made[0, 0].numpy())
            name = f"{file_name(item['case'])}_patch_{item['number']}"
            entry = {"epoch": epoch, "case": item["case"], "error": error, "explained": explained}
            png = self.list.add(f"epoch_{epoch:04d}_{name}", grey, entry, self._kept)
            self._kept = self.list.entries()
            if self.curves is not None:
                self.curves.add_image(f"reconstruction/{name}", png, grey.shape, epoch)

    def _reconstruct(self, image: Tensor, visible: Tensor) -> Tensor:
        training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad(), torch.autocast(self.device.type, **self.autocast):
                return self.network(image.to(self.device), visible.to(self.device)).float().cpu()
        finally:
            self.network.train(training)


def pictures_of(folder: str | os.PathLike) -> Path:
    """Return where the list of pictures is in a folder of results."""
    return expand(folder) / PICTURES_NAME / LIST_NAME
