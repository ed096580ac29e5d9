"""The table of an evaluation of an autoencoder, and which weights it evaluates."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets.visible_cells import visible_positions
from mednextv2.paths import expand
from mednextv2.scores.csv_tables import write_csv
from mednextv2.training.autoencoding import errors, hidden_sums
from mednextv2.training.checkpoint_content import LATEST_NAME
from mednextv2.training.reconstruction_pictures import PictureList, draw_reconstruction, file_name
from mednextv2.weights.files import load_file, unwrap_state
from mednextv2.weights.loading import load_weights
from mednextv2.weights.provenance import read_about

logger = logging.getLogger(__name__)

#: The name of the table.
TABLE_NAME = "cases.csv"
_WEIGHTS_NAME = "model.pt"


class ReconstructionTable:
    """Write one row for each image to `cases.csv`, a line with the mean to the log, and draw some images.

    The columns are `case`, `patches`, `mean_squared_error` and `explained`: see
    :func:`mednextv2.training.autoencoding.errors`.

    Args:
        output_dir: The folder of the results.
        pictures: The number of images of which the first patch is drawn.
        title: The title of the report.
    """

    def __init__(self, output_dir: str | os.PathLike, pictures: int = 6, title: str = "") -> None:
        self.file = expand(output_dir) / TABLE_NAME
        self.pictures, self.list = pictures, PictureList(output_dir, title)
        self._sums: dict[str, list[np.ndarray]] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _add(self, engine: Engine) -> None:
        output: Any = engine.state.output
        made, (image, visible) = output["pred"].float(), output["label"]
        sums = hidden_sums(made, image, visible).cpu().numpy()
        batch: Any = engine.state.batch
        for index, case in enumerate(batch["case"]):
            if case not in self._sums and len(self._sums) < self.pictures:
                shown = visible_positions(visible[index : index + 1], image.shape[2:])[0]
                parts = [part.cpu().numpy() for part in (image[index, 0], shown, made[index, 0])]
                error, explained = errors(sums[index])
                entry = {"case": case, "error": error, "explained": explained}
                kept = self.list.entries() if self._sums else []
                self.list.add(file_name(case), draw_reconstruction(*parts), entry, kept)
            self._sums.setdefault(case, []).append(sums[index])

    def _write(self, engine: Engine) -> None:
        rows = []
        for case, sums in sorted(self._sums.items()):
            error, explained = errors(np.sum(sums, axis=0))
            rows.append(
                {"case": case, "patches": len(sums), "mean_squared_error": error, "explained": explained},
            )
        write_csv(self.file, rows)
        means = [np.nanmean([row[name] for row in rows]) for name in ("mean_squared_error", "explained")]
        logger.info(
            "%d images: mean squared error of hidden voxels %.4f, explained part of their variance %.4f", len(rows),
            *means,
        )  # fmt: skip


def find_autoencoder(bundle_root: str | os.PathLike, experiment: str = "") -> str:
    """Return the file of weights that an evaluation takes if the user gives none.

    Args:
        bundle_root: The bundle's folder.
        experiment: The folder of the training within `models`; empty for a training without one.

    Returns:
        `model.pt` of the training; or, if it records that more than the ordinary network was trained (another form than
        `dense`), `checkpoint_latest.pt` beside it, which contains the rest.
    """
    folder = Path(bundle_root) / "models" / experiment
    settings = read_about(folder / _WEIGHTS_NAME).get("settings")
    dense = not isinstance(settings, dict) or settings.get("form", "dense") == "dense"
    latest = folder / LATEST_NAME
    return str(folder / _WEIGHTS_NAME if dense or not latest.is_file() else latest)


def load_autoencoder(network: nn.Module, part: nn.Module, path: str | os.PathLike, form: str = "dense") -> None:
    """Load the weights of an autoencoder.

    Args:
        network: The whole autoencoder, to which checkpoints belong.
        part: The ordinary network in it, to which a `model.pt` belongs.
        path: The file.
        form: The form of the autoencoder. Those that have weights besides the ordinary network need a checkpoint.

    Raises:
        InputError: If the file is missing, damaged, or of another network.
    """
    file = expand(path)
    if not file.is_file():
        raise InputError(
            f"weights {file}: there is no such file; train the bundle first with the workflow train, or give weights "
            "with --weights"
        )
    about = read_about(file)
    if about.get("labels") and "objective" not in about:
        raise InputError(
            f"weights {file}: are of a segmentation ({', '.join(map(str, about['labels']))[:200]}), not of a masked "
            "autoencoder; give weights that this bundle was trained to"
        )
    state = unwrap_state(load_file(file))
    prefix = next((f"{name}." for name, module in network.named_modules() if module is part), "")
    whole = isinstance(state, dict) and any(str(name).startswith(prefix) for name in state)
    if not whole and len(network.state_dict()) > len(part.state_dict()):
        raise InputError(
            f"weights {file}: holds only the ordinary network, but an autoencoder of the form {form} has more weights; "
            f"give the {LATEST_NAME} of its training, or evaluate the network alone with --form dense"
        )
    load_weights(network if whole else part, file)
    logger.info("Evaluating %s", file)
