"""The optimizer, and its learning rate: linear warm-up, of new layers and of all, then polynomial decay."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

OPTIMIZERS = ("adamw", "sgd")


def create_optimizer(
    name: str,
    params: Iterable[nn.Parameter] | Iterable[Mapping[str, Any]],
    learning_rate: float,
    weight_decay: float = 3e-5,
) -> Optimizer:
    """Create the optimizer of MedNeXt or that of nnU-Net.

    Args:
        name: `adamw`: AdamW with eps 1e-4, since 1e-8 may give NaN in half precision; MedNeXt's learning rate is 1e-3.
            `sgd`: Nesterov momentum 0.99; nnU-Net's learning rate is 1e-2.
        params: The network's parameters, or groups of them with learning rates of their own.
        learning_rate: The learning rate at its peak.
        weight_decay: The weight decay; both use 3e-5.

    Raises:
        ValueError: If the name is another one.

    Source:
        The MedNeXt authors' trainer; nnU-Net (Isensee et al. 2021, Nature Methods, online methods).
    """
    given: Any = list(params)
    if name == "adamw":
        return AdamW(given, lr=learning_rate, weight_decay=weight_decay, eps=1e-4, fused=True)
    if name == "sgd":
        return SGD(given, lr=learning_rate, weight_decay=weight_decay, momentum=0.99, nesterov=True, fused=True)
    raise ValueError(f"optimizer {name!r} is none of {', '.join(OPTIMIZERS)}")


def warmup_poly(
    optimizer: Optimizer, epochs: int, warmup_epochs: int = 0, power: float = 0.9, new_layers_epochs: int = 0
) -> LambdaLR:
    """Schedule `lr * (1 - t) ** power`, with `t` from 0 to 1 over the epochs after the warm-up.

    In warm-up epoch `i` of `w` the factor is `(i + 1) / (w + 1)`. A warm-up of new layers, in which others are not
    trained, comes before: its factor grows likewise, and the warm-up of all layers then begins anew. Step it once an
    epoch.

    Args:
        optimizer: The optimizer, whose learning rate is the peak.
        epochs: Number of epochs of the whole training.
        warmup_epochs: Number of epochs at the start in which the learning rate grows linearly.
        power: The exponent of the decay.
        new_layers_epochs: Number of epochs before, in which only new layers are trained: see
            :class:`mednextv2.training.NewLayersFirst`.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods): power 0.9, once an epoch. Two warm-ups, of the
        new part and of all: Wald et al. 2025 (arXiv:2410.23132), and the schedule Sawtooth of OpenMind
        (arXiv:2412.17041).
    """
    first = min(new_layers_epochs, epochs - 1)
    warmup = min(warmup_epochs, epochs - 1 - first)
    return LambdaLR(optimizer, partial(_factor, epochs=epochs, first=first, warmup=warmup, power=power))


def _factor(epoch: int, epochs: int, first: int, warmup: int, power: float) -> float:
    if epoch < first:
        return (epoch + 1) / (first + 1)
    epoch, epochs = epoch - first, epochs - first
    if epoch < warmup:
        return (epoch + 1) / (warmup + 1)
    return max(0.0, 1 - (epoch - warmup) / (epochs - warmup)) ** power
