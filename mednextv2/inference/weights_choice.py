"""Which of a bundle's weights are used, and which post-processing belongs to them.

The rule, the first of which applies:

1. the files that the user gives (`--weights`);
2. the folds or the experiment that the user names (`--folds`, `--experiment`); in an evaluation, the weights of the
   fold whose cases are scored, if it was trained;
3. the bundle's own weights, `models/model.pt`, and for an ensemble also `models/model_1.pt` and so on: those with which
   it is published, or which :func:`mednextv2.weights.promotion.promote` made its own;
4. the weights of all folds that were trained in the bundle.

A training therefore changes no later prediction of a bundle that has weights of its own. In the place of each
`model.pt` may be a `model.safetensors`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from mednextv2.errors import InputError
from mednextv2.weights.locations import trained_folds, weights_file
from mednextv2.weights.promotion import OWN_POSTPROCESSING, own_weights
from mednextv2.weights.provenance import describe_weights

FINETUNED = "finetune"  # experiment of the workflow finetune: see recipes/finetune.yaml
UPKERN = "upkern"  # experiment of the two trainings of that name: see mednextv2.bundle.upkern
#: The post-processing that a cross-validation supports, beside the folders of its folds.
FOLDS_POSTPROCESSING = "folds_postprocessing.json"


def find_weights(
    bundle_root: str | os.PathLike,
    fold: int | str | None = None,
    folds: int | str | Sequence[int | str] | None = None,
    experiment: str = "",
) -> list[str]:
    """Return the files of weights that a bundle uses if the user gives none, by the rule of this module.

    Args:
        bundle_root: The bundle's folder.
        fold: The fold whose weights are used if it was trained; otherwise, the bundle's own are.
        folds: The folds whose weights are used, each of which must have been trained: a number, `all`, or several.
        experiment: The folder of a training within `models`; empty for trainings without one.

    Returns:
        One file, or several, which are an ensemble. If there are none at all, the file that a training would write or
        with which the bundle would be published; the message of :meth:`mednextv2.inference.FoldEnsemble.load` says what
        to do. Programs that bring weights of their own, such as MONAI Deploy, go on.

    Raises:
        InputError: If one of `folds` was not trained.
    """
    models = training_folder(bundle_root, experiment)
    if folds is not None:
        return _chosen_folds(models, [folds] if isinstance(folds, (int, str)) else list(folds))
    trained = trained_folds(models)
    found = [*trained.values()] if fold is None else [trained[str(fold)]] if str(fold) in trained else []
    if experiment and not found:
        return [str(models / ("fold_0" if fold is None else f"fold_{fold}") / "model.pt")]
    own = own_weights(bundle_root)
    files = found if experiment or fold is not None else own or found
    return [str(file) for file in files or own or [Path(bundle_root) / "models" / "model.pt"]]


def _chosen_folds(models: Path, folds: Sequence[int | str]) -> list[str]:
    files = [weights_file(models / f"fold_{number}") for number in folds]
    if missing := [str(number) for number, file in zip(folds, files, strict=True) if not file.is_file()]:
        raise InputError(
            f"folds {', '.join(missing)}: not trained in {models}; trained are {_trained(models) or 'none'}. "
            "Choose others with --folds, or train them first"
        )
    return [str(file) for file in files]


def training_folder(bundle_root: str | os.PathLike, experiment: str = "") -> Path:
    """Return the folder of a bundle that holds `fold_0` and further folds of a training.

    Args:
        bundle_root: The bundle's folder.
        experiment: The folder of the training within `models`. If it is empty, that is `models` itself, or else
            `finetune` or `upkern` in it, the first of them that holds folds.
    """
    models = Path(bundle_root) / "models"
    places = [models / name for name in ("", FINETUNED, UPKERN)]
    found = (place for place in places if trained_folds(place))
    return models / experiment if experiment else next(found, models)


def find_postprocessing(
    bundle_root: str | os.PathLike,
    weights: str | os.PathLike | Sequence[str | os.PathLike],
    experiment: str = "",
) -> str:
    """Return the file of the post-processing that belongs to weights; it need not exist.

    Args:
        bundle_root: The bundle's folder.
        weights: The files of weights that are used.
        experiment: The folder of a training within `models`; empty for trainings without one.

    Returns:
        For trained folds, `folds_postprocessing.json` beside their folders, which the cross-validation of
        `mednextv2 ensemble` writes; for the bundle's own weights and for files from elsewhere, without an experiment,
        `models/postprocessing.json`.
    """
    files = [Path(file) for file in ([weights] if isinstance(weights, (str, os.PathLike)) else weights)]
    parents = {file.absolute().parent for file in files}
    models = {folder.parent for folder in parents if folder.name.startswith("fold_")}
    if files and len(models) == 1 and all(folder.name.startswith("fold_") for folder in parents):
        return str(models.pop() / FOLDS_POSTPROCESSING)
    if experiment:
        return str(training_folder(bundle_root, experiment) / FOLDS_POSTPROCESSING)
    return str(Path(bundle_root) / "models" / OWN_POSTPROCESSING)


def check_trained(file: Path) -> None:
    """Raise an InputError if :func:`find_weights` found nothing, and a file is the one that should be there."""
    experiment = file.parent.parent
    if not file.is_file() and experiment.parent.name == "models" and file.parent.name.startswith("fold_"):
        trained = _trained(experiment)
        which = f"no fold {file.parent.name.removeprefix('fold_')}" if trained else "no fold"
        raise InputError(
            f"{experiment}: holds {which} of the experiment {experiment.name}; train it first with the workflow train, "
            "finetune or upkern and the same --network or --experiment, or give --weights"
        )
    models, root = file.parent, file.parent.parent
    if file.is_file() or (models.name, file.name) != ("models", "model.pt") or not (root / "configs").is_dir():
        return
    if trained := _trained(training_folder(root)):
        raise InputError(
            f"{root}: this fold has not been trained here, only fold {trained}. Choose a trained one with --fold, or "
            f"train this one: mednextv2 run {root} train --dataset_dir DATA --fold NUMBER"
        )
    raise InputError(
        f"{root}: this bundle has no trained weights yet. Train it: mednextv2 run {root} train --dataset_dir DATA "
        f"--fold 0 ({root / 'docs' / 'README.md'} says on which data), or give a file of weights with --weights"
    )


def _trained(models: Path) -> str:
    return ", ".join(trained_folds(models))


def describe_choice(files: Sequence[str | os.PathLike]) -> list[str]:
    """Say in one line each which weights are used, and in another which weights of the bundle are not.

    Args:
        files: The files of weights that are used.
    """
    lines = [f"weights: {describe_weights(file)}" for file in files]
    parents = {Path(file).absolute().parent for file in files}
    for models in sorted(parent for parent in parents if parent.name == "models"):
        own = [file.absolute() for file in own_weights(models.parent)] == [Path(file).absolute() for file in files]
        if own and (trained := _trained(training_folder(models.parent))):
            lines.append(
                f"these are the bundle's own weights; folds that were trained here ({trained}) are used with --folds "
                "(in the workflow evaluate: --fold), and become the bundle's own with mednextv2 promote "
                f"{models.parent}"
            )
    folds = [parent for parent in parents if parent.name.startswith("fold_")]
    for models in sorted({folder for fold in folds for folder in list(fold.parents)[:2] if folder.name == "models"}):
        if unused := own_weights(models.parent):
            lines.append(f"the bundle's own weights {unused[0]} are not used, since a fold was asked for")
    if any(fold.parent.name == "models" and trained_folds(fold.parent / FINETUNED) for fold in folds):
        lines.append(f"the fine-tuned weights are not used, since folds were also trained (--experiment {FINETUNED})")
    return lines
