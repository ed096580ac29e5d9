"""The verb `promote`: make a training's result the bundle's own weights."""

from collections.abc import Sequence
from typing import Any


def promote(
    bundle: str,
    folds: Any = None,
    experiment: str = "",
    weights: str | Sequence[str] | None = None,
) -> None:
    """Make the weights of a training the bundle's own, which are used and published from then on.

    Without this command, a training changes nothing about a bundle that has weights of its own: predict and inference
    go on using models/model.pt. The weights from before are kept in models/replaced_DATE_TIME.

    Args:
        bundle: The folder or the name of the bundle.
        folds: The folds whose weights are taken, such as 0 or 0,1,2. By default, all that were trained. Several are
            used together, as an ensemble: models/model.pt, models/model_1.pt and so on.
        experiment: The experiment whose folds they are, such as finetune. It is the name of a folder in models. By
            default, the folds are directly in models.
        weights: A file of weights in place of trained folds, or several, as a.pt,b.pt.

    Examples:
        mednextv2 promote bundles/mednextv2_liver --folds 0
        mednextv2 promote mednextv2_hippocampus --weights better.pt
    """
    from mednextv2.bundle.promotion import promote_training

    now, kept = promote_training(bundle, folds, experiment, weights)
    print("The bundle's own weights are now: " + ", ".join(map(str, now)))
    if kept is not None:
        print(f"Those from before are kept in {kept}")
