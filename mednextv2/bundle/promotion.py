"""Making the result of a training the weights of its bundle."""

import os
from collections.abc import Sequence
from pathlib import Path

from mednextv2.bundle.run import find_bundle, read_workflow, workflow_files
from mednextv2.errors import InputError, UsageError
from mednextv2.inference.weights_choice import find_postprocessing, find_weights, training_folder
from mednextv2.paths import expand
from mednextv2.weights.loading import load_weights
from mednextv2.weights.locations import trained_folds
from mednextv2.weights.promotion import promote
from mednextv2.weights.provenance import check_labels


def promote_training(
    bundle: str | os.PathLike,
    folds: int | str | Sequence[int | str] | None = None,
    experiment: str = "",
    weights: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
) -> tuple[list[Path], Path | None]:
    """Make trained weights a bundle's own, which are used and published from then on.

    The post-processing that a cross-validation chose for trained folds becomes the bundle's own with them.

    Args:
        bundle: The path or name of the bundle: see :func:`mednextv2.bundle.run.find_bundle`.
        folds: The folds whose weights are taken; by default, all that were trained. Several are an ensemble.
        experiment: The experiment whose folds they are; empty for trainings without one.
        weights: Files of weights in place of trained folds.

    Returns:
        As of :func:`mednextv2.weights.promotion.promote`.

    Raises:
        InputError: If nothing was trained, or the weights do not fit the bundle exactly; then nothing is changed.
    """
    root = find_bundle(bundle)
    workflow_files(root, "inference")  # a bundle that segments nothing has none, and says so
    if weights is not None and (folds is not None or experiment):
        raise UsageError("--weights: gives the files themselves, so leave out --folds and --experiment")
    files = _given(weights) if weights is not None else _trained(root, folds, experiment)
    _check_fit(root, files)
    chosen = Path(find_postprocessing(root, files, experiment)) if weights is None else None
    return promote(root, files, chosen if chosen is not None and chosen.is_file() else None)


def _given(weights: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    several = [weights] if isinstance(weights, (str, os.PathLike)) else list(weights)
    return [str(expand(file)) for file in several]


def _trained(root: Path, folds: int | str | Sequence[int | str] | None, experiment: str) -> list[str]:
    models = training_folder(root, experiment)
    there = [*trained_folds(models)]
    if folds is None and not there:
        raise InputError(
            f"{models}: no fold was trained here; train one first: mednextv2 run {root} train --dataset_dir DATA "
            "--fold 0, or give files with --weights"
        )
    return find_weights(
        root, folds=there if folds is None else folds, experiment=models.name * (models.name != "models")
    )


def _check_fit(root: Path, files: Sequence[str]) -> None:
    """Raise an InputError if weights do not fit the network or the labels of the bundle's files exactly."""
    parser = read_workflow(workflow_files(root, "inference"))
    parser.update({"bundle_root": root})
    network = parser.get_parsed_content("network_def")
    check_labels(files, parser.get_parsed_content("scheme").legend)
    for file in files:
        try:
            load_weights(network, file)
        except InputError as e:
            if "of another network" not in str(e):
                raise
            raise InputError(
                f"{str(e).rstrip('.')}. A bundle's own weights must fit its files: if these are the right ones, "
                f"describe their network in {root / 'task.yaml'} and build the bundle again (mednextv2 bundle "
                f"{root / 'task.yaml'})"
            ) from e
