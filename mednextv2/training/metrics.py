"""Scores shown while training."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from monai.handlers import MeanDice
from torch import Tensor


def class_dice(labels: Sequence[str], prefix: str = "val_dice_") -> dict[str, MeanDice]:
    """Return one Dice metric a foreground class, for an evaluator's `additional_metrics`.

    Args:
        labels: Class names, the background first.
        prefix: Of the metrics' names.
    """
    return {
        f"{prefix}{name}": MeanDice(include_background=True, output_transform=_channel(i))
        for i, name in enumerate(labels)
        if i > 0
    }


def _channel(index: int) -> Callable:
    return partial(_take_channel, index=index)


def _take_channel(output: Sequence[dict[str, Tensor]], index: int) -> tuple[list[Tensor], list[Tensor]]:
    return [o["pred"][index : index + 1] for o in output], [o["label"][index : index + 1] for o in output]


def full_resolution(outputs: Any) -> Any:
    """Return the first of deep supervision's outputs, or the only output. For MONAI's `Lambdad`."""
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs
