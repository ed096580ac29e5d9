"""The result of a training on given cases as the bundle's weights: only if it is better, and the old ones are kept."""

import copy
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from torch import Tensor, nn

from mednextv2.distributed import is_main_process, process_rank
from mednextv2.errors import InputError
from mednextv2.locks import release_folder
from mednextv2.paths import expand
from mednextv2.training.checkpoint_content import LATEST_NAME, PREVIOUS_NAME
from mednextv2.weights.files import load_file, save_file, unwrap_state
from mednextv2.weights.loading import load_weights
from mednextv2.weights.promotion import promote
from mednextv2.weights.provenance import PRETRAINED, check_labels, origin, read_about

logger = logging.getLogger(__name__)


def check_served(
    served: str | os.PathLike | None, network: nn.Module, labels: Sequence[str] | None = None
) -> Path | None:
    """Check that the weights a training may replace fit the network, before cases are prepared for the training.

    MONAI Label loads what fits of a file of weights, and leaves the rest of the network random.

    Args:
        served: The file of weights; None if the training replaces none.
        network: The network; it stays as it is.
        labels: The meaning of its outputs.

    Returns:
        The file if it exists.

    Raises:
        InputError: If the file is damaged or unsafe, or is of another network or other labels.
    """
    if served is None or not expand(served).is_file():
        return None
    check_labels([served], labels)
    load_weights(copy.deepcopy(network), served)
    return expand(served)


class Replacement:
    """When a training on given cases ends, make its best weights the bundle's, if they are better than those.

    Old and new weights are compared by the mean Dice over the same random patches of the validation cases. The weights
    that are replaced stay in `models/replaced_<date>_<time>`: see :func:`mednextv2.weights.promotion.promote`.

    Args:
        served: The bundle's weights, `models/model.pt`; they need not exist. None: nothing is done, as in a training on
            a data set's folder.
        output_dir: The folder of the training, with its best weights `model.pt`.
        network: The network, also when wrapped in DistributedDataParallel.
        evaluator: An evaluator of the network on patches, whose metric is a :class:`mednextv2.training.PseudoDice`.
        bundle_root: The bundle's folder.
        seed: The seed of the patches.
    """

    def __init__(
        self,
        served: str | os.PathLike | None,
        output_dir: str | os.PathLike,
        network: nn.Module,
        evaluator: SupervisedEvaluator,
        bundle_root: str | os.PathLike = ".",
        seed: int | None = 0,
    ) -> None:
        self.served = None if served is None else expand(served)
        self.folder, self.bundle_root = expand(output_dir), bundle_root
        self.network = getattr(network, "module", network)
        self.evaluator, self.seed = evaluator, seed or 0
        self._start: Path | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after :class:`mednextv2.training.TrainingCheckpoint`."""
        if self.served is not None:
            engine.add_event_handler(Events.STARTED, self._look_at_start)
            engine.add_event_handler(Events.COMPLETED, self._replace)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self._release)

    def _look_at_start(self, engine: Engine) -> None:
        assert self.served is not None
        self._start = _find_equal(self.network.state_dict(), sorted(self.served.parent.glob("*.pt")))
        logger.info("The training starts from %s", self._start or "new weights, or from some that no file here has")

    def _release(self, engine: Engine, error: BaseException) -> None:
        release_folder(self.folder)  # a server goes on after a training that failed
        raise error

    def _replace(self, engine: Engine) -> None:
        assert self.served is not None
        best = self.folder / "model.pt"
        there = self.served.is_file()
        old = self._score(self.served) if there else math.nan
        new = self._score(best)
        if not is_main_process():
            return
        release_folder(self.folder)  # a server may train again in another process, and go on itself
        for name in (LATEST_NAME, PREVIOUS_NAME):  # nothing resumes a training on given cases
            (self.folder / name).unlink(missing_ok=True)
        if there and not new > old:  # also if one of them is NaN, since no patch has a structure
            logger.warning(
                "The weights stay as they are, since those of this training are not better: their mean Dice on patches "
                "of the validation cases is %.4f, that of %s is %.4f. The new ones are in %s",
                new, self.served, old, best,
            )  # fmt: skip
            return
        if self._start is not None:
            save_file(load_file(best), best, {**read_about(best), PRETRAINED: origin(self._start)})
        _, kept = promote(self.bundle_root, [best])
        best.unlink()
        before = f", that of the weights before {old:.4f}; these are now in {kept}" if there else ""
        logger.info(
            "The weights of this training are now %s: their mean Dice on patches of the validation cases is %.4f%s",
            self.served, new, before,
        )  # fmt: skip

    def _score(self, weights: Path) -> float:
        """Return the mean Dice of weights over patches that depend on the seed alone."""
        load_weights(self.network, weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 10_000 * process_rank())
            self.evaluator.run()
        return float(self.evaluator.state.metrics["val_mean_dice"])


def _find_equal(state: Mapping[str, Tensor], files: Sequence[Path]) -> Path | None:
    """Return the first of several files whose weights are those of a network, or None."""
    for file in files:
        try:
            found = unwrap_state(load_file(file))
        except InputError:
            continue
        same = isinstance(found, dict) and found.keys() == state.keys()
        if same and all(torch.equal(value.cpu(), found[name]) for name, value in state.items()):
            return file
    return None
